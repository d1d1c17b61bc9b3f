//! The ledger: the decisions about a session, exports, recorded views, the check of the chain, erasure.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::input::{NamedSession, NamedUser, OfTenant, OptionalWord};
use super::{Admin, ledger_problem};
use crate::api::input::{OptionalBody, Params};
use crate::http::Problem;
use crate::ledger::{ExportFilter, Head, JsonLines, SqliteLedger, Verified};
use crate::model::{TenantId, UserId};

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(of_session))
        .routes(routes!(forget))
        .routes(routes!(export))
        .routes(routes!(views))
        .routes(routes!(verify))
}

const BAD_UID: Problem = Problem::new(StatusCode::BAD_REQUEST, "uid", "a uid is 1 to 50 letters, digits, '_' and '-'");
const BAD_TENANT: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "tenant", "a tenant is 1 to 64 of a-z, 0-9, '_' and '-'");
const BAD_SINCE: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "since", "`since` is a time such as 2026-01-31T00:00:00Z");
const BAD_HEAD: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "head", "a head is SEQ:MAC, as the log and the check of the ledger print it");

/// Not only tenants that are configured: the ledger may be about others.
impl OfTenant {
    fn or_all(&self) -> Result<Option<TenantId>, Problem> {
        self.tenant.as_deref().map(TenantId::parse).transpose().map_err(|_grammar| BAD_TENANT)
    }

    fn or_default(&self, admin: &Admin) -> Result<TenantId, Problem> {
        let named = self.or_all()?;
        Ok(named.unwrap_or_else(|| admin.the_tenant()))
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct OfSession {
    session: String,
    /// As the ledger exports them, newest first.
    decisions: Vec<Value>,
}

/// What was decided about a session.
#[utoipa::path(get, path = "/admin/v1/sessions/{session}/decisions", params(("session" = String, Path, pattern = "^[0-9A-Fa-f]{32}$"), OfTenant),
    responses((status = 200, body = OfSession), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn of_session(
    State(admin): State<Arc<Admin>>,
    NamedSession(session): NamedSession,
    Params(of): Params<OfTenant>,
) -> Result<Json<OfSession>, Problem> {
    let decisions = admin.own_ledger()?.by_session(&of.or_default(&admin)?, session).await.map_err(ledger_problem)?;
    Ok(Json(OfSession { session: session.to_string(), decisions }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Forgotten {
    tenant: String,
    uid: String,
    decisions: u64,
    was_known: bool,
    /// What was deleted is overwritten on disk.
    wiped: bool,
}

/// Deletes all that the ledger has of a user.
#[utoipa::path(post, path = "/admin/v1/users/{uid}/forget", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant),
    request_body = Option<OptionalWord>,
    responses((status = 200, body = Forgotten), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn forget(
    State(admin): State<Arc<Admin>>,
    NamedUser(user): NamedUser,
    Params(of): Params<OfTenant>,
    OptionalBody(word): OptionalBody<OptionalWord>,
) -> Result<Json<Forgotten>, Problem> {
    let (ledger, tenant) = (admin.own_ledger()?, of.or_default(&admin)?);
    // Whom it forgot is not to be read there.
    admin.audit(format!("forget/{tenant}"), word).await?;
    let erased = ledger.forget(&tenant, &user).await.map_err(ledger_problem)?;
    Ok(Json(Forgotten {
        tenant: tenant.as_str().to_owned(),
        uid: user.as_str().to_owned(),
        decisions: erased.decisions,
        was_known: erased.known,
        wiped: erased.wiped,
    }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Only this user's.
    #[param(pattern = "^[A-Za-z0-9_-]{1,50}$")]
    uid: Option<String>,
    /// Only those decided since then, such as 2026-01-31T00:00:00Z.
    #[param(format = DateTime)]
    since: Option<String>,
}

/// The recorded decisions, oldest first, one JSON object a line.
#[utoipa::path(get, path = "/admin/v1/ledger/export", params(OfTenant, ExportQuery),
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn export(
    State(admin): State<Arc<Admin>>,
    Params(of): Params<OfTenant>,
    Params(query): Params<ExportQuery>,
) -> Result<Response, Problem> {
    let ledger = admin.own_ledger()?;
    let user = query.uid.as_deref().map(UserId::parse).transpose().map_err(|_grammar| BAD_UID)?;
    let since = query.since.map(|since| since.parse::<Timestamp>()).transpose().map_err(|_grammar| BAD_SINCE)?;
    let tenant = if user.is_some() { Some(of.or_default(&admin)?) } else { of.or_all()? };
    let lines = ledger.export(ExportFilter { since, tenant, user }).await.map_err(ledger_problem)?;
    Ok(streamed(lines))
}

/// The last recorded view of each user, one JSON object a line, as `soloist decide` reads them.
#[utoipa::path(get, path = "/admin/v1/ledger/views", params(OfTenant),
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn views(State(admin): State<Arc<Admin>>, Params(of): Params<OfTenant>) -> Result<Response, Problem> {
    let tenant = of.or_all()?;
    Ok(streamed(admin.own_ledger()?.views(tenant).await.map_err(ledger_problem)?))
}

/// Lines as they come. Where they cannot go on the answer breaks off, so that nobody takes it for whole.
fn streamed(mut lines: JsonLines) -> Response {
    let body = Body::from_stream(poll_fn(move |task| {
        lines.poll_recv(task).map(|line| {
            line.map(|line| {
                line.map(Bytes::from).inspect_err(|error| tracing::error!("the ledger cannot be read: {error:#}"))
            })
        })
    }));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct VerifyQuery {
    /// A head that the chain must still contain, as `SEQ:MAC`.
    #[param(pattern = "^[1-9][0-9]{0,17}:[0-9a-f]{64}$")]
    head: Option<String>,
}

/// Checks the chain of the ledger.
#[utoipa::path(get, path = "/admin/v1/ledger/verify", params(VerifyQuery),
    responses((status = 200, body = Verified), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn verify(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<VerifyQuery>,
) -> Result<Json<Verified>, Problem> {
    let head = query.head.map(|head| head.parse::<Head>()).transpose().map_err(|_grammar| BAD_HEAD)?;
    let verified = admin.own_ledger()?.verify(head).await.map_err(|error| unreadable(&error))?;
    Ok(Json(verified))
}

/// The answer says whose turn it is; the log has the cause.
fn unreadable(error: &anyhow::Error) -> Problem {
    tracing::error!("the ledger cannot be checked: {error:#}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be checked now; the log says why")
}

impl Admin {
    /// The control process keeps the ledger of all.
    fn own_ledger(&self) -> Result<&SqliteLedger, Problem> {
        self.users()
    }

    /// The tenant that is meant where none is named.
    fn the_tenant(&self) -> TenantId {
        let only = (self.tenants.len() == 1).then(|| self.tenants.keys().next().cloned()).flatten();
        only.unwrap_or_else(TenantId::default_tenant)
    }
}
