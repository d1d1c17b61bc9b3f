//! The admin API's directives: what people decide at run time, and what the brakes have decided.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::Admin;
use crate::directives::{BadEntry, ChangeError, Control, Entry};
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

/// Who changes something, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    owner: String,
    reason: String,
}

impl Word {
    fn check(&self) -> Result<(), Failure> {
        Entry::check_word(&self.owner, &self.reason).map_err(Failure::Bad)
    }
}

impl Admin {
    fn deciding(&self) -> Result<&Deciding, Problem> {
        self.deciding.as_ref().ok_or(ELSEWHERE)
    }
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Problem> {
    let entries = admin.deciding()?.control.entries();
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut shown = entry.to_json();
            if let Some(shown) = shown.as_object_mut() {
                shown.insert("key".to_owned(), json!(entry.key()));
            }
            shown
        })
        .collect();
    Ok(Json(json!({ "directives": entries })))
}

/// Puts one in force. Where it is a mode, those whom the one before held back are looked at again.
pub(super) async fn put(State(admin): State<Arc<Admin>>, Json(written): Json<Value>) -> Result<Json<Value>, Failure> {
    let deciding = admin.deciding()?;
    let entry = Entry::read(written, admin.clock.now()).map_err(Failure::Bad)?;
    let (key, tenant) = (entry.key(), entry.tenant.clone());
    let held = if entry.enforces() { admin.held(&tenant, Timestamp::MIN).await? } else { Vec::new() };
    deciding.control.put(entry).await?;
    Ok(Json(json!({ "key": key, "looked_at_again": admin.look(&tenant, held).await? })))
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(key): Path<String>,
    Json(word): Json<Word>,
) -> Result<Json<Value>, Failure> {
    word.check()?;
    let control = &admin.deciding()?.control;
    let known = control.entries().into_iter().find(|entry| entry.key() == key).ok_or(NO_DIRECTIVE)?;
    let held = if known.is_of_all() { admin.held(&known.tenant, known.made_at).await? } else { Vec::new() };
    let entry = control.remove(&key, &word.owner, &word.reason).await?.ok_or(NO_DIRECTIVE)?;
    admin.look(&entry.tenant, held).await?;
    if let (Some(user), Some(enforcer)) = (entry.user(), admin.tenants.get(&entry.tenant)) {
        enforcer.release(user);
        admin.look(&entry.tenant, vec![user.clone()]).await?;
    }
    Ok(Json(json!({ "removed": entry.to_json() })))
}

#[derive(Deserialize)]
pub(super) struct OfTenant {
    tenant: Option<String>,
}

/// Lets a tenant go on whose budget was used up. All whom the brake held back are looked at again.
pub(super) async fn resume(
    State(admin): State<Arc<Admin>>,
    Query(of): Query<OfTenant>,
    Json(word): Json<Word>,
) -> Result<Json<Value>, Failure> {
    word.check()?;
    let tenant = admin.tenant(of.tenant.as_deref())?.0.clone();
    let control = &admin.deciding()?.control;
    // Whom it held back is read before: once the brake is gone nobody would know since when.
    let Some(stopped_at) = control.stopped_at(&tenant) else {
        return Ok(Json(json!({ "resumed": false, "looked_at_again": 0 })));
    };
    let held = admin.held(&tenant, stopped_at).await?;
    control.resume(&tenant, &word.owner, &word.reason).await?;
    let looked_at = admin.look(&tenant, held).await?;
    Ok(Json(json!({ "resumed": true, "stopped_at": stopped_at.to_string(), "looked_at_again": looked_at })))
}

/// What the budget is, how much of it was granted within the hour, and the busiest hour on record, by tenant.
pub(super) async fn budget(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Problem> {
    let Deciding { control, ledger } = admin.deciding()?;
    let mut tenants = Vec::new();
    for tenant in admin.tenants.keys() {
        let busiest_hour = ledger.busiest_hour(tenant).await;
        if let Err(error) = &busiest_hour {
            tracing::warn!("the ledger cannot be counted: {error:#}");
        }
        tenants.push(json!({
            "tenant": tenant.as_str(),
            "revocations": control.limit(),
            "granted": control.granted(tenant).await,
            "stopped": control.is_stopped(tenant),
            "busiest_hour": busiest_hour.ok(),
        }));
    }
    Ok(Json(json!({ "budget": tenants })))
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
