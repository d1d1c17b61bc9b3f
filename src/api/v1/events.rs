//! A stream that tells a tab that it was signed out (server-sent events).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::told::WhyAnswer;
use super::who::Holder;
use crate::http::Problem;
use crate::ledger::{Ending, Known};

/// A client must come again after so long, with a token that is still good.
const STREAM_FOR: Duration = Duration::from_hours(1);
/// How often a silent stream shows that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const BUSY: Problem = Problem {
    retry_after: 30,
    ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "as many streams are open as may be: come again later")
};

/// Tells when the session of this token is ended, at once, and closes. Who comes again with an ended token is told once
/// more, unless `Last-Event-ID` says that it has heard.
#[utoipa::path(get, path = "/v1/events",
    params(("last-event-id" = Option<String>, Header, description = "The id of the last event that was heard")),
    responses((status = 200, content_type = "text/event-stream", body = String, description = "`session.revoked` with the answer of `/v1/why`"),
        (status = 204, description = "the last event was heard already"), (status = 401), (status = 403), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    holder: Holder,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let session = holder.token.digest().session_id();
    // It waits before it looks: so no end falls in between.
    let mut waiting = api.sessions.endings.wait_for(session).ok_or(BUSY)?;
    let known = api.sessions.endings.of(&holder.tenant, session, api.sessions.clock.now());
    let with_place = api.sessions.config.why_place;
    if let Known::Ended(ending) = known {
        let heard = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        if heard == Some(id_of(&ending).as_str()) {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        return Ok(Sse::new(stream::iter([Ok::<_, Infallible>(event(&ending, with_place))])).into_response());
    }
    let enforcer = Arc::clone(api.enforcer(&holder.tenant)?);
    api.identify(&holder.tenant, &enforcer, holder.token).await?;
    let place = Place::take(&api)?;
    let (until, closing) = (Instant::now() + STREAM_FOR, api.sessions.closing.clone());
    let ended = async move {
        let _place = place;
        tokio::select! {
            ended = timeout_at(until, waiting.ended()) => {
                ended.ok().map(|ending| Ok::<_, Infallible>(event(&ending, with_place)))
            }
            () = closing.cancelled() => None,
        }
    };
    let told = stream::unfold(Some(Box::pin(ended)), async |ended| Some((ended?.await?, None)));
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// One of the streams that may be open.
struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(api: &Api) -> Result<Self, Problem> {
        let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_none_left| BUSY)?;
        let open = api.sessions.metrics.api.streams.clone();
        open.inc();
        Ok(Self { open, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// A session ends once.
fn id_of(ending: &Ending) -> String {
    ending.session.to_string()
}

fn event(ending: &Ending, with_place: bool) -> Event {
    let event = Event::default().event("session.revoked").id(id_of(ending));
    // A struct of texts and times always serialises.
    let why = serde_json::to_string(&WhyAnswer::of(ending, with_place)).unwrap_or_default();
    event.data(why)
}
