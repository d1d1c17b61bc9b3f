//! The directives: what people decide at run time, and what the brakes have decided.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Admin;
use super::input::{NOT_US, OfTenant, Word};
use crate::api::input::{Body, Params};
use crate::directives::{BadEntry, ChangeError, Control, Entry, OURSELVES};
use crate::http::Problem;
use crate::ledger::SqliteLedger;
use crate::model::{TenantId, UserId};
use crate::queue::look_again;

/// Where directives are decided, and what that takes.
pub struct Deciding {
    pub control: Arc<Control>,
    pub ledger: SqliteLedger,
}

const ELSEWHERE: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "elsewhere",
    "this process decides no directives: ask the one that runs with --role control",
);
const NO_DIRECTIVE: Problem = Problem::new(StatusCode::NOT_FOUND, "no_directive", "there is no directive of that key");
const NOT_WRITTEN: Problem =
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "directives", "the directives cannot be written now");
/// How much the clocks of workers may differ from ours.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_mins(10);
/// How far back those are looked for whom a mode or a brake held something back.
const HELD_SINCE_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A key has slashes, so that it may stand in a path as it is.
pub(super) const BY_KEY: &str = "/admin/v1/directives/{*key}";

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(list, put))
        .routes(routes!(remove))
        .routes(routes!(budget))
        .routes(routes!(resume))
}

impl Admin {
    pub(super) fn deciding(&self) -> Result<&Deciding, Problem> {
        self.deciding.as_ref().ok_or(ELSEWHERE)
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Directives {
    /// Each as it can be put, with its key.
    directives: Vec<Value>,
}

/// An entry as it can be put, with its key.
pub(super) fn shown_entry(entry: &Entry) -> Value {
    let mut shown = entry.to_json();
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("key".to_owned(), json!(entry.key()));
    }
    shown
}

/// What was decided at run time and holds now.
#[utoipa::path(get, path = "/admin/v1/directives", operation_id = "directives",
    responses((status = 200, body = Directives), (status = 401), (status = 403), (status = 404)))]
async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Directives>, Problem> {
    let entries = admin.deciding()?.control.entries();
    Ok(Json(Directives { directives: entries.iter().map(shown_entry).collect() }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Holds {
    /// Under which name it is listed and removed.
    #[schema(example = "mode/default")]
    key: String,
    /// Users who are looked at again since something was held back from them.
    looked_at_again: usize,
}

/// Puts a directive in force. Where it is a mode, those whom the one before held back are looked at again.
#[utoipa::path(put, path = "/admin/v1/directives", request_body = serde_json::Map<String, Value>,
    responses((status = 200, body = Holds), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn put(State(admin): State<Arc<Admin>>, Body(written): Body<Value>) -> Result<Json<Holds>, Failure> {
    admin.put_directive(written).await
}

#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    /// As it was.
    removed: Value,
}

/// Takes a directive out of force; what the configuration says holds again.
#[utoipa::path(delete, path = "/admin/v1/directives/{*key}", params(("key" = String, Path)), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(key): Path<String>,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    admin.remove_directive(&key, &word).await
}

impl Admin {
    pub(super) async fn put_directive(&self, written: Value) -> Result<Json<Holds>, Failure> {
        let deciding = self.deciding()?;
        let entry = Entry::read(written, self.clock.now()).map_err(Failure::Bad)?;
        if entry.owner == OURSELVES {
            return Err(NOT_US.into());
        }
        let (key, tenant) = (entry.key(), entry.tenant.clone());
        let held = if entry.enforces() { self.held(&tenant, Timestamp::MIN).await? } else { Vec::new() };
        deciding.control.put(entry).await?;
        Ok(Json(Holds { key, looked_at_again: self.look(&tenant, held).await? }))
    }

    pub(super) async fn remove_directive(&self, key: &str, word: &Word) -> Result<Json<Removed>, Failure> {
        word.check()?;
        let control = &self.deciding()?.control;
        let known = control.entries().into_iter().find(|entry| entry.key() == key).ok_or(NO_DIRECTIVE)?;
        let held = if known.is_of_all() { self.held(&known.tenant, known.made_at).await? } else { Vec::new() };
        let entry = control.remove(key, &word.owner, &word.reason).await?.ok_or(NO_DIRECTIVE)?;
        self.look(&entry.tenant, held).await?;
        if let (Some(user), Some(enforcer)) = (entry.user(), self.tenants.get(&entry.tenant)) {
            enforcer.release(user);
            self.look(&entry.tenant, vec![user.clone()]).await?;
        }
        Ok(Json(Removed { removed: entry.to_json() }))
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Resumed {
    /// False where the tenant was not stopped.
    resumed: bool,
    stopped_at: Option<Timestamp>,
    looked_at_again: usize,
}

/// Lets a tenant go on whose budget was used up. All whom the brake held back are looked at again.
#[utoipa::path(post, path = "/admin/v1/resume", params(OfTenant), request_body = Word,
    responses((status = 200, body = Resumed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn resume(
    State(admin): State<Arc<Admin>>,
    Params(of): Params<OfTenant>,
    Body(word): Body<Word>,
) -> Result<Json<Resumed>, Failure> {
    word.check()?;
    let tenant = admin.tenant(of.tenant.as_deref())?.0.clone();
    let control = &admin.deciding()?.control;
    // Whom it held back is read before: once the brake is gone nobody would know since when.
    let not_stopped = Resumed { resumed: false, stopped_at: None, looked_at_again: 0 };
    let Some(stopped_at) = control.stopped_at(&tenant) else { return Ok(Json(not_stopped)) };
    let held = admin.held(&tenant, stopped_at).await?;
    if control.resume(&tenant, &word.owner, &word.reason).await?.is_none() {
        return Ok(Json(not_stopped));
    }
    let looked_at_again = admin.look(&tenant, held).await?;
    Ok(Json(Resumed { resumed: true, stopped_at: Some(stopped_at), looked_at_again }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Budgets {
    budget: Vec<Budget>,
}

#[derive(Serialize, ToSchema)]
struct Budget {
    tenant: String,
    /// `budget.revocations`; missing where it is unlimited.
    revocations: Option<u32>,
    /// How much of it was granted within the hour.
    granted: u32,
    stopped: bool,
    /// Ends in the busiest hour on record.
    busiest_hour: Option<u64>,
}

/// What the budget is, how much of it was granted within the hour, and the busiest hour on record, by tenant.
#[utoipa::path(get, path = "/admin/v1/budget",
    responses((status = 200, body = Budgets), (status = 401), (status = 403), (status = 404)))]
async fn budget(State(admin): State<Arc<Admin>>) -> Result<Json<Budgets>, Problem> {
    let Deciding { control, ledger } = admin.deciding()?;
    let mut budget = Vec::new();
    for tenant in admin.tenants.keys() {
        let busiest_hour = ledger.busiest_hour(tenant).await;
        if let Err(error) = &busiest_hour {
            tracing::warn!("the ledger cannot be counted: {error:#}");
        }
        budget.push(Budget {
            tenant: tenant.as_str().to_owned(),
            revocations: control.limit(),
            granted: control.granted(tenant).await,
            stopped: control.is_stopped(tenant),
            busiest_hour: busiest_hour.ok(),
        });
    }
    Ok(Json(Budgets { budget }))
}

impl Admin {
    /// Those of whom something was held back since then, by the clocks of all machines.
    async fn held(&self, tenant: &TenantId, since: Timestamp) -> Result<Vec<UserId>, Problem> {
        let earliest = self.clock.now().checked_sub(HELD_SINCE_MAX).unwrap_or(Timestamp::MIN);
        let since = since.checked_sub(CLOCKS_DIFFER_MAX).unwrap_or(Timestamp::MIN).max(earliest);
        self.deciding()?.ledger.held_since(tenant, since).await.map_err(|error| {
            tracing::error!("the ledger cannot be read: {:#}", anyhow::Error::new(error));
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be read now: do it again")
        })
    }

    /// Puts users into the queue; returns how many. Where workers are told of changes, they are looked at once more when
    /// all have heard; and who cannot be put into the queue now is put there then.
    async fn look(&self, tenant: &TenantId, users: Vec<UserId>) -> Result<usize, Problem> {
        let (control, count) = (&self.deciding()?.control, users.len());
        let queued = look_again(&*self.queue, tenant, &users).await;
        if queued.is_err() || self.queue.broker().await.is_some() {
            control.look_later(tenant, users);
        }
        Ok(count)
    }
}

/// Why a directive was not changed.
pub(super) enum Failure {
    Problem(Problem),
    Bad(BadEntry),
}

impl Failure {
    pub(super) fn bad(problem: &str) -> Self {
        Self::Bad(BadEntry(problem.to_owned()))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Bad(bad) => Self::Bad(bad),
            ChangeError::Unavailable(error) => {
                tracing::error!("a directive cannot be written: {error:#}");
                Self::Problem(NOT_WRITTEN)
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Bad(bad) => {
                Problem::new(StatusCode::BAD_REQUEST, "directive", "").saying(&format!("the directive is wrong: {bad}"))
            }
        }
    }
}
