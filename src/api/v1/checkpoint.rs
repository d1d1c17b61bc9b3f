//! Whether a user may come in, and who would have to go.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::idempotency::{Key, Work};
use super::input;
use super::shown::{ShownDevice, would_end};
use super::who::{Caller, MayCheck};
use crate::api::input::Body;
use crate::config::Scope;
use crate::http::Problem;
use crate::ledger::Known;
use crate::model::{SessionDevice, UserId};
use crate::policy::{Count, ReasonCode, Strategy};
use crate::worker::{Admission, Evaluation, Newcomer};

const BAD_UID: Problem = Problem::new(StatusCode::BAD_REQUEST, "uid", "a uid is 1 to 50 letters, digits, '_' and '-'");
const WHO: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "who",
    "name a user by `uid` or by `token`, one of them; with a user's own token name nobody",
);

/// Who is about to come in. With a user's own token in the header it is empty.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CheckpointRequest {
    /// The user, where nothing more is known of the session.
    uid: Option<String>,
    /// The access token of the session that has just begun.
    token: Option<String>,
}

/// Whether the login may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Admittance {
    Allow,
    Deny,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Because {
    /// There is room.
    WithinLimit,
    /// It may stay, and older sessions end.
    DisplacesOlder,
    /// The account is in use on as many devices as it may be.
    OverLimit,
    /// The rule would have turned it away, but something keeps it from doing so: observe mode, a canary, a brake.
    NotEnforced,
    /// Too little is known to turn anybody away: rows are missing, a login time is, or on which device this one is.
    Unclear,
    /// Newer logins take its place: it is being ended.
    Displaced,
    /// The token that was given is nobody's, or no longer.
    NoSession,
}

#[derive(Serialize, ToSchema)]
pub(super) struct CheckpointAnswer {
    verdict: Admittance,
    reason: Because,
    #[schema(example = "enforce")]
    mode: Option<&'static str>,
    #[schema(example = "evict_oldest")]
    strategy: Option<&'static str>,
    /// Devices that count, the newcomer's included where its token is known.
    device_count: usize,
    session_count: usize,
    /// Sessions that the rule ends: the older ones, or the newcomer's own.
    would_end: Vec<ShownDevice>,
    /// The newcomer's session is ended as soon as it is listed: that is durable in the queue.
    ends_newcomer: bool,
    /// False where rows of the listing were missing.
    complete: bool,
}

impl CheckpointAnswer {
    /// Of a token that is nobody's. It may have been turned away before anybody asked: the webhook was faster.
    fn of_dead(known: &Known) -> Self {
        let was_turned_away = matches!(known, Known::Ended(end) if end.reason == ReasonCode::RejectedOverLimit);
        Self {
            verdict: Admittance::Deny,
            reason: if was_turned_away { Because::OverLimit } else { Because::NoSession },
            mode: None,
            strategy: None,
            device_count: 0,
            session_count: 0,
            would_end: Vec::new(),
            ends_newcomer: false,
            complete: true,
        }
    }
}

/// Whether a login may go on. Where the oldest sessions give way it always may, and they are ended at once; where the
/// newest are turned away, a session that is one too many is denied and ended, if its token is known: by the same looks that
/// follow every login.
///
/// A repeat with the `Idempotency-Key` of the first request is told what was told then.
#[utoipa::path(post, path = "/v1/checkpoint", request_body = CheckpointRequest,
    params(("idempotency-key" = Option<String>, Header, pattern = "^[!-~]{1,255}$", description = "1 to 255 visible ASCII characters, new for each request: what is repeated with it within a day is done once")),
    responses((status = 200, body = CheckpointAnswer, headers(("idempotency-replayed" = String, description = "`true` where this was answered before"))),
        (status = 400), (status = 401), (status = 403), (status = 408),
        (status = 409, description = "the first request with this key is at work, or its outcome is not known any more"), (status = 413), (status = 415),
        (status = 422, description = "the key was used for another request"), (status = 429), (status = 503)),
    security(("app_key" = []), ("user_token" = [])))]
pub(super) async fn checkpoint(
    State(api): State<Arc<Api>>,
    caller: Caller,
    key: Key,
    Body(request): Body<CheckpointRequest>,
) -> Result<Response, Problem> {
    let own = match &caller {
        Caller::User(user) => user.session().to_string(),
        Caller::App(_) => String::new(),
    };
    let [uid, token] = [&request.uid, &request.token].map(|named| named.as_deref().unwrap_or_default());
    let asked = key.asked(caller.identity(), "checkpoint", &[own.as_bytes(), uid.as_bytes(), token.as_bytes()]);
    let on = Arc::clone(&api);
    api.once(asked, move |work| async move { check(&on, &caller, request, &work).await }).await
}

async fn check(
    api: &Api,
    caller: &Caller,
    request: CheckpointRequest,
    work: &Work,
) -> Result<CheckpointAnswer, Problem> {
    let (tenant, user, token) = match (caller, request.uid, request.token) {
        (Caller::User(user), None, None) => (user.tenant.clone(), user.id.clone(), Some(user.token.clone())),
        (Caller::App(_), Some(uid), None) => {
            let user = UserId::parse(&uid).map_err(|_grammar| BAD_UID)?;
            (caller.app(Scope::Checkpoint)?.clone(), user, None)
        }
        (Caller::App(_), None, Some(token)) => {
            let (tenant, token) = (caller.app(Scope::Checkpoint)?, input::token(&token)?);
            let session = token.digest().session_id();
            match api.identify(tenant, api.enforcer(tenant)?, token).await {
                Ok(user) => (tenant.clone(), user.id, Some(user.token)),
                // The app's own key is good: it is this session that is not.
                Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
                    let known = api.sessions.endings.of(tenant, session, api.sessions.clock.now());
                    return Ok(CheckpointAnswer::of_dead(&known));
                }
                Err(problem) => return Err(problem),
            }
        }
        _ => return Err(WHO),
    };
    let enforcer = api.enforcer(&tenant)?;
    let prepared = api.prepare(&tenant, &user);
    let answer = if let Some(token) = token {
        of_newcomer(&api.in_time(enforcer.admit(&user, Newcomer::Here(&token))).await?)
    } else {
        of_user(&*api.view(enforcer, &user).await?)
    };
    // With a uid alone nobody is turned away for good: which login it was nobody has said.
    let is_due = match answer.reason {
        Because::DisplacesOlder | Because::Displaced => true,
        Because::OverLimit => answer.ends_newcomer,
        _ => false,
    };
    if is_due {
        work.begin().await?;
        let look = if answer.ends_newcomer { api.turn_away(&tenant, &user) } else { prepared };
        api.enforce(look, work).await?;
    }
    Ok(answer)
}

fn of_newcomer(admission: &Admission) -> CheckpointAnswer {
    let evaluation = &admission.evaluation;
    let is_rejected = evaluation.policy.strategy == Strategy::RejectNewest && admission.is_over;
    let is_unclear = !admission.is_listed && evaluation.policy.count == Count::Device;
    let (verdict, reason) = match (is_rejected, admission.is_over) {
        // Whoever has been in for a while is turned away no more, whatever the limit is now.
        (true, _) if evaluation.held.is_some() || admission.is_settled => (Admittance::Allow, Because::NotEnforced),
        (true, _) if is_unclear => (Admittance::Allow, Because::Unclear),
        (true, _) => (Admittance::Deny, Because::OverLimit),
        (false, true) if evaluation.held.is_none() => (Admittance::Allow, Because::Displaced),
        (false, _) => (Admittance::Allow, if_allowed(evaluation)),
    };
    let ends_newcomer = reason == Because::OverLimit;
    CheckpointAnswer { ends_newcomer, ..answer(verdict, reason, evaluation) }
}

/// What is known of a user alone.
fn of_user(evaluation: &Evaluation) -> CheckpointAnswer {
    let is_over = evaluation.policy.strategy == Strategy::RejectNewest && ends_any(evaluation);
    let (verdict, reason) = match (is_over, evaluation.held.is_some()) {
        (true, false) => (Admittance::Deny, Because::OverLimit),
        (true, true) => (Admittance::Allow, Because::NotEnforced),
        (false, _) => (Admittance::Allow, if_allowed(evaluation)),
    };
    answer(verdict, reason, evaluation)
}

fn ends_any(evaluation: &Evaluation) -> bool {
    evaluation.decision.as_ref().is_some_and(|decision| decision.revocations().next().is_some())
}

fn if_allowed(evaluation: &Evaluation) -> Because {
    let is_refused = evaluation.decision.as_ref().is_some_and(|decision| decision.refused.is_some());
    match (is_refused, ends_any(evaluation)) {
        (true, _) => Because::Unclear,
        (false, true) if evaluation.held.is_some() => Because::NotEnforced,
        (false, true) if evaluation.policy.strategy == Strategy::EvictOldest => Because::DisplacesOlder,
        (false, _) => Because::WithinLimit,
    }
}

fn answer(verdict: Admittance, reason: Because, evaluation: &Evaluation) -> CheckpointAnswer {
    CheckpointAnswer {
        verdict,
        reason,
        mode: Some(evaluation.policy.mode.as_str()),
        strategy: Some(evaluation.policy.strategy.as_str()),
        device_count: evaluation.devices,
        session_count: evaluation.view.sessions.len(),
        would_end: would_end(evaluation),
        ends_newcomer: false,
        complete: evaluation.view.complete,
    }
}

/// Who would log in, and on what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreflightRequest {
    uid: String,
    /// As the user's sessions are listed, where it is known: a device that is there already displaces no other.
    #[serde(default)]
    device_type: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    browser: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PreflightAnswer {
    /// What a checkpoint would say after that login.
    verdict: Admittance,
    reason: Because,
    device_count: usize,
    session_count: usize,
    /// Those who would be signed out: "continue here and sign out your phone?"
    would_displace: Vec<ShownDevice>,
    complete: bool,
}

/// Who would be displaced if this user logged in now. Nobody is ended.
#[utoipa::path(post, path = "/v1/preflight", request_body = PreflightRequest,
    responses((status = 200, body = PreflightAnswer), (status = 400), (status = 401), (status = 403), (status = 408), (status = 413), (status = 415), (status = 429), (status = 503)),
    security(("app_key" = [])))]
pub(super) async fn preflight(
    State(api): State<Arc<Api>>,
    MayCheck(tenant): MayCheck,
    Body(request): Body<PreflightRequest>,
) -> Result<Json<PreflightAnswer>, Problem> {
    let PreflightRequest { uid, device_type, os, browser } = request;
    let user = UserId::parse(&uid).map_err(|_grammar| BAD_UID)?;
    let device = SessionDevice { browser, os, device_type, ..SessionDevice::default() };
    let admission = api.in_time(api.enforcer(&tenant)?.admit(&user, Newcomer::Imagined(&device))).await?;
    let CheckpointAnswer { verdict, reason, device_count, session_count, mut would_end, complete, .. } =
        of_newcomer(&admission);
    would_end.retain(|device| device.session != admission.newcomer.to_string());
    Ok(Json(PreflightAnswer {
        verdict,
        reason,
        device_count,
        session_count: session_count.saturating_sub(1),
        would_displace: would_end,
        complete,
    }))
}
