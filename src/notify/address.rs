//! Which addresses may be called: none of private networks, of this machine, or of a cloud's own services, however it is
//! spelt or wrapped; and the resolver that lets a connection go to no other address than those that were looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Addresses of one name that are looked at; a name with more is refused.
const ADDRESSES_MAX: usize = 64;

/// Why an endpoint is not called.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the address {0} is of a private network or of this machine, which needs allow_private = true")]
    Private(IpAddr),
    #[error("the name has no address, or too many")]
    Unresolved,
    #[error("the name cannot be resolved")]
    Lookup(#[source] std::io::Error),
    #[error("the URL names no host")]
    NoHost,
}

/// Networks of version 4 that are no part of the public internet, or that a cloud answers on itself: network, bits.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Azure's own services, metadata among them.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

/// Parts of 2000::/3, outside of which nothing is public, that are not public either.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 3] = [
    // Protocols of the IETF, Teredo among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is one of the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match wrapped(address) {
            Some(inside) => is_public_v4(inside),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let starts = |network: Ipv4Addr, bits: u32| (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits;
    !NOT_PUBLIC_V4.iter().any(|(network, bits)| starts(*network, *bits))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let starts = |network: Ipv6Addr, bits: u32| (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits;
    let global = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
    starts(global, 3) && !NOT_PUBLIC_V6.iter().any(|(network, bits)| starts(*network, *bits))
}

/// The address of version 4 that one of version 6 leads to: mapped, of the common NAT64 prefix, or 6to4.
fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |[.., a, b]: [u16; 8]| Ipv4Addr::from_bits((u32::from(a) << 16) | u32::from(b));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last(address.segments())),
        [0x2002, a, b, ..] => Some(Ipv4Addr::from_bits((u32::from(a) << 16) | u32::from(b))),
        _ => None,
    }
}

/// The address that a URL names itself. The parser of URLs has brought every spelling of one into the usual form.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Refuses an address unless it may be called.
pub(super) fn check(address: IpAddr, allow_private: bool) -> Result<(), Refused> {
    if allow_private || is_public(address) { Ok(()) } else { Err(Refused::Private(address)) }
}

/// Every address of a name. One that may not be called spoils them all: a name that leads inside as well is a trap.
pub(super) async fn resolve(host: &str, allow_private: bool) -> Result<Vec<SocketAddr>, Refused> {
    let found = tokio::net::lookup_host((host, 0)).await.map_err(Refused::Lookup)?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX + 1).collect();
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        return Err(Refused::Unresolved);
    }
    addresses.iter().try_for_each(|address| check(address.ip(), allow_private))?;
    Ok(addresses)
}

/// The addresses that a URL leads to, which may all be called.
pub(super) async fn of_url(url: &Url, allow_private: bool) -> Result<Vec<IpAddr>, Refused> {
    if let Some(address) = literal(url) {
        return check(address, allow_private).map(|()| vec![address]);
    }
    let host = url.host_str().ok_or(Refused::NoHost)?;
    Ok(resolve(host, allow_private).await?.into_iter().map(|address| address.ip()).collect())
}

/// Resolves a name for a connection, which then goes to the very addresses that were looked at.
pub(super) struct Resolver {
    pub(super) allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let addresses = resolve(name.as_str(), allow_private).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a URL with this host leads to, without asking anybody.
    fn allowed(host: &str) -> Option<bool> {
        let url = Url::parse(&format!("http://{host}/x")).unwrap();
        literal(&url).map(|address| check(address, false).is_ok())
    }

    #[test]
    fn public_addresses_are_called() {
        for host in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.255.255",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "192.167.0.1",
            "223.255.255.255",
            "134744072",
            "[2606:4700::1111]",
            "[2a00:1450:4001:80b::200e]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::8.8.8.8]",
            "[2002:808:808::1]",
        ] {
            assert_eq!(allowed(host), Some(true), "{host}");
        }
    }

    #[test]
    fn no_private_address_is_called_however_it_is_spelt() {
        for host in [
            "0.0.0.0",
            "0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "0xa9fea9fe",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::8.8.8.8]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:7f00:1::]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[2001:db8::1]",
        ] {
            assert_eq!(allowed(host), Some(false), "{host}");
            let url = Url::parse(&format!("http://{host}/x")).unwrap();
            assert!(check(literal(&url).unwrap(), true).is_ok(), "{host}: where it is allowed");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_too() {
        assert_eq!(allowed("localhost"), None);
        let url = Url::parse("https://localhost/x").unwrap();
        assert!(matches!(of_url(&url, false).await, Err(Refused::Private(_))));
        assert!(of_url(&url, true).await.unwrap().iter().all(IpAddr::is_loopback));
    }
}
