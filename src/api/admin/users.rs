//! One user: what is known of them, their sessions, what was decided; looking now, ending a session.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::directives::shown_entry;
use super::input::{NamedSession, OfTenant, OptionalWord, Subject};
use super::known::Known;
use super::{Admin, PAGE_DEFAULT, PAGE_MAX, ledger_problem, queue_problem, step_problem};
use crate::api::input::{OptionalBody, PageSize, Params};
use crate::http::Problem;
use crate::ledger::Ended;
use crate::model::{Reason, Session, SessionDevice};
use crate::policy::{ReasonCode, Verdict};
use crate::queue::look_at_once;
use crate::worker::{Enforcer as _, Evaluation, Look};

const NO_SESSION: Problem = Problem::new(StatusCode::NOT_FOUND, "no_session", "the user has no such session");

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(user))
        .routes(routes!(sessions))
        .routes(routes!(end_session))
        .routes(routes!(enforce))
        .routes(routes!(decisions))
}

#[derive(Serialize, ToSchema)]
pub(super) struct User {
    tenant: String,
    uid: String,
    /// Missing where the user was never seen.
    known: Option<Known>,
    /// What was decided at run time about this user: override, pins, contended; exemptions that name the uid.
    directives: Vec<Value>,
    /// The last decision that is on record.
    last_decision: Option<Value>,
}

/// What is known of a user, without asking LoginRadius.
#[utoipa::path(get, path = "/admin/v1/users/{uid}", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant),
    responses((status = 200, body = User), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn user(State(admin): State<Arc<Admin>>, subject: Subject) -> Result<Json<User>, Problem> {
    let Subject { tenant, user, .. } = subject;
    let known = admin.users()?.known_user(&tenant, &user).await.map_err(ledger_problem)?;
    let last = admin.ledger.recent(&tenant, &user, 1).await.map_err(ledger_problem)?;
    let entries = admin.deciding.as_ref().map(|deciding| deciding.control.entries()).unwrap_or_default();
    let of_user = entries.iter().filter(|entry| entry.tenant == tenant && entry.names(&user));
    Ok(Json(User {
        tenant: tenant.as_str().to_owned(),
        uid: user.as_str().to_owned(),
        known: known.as_ref().map(Known::of),
        directives: of_user.map(shown_entry).collect(),
        last_decision: last.into_iter().next(),
    }))
}

/// A user's sessions with their verdicts, newest login first, and both counts.
#[derive(Serialize, ToSchema)]
pub(super) struct Sessions {
    tenant: String,
    uid: String,
    /// False where rows of the listing were missing.
    complete: bool,
    session_count: usize,
    device_count: usize,
    sessions: Vec<ShownSession>,
}

#[derive(Serialize, ToSchema)]
struct ShownSession {
    /// 32 hex digits; good only together with its user.
    session: String,
    login_at: Option<Timestamp>,
    from_the_future: bool,
    device_type: Option<String>,
    device: Option<String>,
    os: Option<String>,
    browser: Option<String>,
    city: Option<String>,
    country: Option<String>,
    ip: Option<String>,
    /// What the rule says of it. Missing in mode `off`.
    #[schema(example = "keep")]
    action: Option<&'static str>,
    #[schema(example = "displaced_by_newer_login")]
    reason: Option<&'static str>,
}

impl Sessions {
    fn of(subject: &Subject, evaluation: &Evaluation) -> Self {
        let verdict_of = |session: &Session| -> Option<&Verdict> {
            evaluation.decision.as_ref()?.verdicts.iter().find(|verdict| verdict.digest == session.digest)
        };
        let shown = |session: &Session| {
            let verdict = verdict_of(session);
            let SessionDevice { browser, os, device, device_type, city, country, ip } = session.device.clone();
            ShownSession {
                session: session.id().to_string(),
                login_at: session.login_at,
                from_the_future: subject.enforcer.is_from_the_future(session),
                device_type,
                device,
                os,
                browser,
                city,
                country,
                ip,
                action: verdict.map(|verdict| verdict.action.as_str()),
                reason: verdict.and_then(|verdict| verdict.reason).map(ReasonCode::as_str),
            }
        };
        Self {
            tenant: subject.tenant.as_str().to_owned(),
            uid: subject.user.as_str().to_owned(),
            complete: evaluation.view.complete,
            session_count: evaluation.view.sessions.len(),
            device_count: evaluation.devices,
            sessions: evaluation.view.sessions.iter().map(shown).collect(),
        }
    }
}

/// A user's sessions as LoginRadius lists them now, and what the rule says of each.
#[utoipa::path(get, path = "/admin/v1/users/{uid}/sessions", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant),
    responses((status = 200, body = Sessions), (status = 400), (status = 401), (status = 403), (status = 404), (status = 502), (status = 503)))]
async fn sessions(State(_): State<Arc<Admin>>, subject: Subject) -> Result<Json<Sessions>, Problem> {
    let evaluation = look(&subject, true).await?;
    Ok(Json(Sessions::of(&subject, &evaluation)))
}

async fn look(subject: &Subject, dry_run: bool) -> Result<Evaluation, Problem> {
    let look = Look { user: subject.user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run };
    subject.enforcer.evaluate(&look).await.map_err(step_problem)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EnforceQuery {
    /// End nobody.
    #[serde(default)]
    dry_run: bool,
    /// Put a message into the queue instead of looking at once.
    #[serde(default)]
    queued: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Enforced {
    #[serde(flatten)]
    of: Sessions,
    dry_run: bool,
    /// What came of each session that was to be ended.
    outcomes: Value,
    /// As it is recorded. Missing in mode `off`.
    decision: Value,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Queued {
    /// The message's id, as the log has it.
    id: String,
}

/// Looks at a user now and ends the surplus.
#[utoipa::path(post, path = "/admin/v1/users/{uid}/enforce", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant, EnforceQuery),
    request_body = Option<OptionalWord>,
    responses((status = 200, body = Enforced), (status = 202, body = Queued), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 502), (status = 503)))]
async fn enforce(
    State(admin): State<Arc<Admin>>,
    subject: Subject,
    Params(query): Params<EnforceQuery>,
    OptionalBody(word): OptionalBody<OptionalWord>,
) -> Result<Response, Problem> {
    let (tenant, user) = (&subject.tenant, &subject.user);
    if !query.dry_run {
        admin.audit(format!("enforce/{tenant}/{user}"), word).await?;
        if query.queued {
            let id = look_at_once(&*admin.queue, tenant, user).await.map_err(queue_problem)?;
            return Ok((StatusCode::ACCEPTED, Json(Queued { id: id.as_str().to_owned() })).into_response());
        }
    }
    let evaluation = look(&subject, query.dry_run).await?;
    Ok(Json(Enforced {
        of: Sessions::of(&subject, &evaluation),
        dry_run: query.dry_run,
        outcomes: serde_json::to_value(&evaluation.outcomes).unwrap_or_default(),
        decision: serde_json::to_value(&evaluation.decision).unwrap_or_default(),
    })
    .into_response())
}

#[derive(Serialize, ToSchema)]
pub(super) struct EndedSession {
    uid: String,
    session: String,
    /// `revoked`, `already_gone` or `failed`.
    #[schema(value_type = String, example = "revoked")]
    ended: Ended,
}

/// Ends one session.
#[utoipa::path(delete, path = "/admin/v1/users/{uid}/sessions/{session}",
    params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), ("session" = String, Path, pattern = "^[0-9A-Fa-f]{32}$"), OfTenant),
    request_body = Option<OptionalWord>,
    responses((status = 200, body = EndedSession), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 502), (status = 503)))]
async fn end_session(
    State(admin): State<Arc<Admin>>,
    subject: Subject,
    NamedSession(session): NamedSession,
    OptionalBody(word): OptionalBody<OptionalWord>,
) -> Result<Json<EndedSession>, Problem> {
    let (tenant, user) = (&subject.tenant, &subject.user);
    admin.audit(format!("end/{tenant}/{user}/{session}"), word).await?;
    let ended = subject.enforcer.end(user, session).await.map_err(step_problem)?.ok_or(NO_SESSION)?;
    Ok(Json(EndedSession { uid: user.as_str().to_owned(), session: session.to_string(), ended }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DecisionsQuery {
    /// Decisions on one page.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<PageSize<PAGE_MAX>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Decisions {
    uid: String,
    /// As the ledger exports them, newest first.
    decisions: Vec<Value>,
}

/// What was decided about a user, and why.
#[utoipa::path(get, path = "/admin/v1/users/{uid}/decisions", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant, DecisionsQuery),
    responses((status = 200, body = Decisions), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn decisions(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Params(query): Params<DecisionsQuery>,
) -> Result<Json<Decisions>, Problem> {
    let limit = PageSize::or(query.limit, PAGE_DEFAULT);
    admin.dead_letters()?;
    let decisions = admin.ledger.recent(&tenant, &user, limit).await.map_err(ledger_problem)?;
    Ok(Json(Decisions { uid: user.as_str().to_owned(), decisions }))
}
