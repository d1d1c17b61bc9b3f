//! The private admin API: what operators and the command line ask of a running instance.
//!
//! Every route needs the admin key as a Bearer token, a Host that is this listener's, and no sign of a foreign page.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::directives::{self, Deciding};
use super::host::{self, Hosts};
use super::{dead_letters, known, ledger};
use crate::clock::Clock;
use crate::http::{NO_ROUTE, Problem, WRONG_METHOD};
use crate::ledger::{Ledger, LedgerError, SqliteLedger};
use crate::model::{Reason, Session, SessionId, TenantId, UserId};
use crate::policy::{ReasonCode, Verdict};
use crate::provider::ProviderError;
use crate::queue::{BrokerCounts, BrokerHealth, DeadLetters, Queue, QueueError, look_at_once};
use crate::worker::{Enforcer as _, Evaluation, LimiterSign, Look, StepError, TenantEnforcer};

/// Dead letters and decisions on one page at most.
pub(super) const PAGE_MAX: usize = 1_000;
pub(super) const PAGE_DEFAULT: usize = 100;

/// What the admin API works on.
pub struct Admin {
    pub tenants: BTreeMap<TenantId, Arc<TenantEnforcer>>,
    pub queue: Arc<dyn Queue>,
    /// `None` where another process, the control, keeps them.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
    pub ledger: Arc<dyn Ledger>,
    /// `None` where another process, the control, decides.
    pub deciding: Option<Deciding>,
    pub clock: Clock,
    /// The users seen; `None` where another process, the control, keeps them.
    pub users: Option<SqliteLedger>,
    pub key: SecretString,
    pub hosts: Hosts,
}

/// `/admin/v1/…`
pub fn router(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    Router::new()
        .route("/admin/v1/status", get(status))
        .route("/admin/v1/users/{uid}/sessions", get(sessions))
        .route("/admin/v1/users/{uid}/sessions/{session}", axum::routing::delete(end_session))
        .route("/admin/v1/users/{uid}/enforce", post(enforce))
        .route("/admin/v1/users/{uid}/decisions", get(decisions))
        .route("/admin/v1/users", get(known::list))
        .route("/admin/v1/users/count", get(known::count))
        .route("/admin/v1/users/import", post(known::import))
        .route("/admin/v1/dead-letters", get(dead_letters::list))
        .route("/admin/v1/dead-letters/redrive", post(dead_letters::redrive))
        .route("/admin/v1/dead-letters/drop", post(dead_letters::discard))
        .merge(ledger::routes())
        .route("/admin/v1/directives", get(directives::list).put(directives::put))
        .route("/admin/v1/directives/{*key}", axum::routing::delete(directives::remove))
        .route("/admin/v1/budget", get(directives::budget))
        .route("/admin/v1/resume", post(directives::resume))
        .fallback(async || NO_ROUTE)
        .method_not_allowed_fallback(async || WRONG_METHOD)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

const NO_KEY: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "admin_key",
    "send the key in data_dir/admin.key as a Bearer token in the Authorization header",
);
pub(super) const BAD_UID: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "uid", "a uid is 1 to 50 letters, digits, '_' and '-'");
pub(super) const BAD_SESSION: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "session", "a session id is 32 hex digits");
const NO_TENANT: Problem =
    Problem::new(StatusCode::NOT_FOUND, "tenant", "no such tenant is configured: name one with ?tenant=");
const NO_SESSION: Problem = Problem::new(StatusCode::NOT_FOUND, "no_session", "the user has no such session");

/// Refuses what does not carry the key, and what a browser sends on behalf of a foreign page.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = host::named(&request);
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let own_site = site.is_none_or(|site| site == "same-origin" || site == "none");
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    let own_origin = origin.is_none_or(|origin| Some(origin) == host);
    if !own_site || !own_origin || !host.is_some_and(|host| admin.hosts.allow(host)) {
        return host::FOREIGN.into_response();
    }
    let claimed = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !bool::from(claimed.as_bytes().ct_eq(admin.key.expose_secret().as_bytes())) {
        return NO_KEY.into_response();
    }
    next.run(request).await
}

const ELSEWHERE: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "elsewhere",
    "this process keeps neither dead letters nor decisions nor users: ask the one that runs with --role control",
);

impl Admin {
    /// The control process keeps dead letters and decisions of all.
    pub(super) fn dead_letters(&self) -> Result<&dyn DeadLetters, Problem> {
        self.dead_letters.as_deref().ok_or(ELSEWHERE)
    }

    /// The control process keeps the users seen of all.
    pub(super) fn users(&self) -> Result<&SqliteLedger, Problem> {
        self.users.as_ref().ok_or(ELSEWHERE)
    }

    /// The tenant that is named, without a name the default one, or the only one.
    pub(super) fn tenant(&self, named: Option<&str>) -> Result<(&TenantId, &Arc<TenantEnforcer>), Problem> {
        let name = named.unwrap_or(TenantId::DEFAULT);
        let only = || (named.is_none() && self.tenants.len() == 1).then(|| self.tenants.first_key_value()).flatten();
        TenantId::parse(name).ok().and_then(|id| self.tenants.get_key_value(&id)).or_else(only).ok_or(NO_TENANT)
    }

    fn subject(&self, uid: &str, of: &OfTenant) -> Result<(TenantId, &Arc<TenantEnforcer>, UserId), Problem> {
        let user = UserId::parse(uid).map_err(|_grammar| BAD_UID)?;
        let (tenant, enforcer) = self.tenant(of.tenant.as_deref())?;
        Ok((tenant.clone(), enforcer, user))
    }
}

/// Which tenant a user belongs to; without it the default one, or the only one.
#[derive(Deserialize)]
struct OfTenant {
    tenant: Option<String>,
}

async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Problem> {
    let lanes = admin.queue.stats().await.map_err(queue_problem)?;
    let tenants: Vec<_> = admin
        .tenants
        .iter()
        .map(|(id, enforcer)| {
            let limiter = enforcer.vendor_limiter().map(LimiterSign::as_str);
            json!({ "tenant": id.as_str(), "state": enforcer.state().as_str(), "vendor_limiter": limiter })
        })
        .collect();
    let lanes: Vec<_> = lanes
        .iter()
        .map(|lane| {
            json!({
                "tenant": lane.tenant.as_str(),
                "lane": lane.lane.as_str(),
                "ready": lane.ready,
                "unsettled": lane.unsettled,
                "delayed": lane.delayed,
                "dead": lane.dead,
                "oldest_accepted_at": lane.oldest_accepted_at.map(|at| at.to_string()),
            })
        })
        .collect();
    let counts = admin.queue.broker_counts().await;
    let broker = admin.queue.broker().await.map(|broker| shown_broker(&broker, counts));
    Ok(Json(json!({ "tenants": tenants, "queue": lanes, "broker": broker })))
}

fn shown_broker(broker: &BrokerHealth, counts: Option<BrokerCounts>) -> Value {
    json!({
        "up": broker.up,
        "blocked": broker.blocked,
        "spooling": broker.spooling,
        "trouble": broker.trouble,
        "spool_bytes": broker.spool_bytes,
        "spool_messages": broker.spool_messages,
        "spool_oldest_accepted_at": broker.spool_oldest_accepted_at.map(|at| at.to_string()),
        "delayed": counts.map(|counts| counts.delayed),
        "dead": counts.map(|counts| counts.dead),
    })
}

async fn sessions(
    State(admin): State<Arc<Admin>>,
    Path(uid): Path<String>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let (tenant, enforcer, user) = admin.subject(&uid, &of)?;
    let look = Look { user: user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run: true };
    let evaluation = enforcer.evaluate(&look).await.map_err(step_problem)?;
    Ok(Json(shown(&tenant, &user, enforcer, &evaluation)))
}

#[derive(Deserialize)]
struct EnforceQuery {
    tenant: Option<String>,
    #[serde(default)]
    dry_run: bool,
    /// Put a message into the queue instead of looking at once.
    #[serde(default)]
    queued: bool,
}

async fn enforce(
    State(admin): State<Arc<Admin>>,
    Path(uid): Path<String>,
    Query(query): Query<EnforceQuery>,
) -> Result<Response, Problem> {
    let (tenant, enforcer, user) = admin.subject(&uid, &OfTenant { tenant: query.tenant })?;
    if query.queued {
        let id = look_at_once(&*admin.queue, &tenant, &user).await.map_err(queue_problem)?;
        return Ok((StatusCode::ACCEPTED, Json(json!({ "id": id.as_str() }))).into_response());
    }
    let look = Look { user: user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run: query.dry_run };
    let evaluation = enforcer.evaluate(&look).await.map_err(step_problem)?;
    let mut answer = shown(&tenant, &user, enforcer, &evaluation);
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("dry_run".to_owned(), json!(query.dry_run));
        answer.insert("outcomes".to_owned(), json!(evaluation.outcomes));
        answer.insert("decision".to_owned(), json!(evaluation.decision));
    }
    Ok(Json(answer).into_response())
}

async fn end_session(
    State(admin): State<Arc<Admin>>,
    Path((uid, session)): Path<(String, String)>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let (_, enforcer, user) = admin.subject(&uid, &of)?;
    let session = SessionId::parse(&session).map_err(|_grammar| BAD_SESSION)?;
    let ended = enforcer.end(&user, session).await.map_err(step_problem)?.ok_or(NO_SESSION)?;
    Ok(Json(json!({ "uid": user.as_str(), "session": session.to_string(), "ended": ended })))
}

#[derive(Deserialize)]
struct DecisionsQuery {
    tenant: Option<String>,
    limit: Option<usize>,
}

async fn decisions(
    State(admin): State<Arc<Admin>>,
    Path(uid): Path<String>,
    Query(query): Query<DecisionsQuery>,
) -> Result<Json<Value>, Problem> {
    let (tenant, _, user) = admin.subject(&uid, &OfTenant { tenant: query.tenant })?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    admin.dead_letters()?;
    let recent = admin.ledger.recent(&tenant, &user, limit).await.map_err(ledger_problem)?;
    Ok(Json(json!({ "uid": user.as_str(), "decisions": recent })))
}

/// A user's sessions with their verdicts, newest first, and both counts. Never a token.
fn shown(tenant: &TenantId, user: &UserId, enforcer: &TenantEnforcer, evaluation: &Evaluation) -> Value {
    let verdict_of = |session: &Session| -> Option<&Verdict> {
        evaluation.decision.as_ref()?.verdicts.iter().find(|verdict| verdict.digest == session.digest)
    };
    let sessions: Vec<Value> = evaluation
        .view
        .sessions
        .iter()
        .map(|session| {
            let (verdict, device) = (verdict_of(session), &session.device);
            json!({
                "session": session.id().to_string(),
                "login_at": session.login_at.map(|at| at.to_string()),
                "from_the_future": enforcer.is_from_the_future(session),
                "device_type": device.device_type,
                "device": device.device,
                "os": device.os,
                "browser": device.browser,
                "city": device.city,
                "country": device.country,
                "ip": device.ip,
                "action": verdict.map(|verdict| verdict.action.as_str()),
                "reason": verdict.and_then(|verdict| verdict.reason).map(ReasonCode::as_str),
            })
        })
        .collect();
    json!({
        "tenant": tenant.as_str(),
        "uid": user.as_str(),
        "complete": evaluation.view.complete,
        "session_count": sessions.len(),
        "device_count": evaluation.devices,
        "sessions": sessions,
    })
}

/// The answer says whose turn it is; the log has the cause.
pub(super) fn queue_problem(error: QueueError) -> Problem {
    tracing::error!("the queue cannot be asked: {:#}", anyhow::Error::new(error));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "queue", "the queue cannot be asked now")
}

/// The answer says whose turn it is; the log has the cause.
pub(super) fn ledger_problem(error: LedgerError) -> Problem {
    tracing::error!("the ledger cannot be asked: {:#}", anyhow::Error::new(error));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be asked now")
}

/// The answer says whose turn it is; the log has the cause.
fn step_problem(error: StepError) -> Problem {
    let problem = match &error {
        StepError::Provider(ProviderError::Unauthorized(_)) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "provider_unauthorized",
            "LoginRadius refuses our credentials: check api_key, api_secret and the allowed addresses",
        ),
        StepError::Provider(ProviderError::UserUnknown(_)) => {
            Problem::new(StatusCode::NOT_FOUND, "no_user", "LoginRadius does not know this user")
        }
        StepError::Provider(ProviderError::Refused(_)) => {
            Problem::new(StatusCode::BAD_GATEWAY, "provider_refused", "LoginRadius refused the request")
        }
        StepError::Provider(_) | StepError::Deadline => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", "LoginRadius does not answer now")
        }
        StepError::Directives(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "directives", "there are no current directives")
        }
        StepError::Budget(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_grant",
            "nobody grants a part of the revocation budget now",
        ),
        StepError::Ledger(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be written now")
        }
    };
    tracing::warn!("an operator's request failed: {:#}", anyhow::Error::new(error));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_why_the_queue_cannot_be_asked() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            queue_problem(QueueError::Unavailable(anyhow::anyhow!("disk full").context("cannot commit")));
        });
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("cannot commit: disk full"), "{log}");
    }
}
