//! A user's own sessions: see them, end one or all others, keep one.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::callers::User;
use super::shown::ShownSession;
use super::{Api, NOBODY, problem_of};
use crate::directives::{ChangeError, Entry, What};
use crate::http::Problem;
use crate::ledger::Outcome;
use crate::model::{Session, SessionId};
use crate::policy::ReasonCode;
use crate::worker::Evaluation;

/// Sessions on one page.
const PAGE_MAX: usize = 200;
const PAGE_DEFAULT: usize = 50;
/// How young a login must be that ends all others or keeps one: a stolen old token must not outlive its owner.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(10);

const BAD_SESSION: Problem = Problem::new(StatusCode::BAD_REQUEST, "session", "a session id is 32 hex digits");
const BAD_CURSOR: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "cursor", "a cursor is what the page before gave as `next_cursor`");
const NOT_FRESH: Problem =
    Problem::new(StatusCode::FORBIDDEN, "login_too_old", "this needs a login of the last ten minutes: sign in again");
const NO_PINS: Problem = Problem::new(StatusCode::CONFLICT, "no_pins", "no more devices can be kept for this account");
const ELSEWHERE: Problem =
    Problem::new(StatusCode::NOT_FOUND, "elsewhere", "devices are kept by the process that runs with --role control");
const NOT_KEPT: Problem =
    Problem { retry_after: 2, ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_now", "it cannot be kept now") };

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Sessions on one page, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Show one session for each device: the newest, with how many it stands for.
    #[serde(default)]
    collapse: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct SessionsAnswer {
    uid: String,
    session_count: usize,
    device_count: usize,
    /// False where rows of the listing were missing.
    complete: bool,
    /// Newest login first.
    sessions: Vec<ShownSession>,
    next_cursor: Option<String>,
}

/// The devices of the user who asks.
#[utoipa::path(get, path = "/v1/me/sessions", params(Page),
    responses((status = 200, body = SessionsAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn sessions(
    State(api): State<Arc<Api>>,
    user: User,
    Query(page): Query<Page>,
) -> Result<Json<SessionsAnswer>, Problem> {
    let evaluation = api.view(api.enforcer(&user.tenant)?, &user.id).await?;
    let mut sessions = shown(&evaluation, user.session());
    if page.collapse {
        sessions = one_of_each_device(sessions);
    }
    if let Some(cursor) = &page.cursor {
        let place = sessions.iter().position(|session| session.session == *cursor).ok_or(BAD_CURSOR)?;
        sessions.drain(..=place);
    }
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let has_more = sessions.len() > limit;
    sessions.truncate(limit);
    Ok(Json(SessionsAnswer {
        uid: user.id.as_str().to_owned(),
        session_count: evaluation.view.sessions.len(),
        device_count: evaluation.devices,
        complete: evaluation.view.complete,
        next_cursor: sessions.last().filter(|_| has_more).map(|session| session.session.clone()),
        sessions,
    }))
}

fn shown(evaluation: &Evaluation, own: SessionId) -> Vec<ShownSession> {
    let shown = |session: &Session| ShownSession::of(session, session.id() == own);
    evaluation.view.sessions.iter().map(shown).collect()
}

/// The newest of each device; the one that asks stands for its own.
fn one_of_each_device(sessions: Vec<ShownSession>) -> Vec<ShownSession> {
    let mut places: HashMap<(String, Option<String>, Option<String>), usize> = HashMap::new();
    let mut kept: Vec<ShownSession> = Vec::new();
    for session in sessions {
        let device = (session.label.clone(), session.device_type.clone(), session.device.clone());
        let Some(first) = places.get(&device).and_then(|place| kept.get_mut(*place)) else {
            places.insert(device, kept.len());
            kept.push(session);
            continue;
        };
        let count = first.sessions + 1;
        if session.current {
            *first = session;
        }
        first.sessions = count;
    }
    kept
}

/// What became of a session that was to be ended.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedSession {
    session: String,
    /// `revoked`, or `already_gone` where LoginRadius no longer knew it.
    #[schema(example = "revoked")]
    ended: serde_json::Value,
}

impl From<&Outcome> for EndedSession {
    fn from(outcome: &Outcome) -> Self {
        Self { session: outcome.session.to_string(), ended: json!(outcome.ended) }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct EndedAnswer {
    ended: Vec<EndedSession>,
}

/// Ends one of the user's sessions, also the one that asks.
#[utoipa::path(delete, path = "/v1/me/sessions/{id}", params(("id" = String, Path, description = "32 hex digits")),
    responses((status = 200, body = EndedAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<EndedAnswer>, Problem> {
    let chosen = SessionId::parse(&id).map_err(|_grammar| BAD_SESSION)?;
    let ended = end_chosen(&api, &user, |session| session == chosen).await?;
    if ended.is_empty() { Err(NOBODY) } else { Ok(Json(EndedAnswer { ended })) }
}

/// Ends all sessions of the user but the one that asks, which must have logged in within the last ten minutes.
#[utoipa::path(post, path = "/v1/me/sessions/end-others",
    responses((status = 200, body = EndedAnswer), (status = 401), (status = 403), (status = 404), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn end_others(State(api): State<Arc<Api>>, user: User) -> Result<Json<EndedAnswer>, Problem> {
    fresh(&api, &user).await?;
    let own = user.session();
    Ok(Json(EndedAnswer { ended: end_chosen(&api, &user, |session| session != own).await? }))
}

/// Not cut off by `api.wait_max`: what has begun to end is ended and written down, within a step's deadline.
async fn end_chosen(
    api: &Api,
    user: &User,
    is_chosen: impl Fn(SessionId) -> bool + Send,
) -> Result<Vec<EndedSession>, Problem> {
    let enforcer = api.enforcer(&user.tenant)?;
    let ended = enforcer.end_chosen(&user.id, is_chosen, ReasonCode::ChosenByUser).await;
    Ok(ended.map_err(|error| problem_of(&error))?.iter().map(EndedSession::from).collect())
}

/// Whether the session that asks has logged in just now, as it is listed.
async fn fresh(api: &Api, user: &User) -> Result<(), Problem> {
    let evaluation = api.view(api.enforcer(&user.tenant)?, &user.id).await?;
    let own = evaluation.view.sessions.iter().find(|session| session.id() == user.session());
    let login_at = own.and_then(|session| session.login_at).ok_or(NOT_FRESH)?;
    let is_fresh = api.sessions.clock.now().duration_since(login_at) <= FRESH_FOR;
    if is_fresh { Ok(()) } else { Err(NOT_FRESH) }
}

#[derive(Serialize, ToSchema)]
pub(super) struct PinAnswer {
    pinned: String,
}

/// Keeps one of the user's devices: newer logins do not end it. Needs `pins_max` in the policy, and a login of the last
/// ten minutes.
#[utoipa::path(post, path = "/v1/me/sessions/{id}/pin", params(("id" = String, Path, description = "32 hex digits")),
    responses((status = 200, body = PinAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 409), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn pin(
    State(api): State<Arc<Api>>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<PinAnswer>, Problem> {
    let session = SessionId::parse(&id).map_err(|_grammar| BAD_SESSION)?;
    fresh(&api, &user).await?;
    let evaluation = api.view(api.enforcer(&user.tenant)?, &user.id).await?;
    let is_listed = |session: SessionId| evaluation.view.sessions.iter().any(|listed| listed.id() == session);
    if !is_listed(session) {
        return Err(NOBODY);
    }
    let control = api.sessions.control.as_ref().ok_or(ELSEWHERE)?;
    let now = api.sessions.clock.now();
    let pins = control.entries().into_iter().filter(|entry| entry.tenant == user.tenant && entry.holds(now));
    let others = pins.filter(|entry| {
        let What::Pin { user: of, session: pinned } = &entry.what else { return false };
        *of == user.id && *pinned != session && is_listed(*pinned)
    });
    if others.count() >= evaluation.policy.pins_max as usize {
        return Err(NO_PINS);
    }
    let written = json!({
        "kind": "pin",
        "tenant": user.tenant.as_str(),
        "uid": user.id.as_str(),
        "session": session.to_string(),
        "owner": user.id.as_str(),
        "reason": "kept by the user",
    });
    let entry = Entry::read(written, now).map_err(|_bad| NO_PINS)?;
    control.put(entry).await.map_err(|error| match error {
        ChangeError::Bad(_) => NO_PINS,
        ChangeError::Unavailable(error) => {
            tracing::error!("a device cannot be kept: {error:#}");
            NOT_KEPT
        }
    })?;
    Ok(Json(PinAnswer { pinned: session.to_string() }))
}
