//! HTTP clients of commands, and the address at which this machine reaches its own listener.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, Url};

use super::Usage;
use super::admin::reachable;
use crate::config::Config;

/// Whom a client believes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Our own listener on this machine: its certificate is for its public name.
    Own,
    /// Anybody else: certificates are checked.
    Others,
}

/// A client that works without CA certificates where the address needs none.
pub(super) fn client(url: &Url, trust: Trust, timeout: Duration) -> anyhow::Result<Client> {
    let mut client = Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
    if url.scheme() != "https" {
        client = client.tls_certs_only([]);
    }
    if trust == Trust::Own {
        client = client.tls_danger_accept_invalid_certs(true).no_proxy();
    }
    client.build().context("cannot set up an HTTP client: does this system have CA certificates?")
}

/// The public listener as this machine reaches it, or the address that was given for it.
pub(super) fn public_url(
    given: Option<&str>,
    config: impl FnOnce() -> anyhow::Result<Config>,
) -> anyhow::Result<(Url, Trust)> {
    if let Some(given) = given {
        return Ok((parse(given)?, Trust::Others));
    }
    let webhook = config()?.webhook;
    if webhook.listen.port() == 0 {
        return Err(Usage("webhook.listen has port 0, so only --url can say where it listens".to_owned()).into());
    }
    let scheme = if webhook.tls_cert.is_some() { "https" } else { "http" };
    Ok((parse(&format!("{scheme}://{}", reachable(webhook.listen)))?, Trust::Own))
}

fn parse(raw: &str) -> anyhow::Result<Url> {
    let url = Url::parse(raw).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| Usage("a URL must look like http://127.0.0.1:8080".to_owned()).into())
}
