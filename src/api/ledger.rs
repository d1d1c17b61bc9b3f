//! The admin API's ledger: the decisions about a session, exports, recorded views, the check of the chain, erasure.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::poll_fn;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{Admin, BAD_SESSION, BAD_UID, ledger_problem};
use crate::http::Problem;
use crate::ledger::{ExportFilter, Head, JsonLines, SqliteLedger};
use crate::model::{SessionId, TenantId, UserId};

pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/admin/v1/sessions/{session}/decisions", get(of_session))
        .route("/admin/v1/users/{uid}/forget", post(forget))
        .route("/admin/v1/ledger/export", get(export))
        .route("/admin/v1/ledger/views", get(views))
        .route("/admin/v1/ledger/verify", get(verify))
}

const BAD_TENANT: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "tenant", "a tenant is 1 to 64 of a-z, 0-9, '_' and '-'");
const BAD_SINCE: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "since", "`since` is a time such as 2026-01-31T00:00:00Z");
const BAD_HEAD: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "head", "a head is SEQ:MAC, as the log and the check of the ledger print it");

/// Which tenant. Not only those that are configured: the ledger may be about others.
#[derive(Deserialize)]
struct OfTenant {
    tenant: Option<String>,
}

impl OfTenant {
    fn or_all(&self) -> Result<Option<TenantId>, Problem> {
        self.tenant.as_deref().map(TenantId::parse).transpose().map_err(|_grammar| BAD_TENANT)
    }

    fn or_default(&self, admin: &Admin) -> Result<TenantId, Problem> {
        let named = self.or_all()?;
        Ok(named.unwrap_or_else(|| admin.the_tenant()))
    }
}

async fn of_session(
    State(admin): State<Arc<Admin>>,
    Path(session): Path<String>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let session = SessionId::parse(&session).map_err(|_grammar| BAD_SESSION)?;
    let decisions = admin.own_ledger()?.by_session(&of.or_default(&admin)?, session).await.map_err(ledger_problem)?;
    Ok(Json(json!({ "session": session.to_string(), "decisions": decisions })))
}

async fn forget(
    State(admin): State<Arc<Admin>>,
    Path(uid): Path<String>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let user = UserId::parse(&uid).map_err(|_grammar| BAD_UID)?;
    let tenant = of.or_default(&admin)?;
    let erased = admin.own_ledger()?.forget(&tenant, &user).await.map_err(ledger_problem)?;
    Ok(Json(json!({
        "tenant": tenant.as_str(),
        "uid": user.as_str(),
        "decisions": erased.decisions,
        "was_known": erased.known,
        "wiped": erased.wiped,
    })))
}

#[derive(Deserialize)]
struct ExportQuery {
    tenant: Option<String>,
    uid: Option<String>,
    since: Option<String>,
}

async fn export(State(admin): State<Arc<Admin>>, Query(query): Query<ExportQuery>) -> Result<Response, Problem> {
    let ledger = admin.own_ledger()?;
    let user = query.uid.as_deref().map(UserId::parse).transpose().map_err(|_grammar| BAD_UID)?;
    let since = query.since.map(|since| since.parse::<Timestamp>()).transpose().map_err(|_grammar| BAD_SINCE)?;
    let of = OfTenant { tenant: query.tenant };
    let tenant = if user.is_some() { Some(of.or_default(&admin)?) } else { of.or_all()? };
    let lines = ledger.export(ExportFilter { since, tenant, user }).await.map_err(ledger_problem)?;
    Ok(streamed(lines))
}

async fn views(State(admin): State<Arc<Admin>>, Query(of): Query<OfTenant>) -> Result<Response, Problem> {
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

#[derive(Deserialize)]
struct VerifyQuery {
    head: Option<String>,
}

async fn verify(State(admin): State<Arc<Admin>>, Query(query): Query<VerifyQuery>) -> Result<Json<Value>, Problem> {
    let head = query.head.map(|head| head.parse::<Head>()).transpose().map_err(|_grammar| BAD_HEAD)?;
    let verified = admin.own_ledger()?.verify(head).await.map_err(|error| unreadable(&error))?;
    Ok(Json(json!(verified)))
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
