//! The users that are known: whom the sweep looks at, and those who were there before us.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::input::{OfTenant, OptionalWord};
use super::{Admin, PAGE_DEFAULT, PAGE_MAX, ledger_problem};
use crate::api::input::{Body, PageSize, Params};
use crate::http::Problem;
use crate::ledger::KnownUser;
use crate::model::UserId;

/// Users that one request may bring, about 60 bytes each.
const IMPORT_MAX: usize = 10_000;
/// Bytes of such a request.
const IMPORT_BYTES_MAX: usize = 2 << 20;

const TOO_MANY: Problem =
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", "one request brings 10,000 users at most: send several");
const BAD_UIDS: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "uid",
    "nothing was imported: every uid must be 1 to 50 letters, digits, '_' and '-'",
);

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(count)).routes(routes!(import))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// `next_after` of the page before.
    #[serde(default)]
    after: String,
    /// Users on one page.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<PageSize<PAGE_MAX>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Users {
    users: Vec<Known>,
    next_after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Known {
    uid: String,
    /// To within 20 minutes.
    seen_at: Timestamp,
    /// When they were last looked at, or put into the queue for a look.
    looked_at: Option<Timestamp>,
    /// `event` or `import`.
    source: &'static str,
}

impl Known {
    pub(super) fn of(known: &KnownUser) -> Self {
        Self {
            uid: known.user.as_str().to_owned(),
            seen_at: time(known.seen_at_ms),
            looked_at: Some(known.asked_at_ms).filter(|asked| *asked > 0).map(time),
            source: known.source.as_str(),
        }
    }
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The users that are known, by uid.
#[utoipa::path(get, path = "/admin/v1/users", operation_id = "known_users", params(OfTenant, ListQuery),
    responses((status = 200, body = Users), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn list(
    State(admin): State<Arc<Admin>>,
    Params(of): Params<OfTenant>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Users>, Problem> {
    let (tenant, _) = admin.tenant(of.tenant.as_deref())?;
    let limit = PageSize::or(query.limit, PAGE_DEFAULT);
    let users = admin.users()?.users_page(tenant, &query.after, limit).await.map_err(ledger_problem)?;
    let next = users.last().filter(|_| users.len() == limit).map(|last| last.user.as_str().to_owned());
    Ok(Json(Users { users: users.iter().map(Known::of).collect(), next_after: next }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    tenant: String,
    users: u64,
    /// When the one was last looked at who has waited longest.
    waiting_since: Option<Timestamp>,
}

/// How many are known, and since when the one waits who was looked at longest ago.
#[utoipa::path(get, path = "/admin/v1/users/count", params(OfTenant),
    responses((status = 200, body = Count), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn count(State(admin): State<Arc<Admin>>, Params(of): Params<OfTenant>) -> Result<Json<Count>, Problem> {
    let (tenant, _) = admin.tenant(of.tenant.as_deref())?;
    let count = admin.users()?.users_count(tenant).await.map_err(ledger_problem)?;
    Ok(Json(Count {
        tenant: tenant.as_str().to_owned(),
        users: count.users,
        waiting_since: count.oldest_asked_at_ms.map(time),
    }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    tenant: Option<String>,
    #[schema(max_items = 10000)]
    uids: Vec<String>,
    owner: Option<String>,
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ImportedUsers {
    tenant: String,
    imported: u64,
    already_known: u64,
}

/// Makes users known who were there before Soloist, so that the sweep looks at them.
#[utoipa::path(post, path = "/admin/v1/users/import", request_body = Import,
    responses((status = 200, body = ImportedUsers), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn import(
    State(admin): State<Arc<Admin>>,
    Body(import): Body<Import, IMPORT_BYTES_MAX>,
) -> Result<Json<ImportedUsers>, Problem> {
    let (tenant, _) = admin.tenant(import.tenant.as_deref())?;
    if import.uids.len() > IMPORT_MAX {
        return Err(TOO_MANY);
    }
    let users: Result<Vec<UserId>, _> = import.uids.iter().map(|uid| UserId::parse(uid)).collect();
    let users = users.map_err(|_grammar| BAD_UIDS)?;
    let known = admin.users()?;
    let act = format!("import/{tenant}/{}", users.len());
    admin.audit(act, OptionalWord::new(import.owner, import.reason)).await?;
    let imported = known.import_users(tenant, users).await.map_err(ledger_problem)?;
    Ok(Json(ImportedUsers {
        tenant: tenant.as_str().to_owned(),
        imported: imported.new,
        already_known: imported.known,
    }))
}
