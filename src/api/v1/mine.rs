//! A user's own sessions: see them, end one or all others, keep one.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::idempotency::{Key, Work};
use super::input::Named;
use super::shown::ShownSession;
use super::who::User;
use super::{Api, NOBODY, NOT_NOW, problem_of};
use crate::api::input::{PageSize, Params};
use crate::directives::{ChangeError, Entry, What};
use crate::http::Problem;
use crate::ledger::Outcome;
use crate::model::{Session, SessionId};
use crate::policy::ReasonCode;
use crate::provider::ProviderError;
use crate::worker::{Evaluation, StepError};

/// Sessions on one page.
const PAGE_MAX: usize = 200;
const PAGE_DEFAULT: usize = 50;
/// How young a login must be that ends all others or keeps one: a stolen old token must not outlive its owner.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(10);

/// How far LoginRadius' clock may be ahead of ours.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_mins(1);

const BAD_CURSOR: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "cursor", "a cursor is what the page before gave as `next_cursor`");
const NOT_FRESH: Problem =
    Problem::new(StatusCode::FORBIDDEN, "login_too_old", "this needs a login of the last ten minutes: sign in again");
const NO_PINS: Problem = Problem::new(StatusCode::CONFLICT, "no_pins", "no more devices can be kept for this account");
const ELSEWHERE: Problem =
    Problem::new(StatusCode::NOT_FOUND, "elsewhere", "devices are kept by the process that runs with --role control");

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Sessions on one page, 1 to 200.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<PageSize<PAGE_MAX>>,
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
    Params(page): Params<Page>,
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
    let limit = PageSize::or(page.limit, PAGE_DEFAULT);
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
#[utoipa::path(delete, path = "/v1/me/sessions/{id}", params(("id" = String, Path, pattern = "^[0-9A-Fa-f]{32}$")),
    responses((status = 200, body = EndedAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    user: User,
    Named(chosen): Named,
) -> Result<Json<EndedAnswer>, Problem> {
    let ended = end_chosen(&api, user, move |session| session == chosen, &Work::default()).await?;
    if ended.is_empty() { Err(NOBODY) } else { Ok(Json(EndedAnswer { ended })) }
}

/// Ends all sessions of the user but the one that asks, which must have logged in within the last ten minutes.
///
/// A repeat ends those who have logged in since, unless it has the `Idempotency-Key` of the first request.
#[utoipa::path(post, path = "/v1/me/sessions/end-others",
    params(("idempotency-key" = Option<String>, Header, pattern = "^[!-~]{1,255}$", description = "1 to 255 visible ASCII characters, new for each request: what is repeated with it within a day is done once")),
    responses((status = 200, body = EndedAnswer, headers(("idempotency-replayed" = String, description = "`true` where this was answered before"))),
        (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 409, description = "the first request with this key is at work, or its outcome is not known any more"),
        (status = 422, description = "the key was used for another request"), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn end_others(State(api): State<Arc<Api>>, user: User, key: Key) -> Result<Response, Problem> {
    let own = user.session();
    let asked = key.asked(user.identity(), "end-others", &[own.to_string().as_bytes()]);
    let on = Arc::clone(&api);
    let work = move |work: Work| async move {
        fresh(&on, &user).await?;
        work.begin().await?;
        Ok(EndedAnswer { ended: end_chosen(&on, user, move |session| session != own, &work).await? })
    };
    api.once(asked, work).await
}

/// Goes on when whoever asked has gone away, within a step's deadline: what has begun to end is ended and written down.
async fn end_chosen(
    api: &Api,
    user: User,
    is_chosen: impl Fn(SessionId) -> bool + Send + 'static,
    work: &Work,
) -> Result<Vec<EndedSession>, Problem> {
    let enforcer = Arc::clone(api.enforcer(&user.tenant)?);
    let any_chosen = Arc::new(AtomicBool::new(false));
    let chosen = Arc::clone(&any_chosen);
    let note_chosen = move |session| {
        is_chosen(session) && {
            chosen.store(true, Ordering::Relaxed);
            true
        }
    };
    let ending = async move { enforcer.end_chosen(&user.id, note_chosen, ReasonCode::ChosenByUser).await };
    let ended = api.ends.spawn(ending).await.map_err(|_panicked| NOT_NOW)?;
    match ended {
        Ok(outcomes) => Ok(outcomes.iter().map(EndedSession::from).collect()),
        Err(StepError::Provider(ProviderError::UserUnknown(_))) => Ok(Vec::new()),
        Err(error) => {
            // Sessions are chosen from a listing, and none is ended before that is on record.
            if !any_chosen.load(Ordering::Relaxed) || matches!(error, StepError::Ledger(_)) {
                work.undone();
            }
            Err(problem_of(&error))
        }
    }
}

/// Whether the session that asks has logged in just now, as it is listed.
async fn fresh(api: &Api, user: &User) -> Result<(), Problem> {
    let evaluation = api.view(api.enforcer(&user.tenant)?, &user.id).await?;
    let own = evaluation.view.sessions.iter().find(|session| session.id() == user.session());
    let login_at = own.and_then(|session| session.login_at).ok_or(NOT_FRESH)?;
    let age = api.sessions.clock.now().duration_since(login_at);
    // A login of the future would be fresh for ever.
    if (-CLOCKS_DIFFER_MAX..=FRESH_FOR).contains(&age) { Ok(()) } else { Err(NOT_FRESH) }
}

#[derive(Serialize, ToSchema)]
pub(super) struct PinAnswer {
    pinned: String,
}

/// Keeps one of the user's devices: newer logins do not end it. Needs `pins_max` in the policy, and a login of the last
/// ten minutes.
#[utoipa::path(post, path = "/v1/me/sessions/{id}/pin", params(("id" = String, Path, pattern = "^[0-9A-Fa-f]{32}$")),
    responses((status = 200, body = PinAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 409), (status = 429), (status = 503)),
    security(("user_token" = [])))]
pub(super) async fn pin(
    State(api): State<Arc<Api>>,
    user: User,
    Named(session): Named,
) -> Result<Json<PinAnswer>, Problem> {
    fresh(&api, &user).await?;
    let evaluation = api.view(api.enforcer(&user.tenant)?, &user.id).await?;
    let listed = |id: SessionId| evaluation.view.sessions.iter().find(|session| session.id() == id);
    let login_at = listed(session).ok_or(NOBODY)?.login_at;
    let control = api.sessions.control.as_ref().ok_or(ELSEWHERE)?;
    let _one_at_a_time = api.pins.acquire().await.map_err(|_closed| NOT_NOW)?;
    let now = api.sessions.clock.now();
    let pins = control.entries().into_iter().filter(|entry| entry.tenant == user.tenant && entry.holds(now));
    let others = pins.filter_map(|entry| match &entry.what {
        What::Pin { user: of, session: pinned } if *of == user.id && *pinned != session => Some((entry.key(), *pinned)),
        _ => None,
    });
    let (mut kept, mut gone) = (0_u32, Vec::new());
    for (key, pinned) in others {
        if listed(pinned).is_some() {
            kept += 1;
        } else {
            gone.push(key);
        }
    }
    if kept >= evaluation.policy.pins_max {
        return Err(NO_PINS);
    }
    // What was kept of sessions that are no more goes first: else a user could fill the table.
    for key in gone {
        control.remove(&key, user.id.as_str(), "its session is gone").await.map_err(not_kept)?;
    }
    let lifetime = SignedDuration::try_from(evaluation.policy.session_lifetime).unwrap_or(SignedDuration::MAX);
    let entry = Entry {
        tenant: user.tenant.clone(),
        what: What::Pin { user: user.id.clone(), session },
        owner: user.id.as_str().to_owned(),
        reason: "kept by the user".to_owned(),
        made_at: now,
        expires: login_at.unwrap_or(now).max(now).checked_add(lifetime).ok(),
    };
    control.put(entry).await.map_err(not_kept)?;
    Ok(Json(PinAnswer { pinned: session.to_string() }))
}

fn not_kept(error: ChangeError) -> Problem {
    match error {
        ChangeError::Bad(bad) => tracing::error!("a device cannot be kept: {bad}"),
        ChangeError::Unavailable(error) => tracing::error!("a device cannot be kept: {error:#}"),
    }
    NOT_NOW
}
