//! The devices, places and addresses that sessions are made of. All plausible, none real.

use rand::{Rng, RngExt, seq::IndexedRandom};

/// A kind of device, in the words of a listing's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) browser: &'static str,
    pub(super) device: &'static str,
    pub(super) os: &'static str,
    pub(super) device_type: &'static str,
}

const fn device(
    name: &'static str,
    browser: &'static str,
    device: &'static str,
    os: &'static str,
    device_type: &'static str,
) -> Device {
    Device { name, browser, device, os, device_type }
}

const DEVICES: [Device; 8] = [
    device("phone", "Safari", "iPhone", "iOS", "Mobile"),
    device("android", "Chrome", "Pixel", "Android", "Mobile"),
    device("tablet", "Safari", "iPad", "iPadOS", "Tablet"),
    device("laptop", "Chrome", "", "macOS", "Desktop"),
    device("desktop", "Edge", "PC", "Windows", "Computer"),
    device("linux", "Firefox", "PC", "Linux", "PC"),
    device("tv", "TV Browser", "Smart TV", "Tizen", "TV"),
    device("console", "Console Browser", "Game Console", "Console OS", "Console"),
];

/// City and country. The vendor says `unknown` when it does not know.
const PLACES: [(&str, &str); 6] = [
    ("Berlin", "Germany"),
    ("Hyderabad", "India"),
    ("Vancouver", "Canada"),
    ("Lyon", "France"),
    ("Osaka", "Japan"),
    ("unknown", "unknown"),
];

/// The names that `device` may have in a login.
pub fn device_names() -> impl Iterator<Item = &'static str> {
    DEVICES.iter().map(|device| device.name)
}

/// The device of that name, or any device for `None`. `None` for a name that is not known.
pub(super) fn pick(name: Option<&str>, rng: &mut impl Rng) -> Option<Device> {
    match name {
        None | Some("" | "random") => DEVICES.choose(rng).copied(),
        Some(name) => DEVICES.iter().find(|device| device.name.eq_ignore_ascii_case(name)).copied(),
    }
}

/// Any place.
pub(super) fn place(rng: &mut impl Rng) -> (&'static str, &'static str) {
    PLACES.choose(rng).copied().unwrap_or(("unknown", "unknown"))
}

/// An address of the three networks that are reserved for documentation.
pub(super) fn ip(rng: &mut impl Rng) -> String {
    let network = ["192.0.2", "198.51.100", "203.0.113"].choose(rng).copied().unwrap_or("192.0.2");
    format!("{network}.{}", rng.random_range(1..=254_u8))
}
