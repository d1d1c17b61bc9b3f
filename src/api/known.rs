//! The admin API's known users: whom the sweep looks at, and those who were there before us.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{Admin, PAGE_DEFAULT, PAGE_MAX, ledger_problem};
use crate::http::Problem;
use crate::ledger::KnownUser;
use crate::model::UserId;

/// Users that one request may bring, about 60 bytes each.
const IMPORT_MAX: usize = 10_000;

const TOO_MANY: Problem =
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", "one request brings 10,000 users at most: send several");
const BAD_UIDS: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "uid",
    "nothing was imported: every uid must be 1 to 50 letters, digits, '_' and '-'",
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    tenant: Option<String>,
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, Problem> {
    let (tenant, _) = admin.tenant(query.tenant.as_deref())?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let users = admin.users()?.users_page(tenant, &query.after, limit).await.map_err(ledger_problem)?;
    let next = users.last().filter(|_| users.len() == limit).map(|last| last.user.as_str().to_owned());
    Ok(Json(json!({ "users": users.iter().map(shown).collect::<Vec<_>>(), "next_after": next })))
}

fn shown(known: &KnownUser) -> Value {
    json!({
        "uid": known.user.as_str(),
        "seen_at": time(known.seen_at_ms),
        "looked_at": Some(known.asked_at_ms).filter(|asked| *asked > 0).map(time),
        "source": known.source.as_str(),
    })
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountQuery {
    tenant: Option<String>,
}

pub(super) async fn count(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<CountQuery>,
) -> Result<Json<Value>, Problem> {
    let (tenant, _) = admin.tenant(query.tenant.as_deref())?;
    let count = admin.users()?.users_count(tenant).await.map_err(ledger_problem)?;
    Ok(Json(json!({
        "tenant": tenant.as_str(),
        "users": count.users,
        "waiting_since": count.oldest_asked_at_ms.map(time),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    tenant: Option<String>,
    uids: Vec<String>,
}

pub(super) async fn import(
    State(admin): State<Arc<Admin>>,
    Json(import): Json<Import>,
) -> Result<Json<Value>, Problem> {
    let (tenant, _) = admin.tenant(import.tenant.as_deref())?;
    if import.uids.len() > IMPORT_MAX {
        return Err(TOO_MANY);
    }
    let users: Result<Vec<UserId>, _> = import.uids.iter().map(|uid| UserId::parse(uid)).collect();
    let users = users.map_err(|_grammar| BAD_UIDS)?;
    let imported = admin.users()?.import_users(tenant, users).await.map_err(ledger_problem)?;
    Ok(Json(json!({ "tenant": tenant.as_str(), "imported": imported.new, "already_known": imported.known })))
}
