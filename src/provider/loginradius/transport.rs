//! HTTP beneath the LoginRadius client: base URL, connection pool, bounded bodies, errors without URLs.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::anyhow;
use http::{HeaderMap, StatusCode};
use reqwest::{Certificate, Client, RequestBuilder, Response, Url, redirect, retry};

use super::answer::Call;
use crate::provider::ProviderError;

/// Where a tenant's API is, for example `https://api.loginradius.com`, a custom API domain, or a sandbox.
///
/// Credentials and tokens travel to it, so it is `https`, or `http` on this very machine. A path before the vendor's
/// own is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiUrl(Url);

/// What is wrong with an `api_url`. The text does not repeat it: somebody may have put a password in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must {0}")]
pub struct BadApiUrl(&'static str);

impl ApiUrl {
    /// The vendor's host for all tenants without a domain of their own.
    pub const DEFAULT: &str = "https://api.loginradius.com";

    pub fn parse(raw: &str) -> Result<Self, BadApiUrl> {
        let Ok(url) = Url::parse(raw.trim()) else {
            return Err(BadApiUrl("be a URL such as https://api.loginradius.com"));
        };
        if url.host_str().is_none_or(str::is_empty) || !matches!(url.scheme(), "https" | "http") {
            return Err(BadApiUrl("be a URL such as https://api.loginradius.com"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(BadApiUrl("have no user, password, query or fragment"));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(BadApiUrl("use https; http is for loopback hosts only"));
        }
        Ok(Self(url))
    }

    pub(super) fn join(&self, path: &[&str]) -> Url {
        let mut url = self.0.clone();
        // Only a URL without a host refuses path segments, and `parse` lets none through.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Idle connections kept for a burst: more than a worker's concurrency of 64, so that none is opened anew.
const IDLE_CONNECTIONS_MAX: usize = 128;
/// Shorter than what gateways commonly allow, so that a request seldom meets a connection just closed by them.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A client that follows no redirect (it would carry credentials elsewhere) and retries nothing (retries are the
/// worker's). Plain http on loopback needs no CA store and goes through no proxy.
pub(super) fn client(api_url: &ApiUrl, connect_timeout: Duration, timeout: Duration) -> anyhow::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("soloist/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .http1_only()
        .gzip(true)
        .connect_timeout(connect_timeout)
        .timeout(timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_MAX);
    if api_url.is_plain() {
        return Ok(builder.no_proxy().tls_certs_only(Vec::<Certificate>::new()).build()?);
    }
    builder.build().map_err(|error| {
        anyhow::Error::new(error.without_url()).context(
            "cannot set up https: are there no CA certificates? (install `ca-certificates` or set SSL_CERT_FILE)",
        )
    })
}

/// The largest answer we read, decompressed. A session row has some 250 bytes, or 4 KiB with the longest tokens.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A whole answer of any status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) async fn send(call: Call, request: RequestBuilder) -> Result<Answer, ProviderError> {
    let response = request.send().await.map_err(|error| transport_error(call, error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read_body(call, response).await?;
    Ok(Answer { status, headers, body })
}

/// Reads what comes out of the decompressor piece by piece, so that a small bomb cannot become a large body.
async fn read_body(call: Call, mut response: Response) -> Result<Vec<u8>, ProviderError> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Vec::with_capacity(announced.min(BODY_BYTES_MAX));
    while let Some(piece) = response.chunk().await.map_err(|error| transport_error(call, error))? {
        if body.len() + piece.len() > BODY_BYTES_MAX {
            return Err(ProviderError::Unavailable(anyhow!(
                "{call}: the answer is larger than {BODY_BYTES_MAX} bytes"
            )));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The one way from `reqwest`'s errors to ours. They print their URL, which may carry the API secret or a token.
fn transport_error(call: Call, error: reqwest::Error) -> ProviderError {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else if error.is_decode() || error.is_body() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    ProviderError::Unavailable(anyhow::Error::new(error.without_url()).context(format!("{call}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_goes_anywhere_and_http_only_to_this_machine() {
        for good in [
            "https://api.loginradius.com",
            "https://login.example.com/lr/",
            "http://localhost:9900",
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:9900/",
        ] {
            assert!(ApiUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api.loginradius.com",
            "ftp://localhost",
            "https://",
            "http://api.loginradius.com",
            "http://localhost.example.com",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "https://user:canary@api.loginradius.com",
            "https://api.loginradius.com/?secret=canary",
            "https://api.loginradius.com/#canary",
        ] {
            let error = ApiUrl::parse(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{bad}");
        }
    }

    #[test]
    fn a_path_in_the_base_url_is_kept() {
        for base in ["https://example.com/lr", "https://example.com/lr/"] {
            assert_eq!(ApiUrl::parse(base).unwrap().join(&["api", "v2"]).as_str(), "https://example.com/lr/api/v2");
        }
        assert_eq!(ApiUrl::parse("https://example.com").unwrap().join(&["api"]).as_str(), "https://example.com/api");
    }
}
