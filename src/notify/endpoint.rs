//! One endpoint: whether it wants a notice, the request that tells it, and what its answer means.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::{Certificate, Client, RequestBuilder, Url, redirect, retry};
use serde_json::Value;

use super::address::{self, Resolver};
use super::sign::{Claims, Signer};
use super::store::Pending;
use super::{Notice, Texts};
use crate::config::{NotifyEndpoint, NotifyEvent, NotifyFormat};

/// How long a receiver may ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Bytes of an answer that are read, so that the connection can be used again; they mean nothing to us.
const ANSWER_BYTES_MAX: usize = 1 << 16;
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Delivered,
    /// It wants to hear no more.
    Gone,
    Failed {
        retry_after: Option<Duration>,
        /// Rather than of this notice: others would fail as well.
        is_of_endpoint: bool,
        why: String,
    },
}

pub(super) struct Endpoint {
    of: NotifyEndpoint,
    url: Url,
    client: Client,
    signer: Signer,
}

impl Endpoint {
    /// # Errors
    /// When its key cannot be used, or https cannot be spoken.
    pub(super) fn new(of: NotifyEndpoint) -> anyhow::Result<Self> {
        let name = of.name.clone();
        let whole = || -> anyhow::Result<Self> {
            let url: Url = of.url.parse().map_err(|_quotes_it| anyhow!("its url cannot be read"))?;
            Ok(Self { client: client(&of, &url)?, signer: Signer::of(&of.format)?, url, of })
        };
        whole().with_context(|| format!("the endpoint `{name}` of [[notify]] cannot be used"))
    }

    pub(super) fn name(&self) -> &str {
        &self.of.name
    }

    pub(super) fn wants(&self, notice: &Notice) -> bool {
        let is_of_caep = matches!(notice.event, NotifyEvent::SessionRevoked | NotifyEvent::SessionRejected);
        let is_in_form = is_of_caep || matches!(self.of.format, NotifyFormat::Standard { .. });
        let is_of_tenant = self.of.tenant.as_ref().is_none_or(|tenant| *tenant == notice.tenant);
        is_in_form && is_of_tenant && self.of.events.contains(&notice.event)
    }

    /// One attempt.
    pub(super) async fn tell(&self, pending: &Pending, texts: &Texts, now: Timestamp) -> Answer {
        match self.try_to_tell(pending, texts, now).await {
            Ok(answer) => answer,
            Err(error) => Answer::Failed { retry_after: None, is_of_endpoint: true, why: format!("{error:#}") },
        }
    }

    async fn try_to_tell(&self, pending: &Pending, texts: &Texts, now: Timestamp) -> anyhow::Result<Answer> {
        // A name is looked at when it is resolved; an address in the URL is not resolved.
        if let Some(literal) = address::literal(&self.url) {
            address::check(literal, self.of.allow_private)?;
        }
        let mut response = self.request(pending, texts, now)?.send().await.map_err(reqwest::Error::without_url)?;
        let answer = meaning(self.of.format.delivered(), response.status(), response.headers(), now);
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok(answer)
    }

    fn request(&self, pending: &Pending, texts: &Texts, now: Timestamp) -> anyhow::Result<RequestBuilder> {
        let request = self.client.post(self.url.clone());
        Ok(match &self.signer {
            Signer::Webhook(key) => {
                let timestamp = now.as_second();
                let signature = key.sign(&pending.notice, timestamp, pending.body.as_bytes());
                request
                    .header("webhook-id", &pending.notice)
                    .header("webhook-timestamp", timestamp.to_string())
                    .header("webhook-signature", signature)
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(pending.body.clone())
            }
            Signer::Token(signer) => {
                let body: Value = serde_json::from_str(&pending.body)?;
                let text = |at: &str| body.pointer(at).and_then(Value::as_str).unwrap_or_default();
                let happened: Timestamp = text("/timestamp").parse()?;
                let token = signer.token(&Claims {
                    id: &pending.notice,
                    issued_at: pending.posted_at_ms.div_euclid(1_000),
                    happened_at: happened.as_second(),
                    user: text("/data/uid"),
                    reason: text("/data/reason"),
                    text: text("/data/text"),
                    language: texts.language(),
                })?;
                request
                    .header(header::CONTENT_TYPE, "application/secevent+jwt")
                    .header(header::ACCEPT, "application/json")
                    .body(token)
            }
        })
    }
}

impl NotifyFormat {
    /// Which statuses say that the receiver has it.
    fn delivered(&self) -> fn(StatusCode) -> bool {
        match self {
            Self::Standard { .. } => |status| status.is_success(),
            Self::Caep { .. } => |status| status == StatusCode::ACCEPTED,
        }
    }
}

fn meaning(is_delivered: fn(StatusCode) -> bool, status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Answer {
    if is_delivered(status) {
        return Answer::Delivered;
    }
    if status == StatusCode::GONE {
        return Answer::Gone;
    }
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let is_of_notice = [400, 406, 409, 413, 415, 422].contains(&status.as_u16());
    Answer::Failed { retry_after, is_of_endpoint: !is_of_notice, why: format!("it answered {}", status.as_u16()) }
}

/// Seconds, or a date.
fn retry_after(raw: &str, now: Timestamp) -> Option<Duration> {
    let wait = if let Ok(seconds) = raw.trim().parse() {
        Duration::from_secs(seconds)
    } else {
        let until = DateTimeParser::new().parse_timestamp(raw).ok()?;
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// A client that goes to no address but those that were looked at: no redirect, no proxy, no retry of its own.
fn client(of: &NotifyEndpoint, url: &Url) -> anyhow::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("soloist/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .http1_only()
        .gzip(false)
        .dns_resolver(Resolver { allow_private: of.allow_private })
        .timeout(of.timeout)
        .pool_idle_timeout(IDLE_MAX);
    // Plain http needs no CA store.
    let builder = if url.scheme() == "http" { builder.tls_certs_only(Vec::<Certificate>::new()) } else { builder };
    builder.build().map_err(|error| {
        anyhow::Error::new(error.without_url()).context(
            "cannot set up https: are there no CA certificates? (install `ca-certificates` or set SSL_CERT_FILE)",
        )
    })
}

/// Where an endpoint leads, without sending it anything.
///
/// # Errors
/// When it may not be called, its name cannot be resolved, or its key cannot be used.
pub async fn look_at(of: &NotifyEndpoint) -> anyhow::Result<String> {
    let endpoint = Endpoint::new(of.clone())?;
    let host = endpoint.url.host_str().unwrap_or_default().to_owned();
    let looking = address::of_url(&endpoint.url, of.allow_private);
    let late = |_late| anyhow!("the name was not resolved within {:?}", of.timeout);
    let addresses = tokio::time::timeout(of.timeout, looking).await.map_err(late)??;
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Ok(format!("{host} is {}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn answer(status: u16, retry_after: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        }
        meaning(|status| status.is_success(), StatusCode::from_u16(status).unwrap(), &headers, NOW)
    }

    #[test]
    fn only_2xx_is_delivered_and_only_410_is_the_end() {
        for (status, expected) in [(200, Answer::Delivered), (202, Answer::Delivered), (204, Answer::Delivered)] {
            assert_eq!(answer(status, None), expected, "{status}");
        }
        assert_eq!(answer(410, None), Answer::Gone);
        for status in [301, 302, 400, 401, 404, 408, 429, 500, 503] {
            assert!(matches!(answer(status, None), Answer::Failed { retry_after: None, .. }), "{status}");
        }
    }

    #[test]
    fn a_receiver_may_ask_for_a_pause_but_not_for_ever() {
        let pause = |value: &str| match answer(503, Some(value)) {
            Answer::Failed { retry_after, .. } => retry_after.map(|pause| pause.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(pause("7"), Some(7));
        assert_eq!(pause("999999999"), Some(3_600));
        let date = |seconds| {
            let at = NOW.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap()
        };
        assert_eq!(pause(&date(90)), Some(90));
        assert_eq!(pause(&date(-90)), Some(0));
        assert_eq!(pause("soon"), None);
    }
}
