//! `[admin]`: the private listener.

use std::net::SocketAddr;

use super::reader::Reader;

/// `[admin]`: the private listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// A loopback address, unless `insecure`.
    pub listen: SocketAddr,
    pub insecure: bool,
}

pub(super) fn read(reader: &mut Reader) -> AdminConfig {
    let admin = AdminConfig { listen: reader.take("admin.listen"), insecure: reader.take("admin.insecure") };
    if !admin.listen.ip().is_loopback() && !admin.insecure {
        reader
            .blame("admin.listen", "is not encrypted, so it must be a loopback address, or set admin.insecure = true");
    }
    admin
}
