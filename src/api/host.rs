//! Under which names the private listener may be called: a foreign page that has its own name lead here gets nothing.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header, uri};

use crate::http::Problem;

pub(super) const FOREIGN: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "this request comes from another site, or names a host that is not this listener's",
);

/// The hosts that a request may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Loopback addresses and `localhost`.
    Loopback,
    /// Any address, too: whoever rebinds needs a name. For a listener that other machines reach.
    AnyAddress,
}

impl Hosts {
    /// Whether a `Host` is one of these; its port does not matter.
    pub(super) fn allow(self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            Ok(ip) => self == Self::AnyAddress || ip.is_loopback(),
            Err(_name) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// The host that a request names: by its header, or over HTTP/2 by its authority.
pub(super) fn named(request: &Request) -> Option<&str> {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    header.or_else(|| request.uri().authority().map(uri::Authority::as_str))
}

/// Refuses what names another host.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if named(&request).is_some_and(|host| hosts.allow(host)) {
        next.run(request).await
    } else {
        FOREIGN.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_the_listeners_own() {
        for own in ["localhost", "LocalHost:8081", "127.0.0.1:8081", "127.1.2.3", "[::1]:8081", "[::1]"] {
            assert!(Hosts::Loopback.allow(own) && Hosts::AnyAddress.allow(own), "{own}");
        }
        for name in ["", "evil.example:8081", "127.0.0.1.evil.example", "localhost.evil.example", "soloist", "[evil]:1"]
        {
            assert!(!Hosts::Loopback.allow(name) && !Hosts::AnyAddress.allow(name), "{name}");
        }
    }

    #[test]
    fn a_listener_for_other_machines_may_be_called_by_any_address() {
        for address in ["10.0.0.7:8081", "192.0.2.1", "[2001:db8::1]:8081", "0.0.0.0:8081"] {
            assert!(Hosts::AnyAddress.allow(address), "{address}");
            assert!(!Hosts::Loopback.allow(address), "{address}");
        }
    }
}
