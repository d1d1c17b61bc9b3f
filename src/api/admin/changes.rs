//! Who changed what at run time, and why.

#![expect(unused_qualifications, reason = "the macro that describes parameters writes them so")]

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Admin, PAGE_DEFAULT, PAGE_MAX};
use crate::api::input::{PageSize, Params};
use crate::directives::Kept;
use crate::http::Problem;

const UNREADABLE: Problem =
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "directives", "the changes cannot be read now");

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangesQuery {
    /// `next_before` of the page before.
    before: Option<i64>,
    /// Changes on one page.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<PageSize<PAGE_MAX>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Changes {
    changes: Vec<ShownChange>,
    next_before: Option<i64>,
}

/// What was done, by whom and why.
#[derive(Serialize, ToSchema)]
struct ShownChange {
    seq: i64,
    at: Timestamp,
    /// `put`, `remove`, or what an operator did otherwise: `enforce`, `end`, `forget`, `import`, `redrive`, `drop`.
    #[schema(example = "put")]
    act: String,
    /// What it was done to.
    #[schema(example = "mode/default")]
    key: String,
    owner: String,
    reason: String,
    /// What was put.
    directive: Option<Value>,
}

impl ShownChange {
    fn of(kept: Kept) -> Self {
        let Kept { seq, at, key, owner, reason, entry, is_act } = kept;
        let (act, key) = match (is_act, key.split_once('/')) {
            (true, Some((act, rest))) => (act.to_owned(), rest.to_owned()),
            _ => (if entry.is_some() { "put" } else { "remove" }.to_owned(), key),
        };
        Self { seq, at, act, key, owner, reason, directive: entry }
    }
}

/// Who changed what, and why, newest first: directives, and what operators did otherwise.
#[utoipa::path(get, path = "/admin/v1/changes", params(ChangesQuery),
    responses((status = 200, body = Changes), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
pub(super) async fn changes(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<ChangesQuery>,
) -> Result<Json<Changes>, Problem> {
    let limit = PageSize::or(query.limit, PAGE_DEFAULT);
    let changes = admin.deciding()?.control.changes(query.before, limit).await.map_err(|error| {
        tracing::error!("the changes cannot be read: {error:#}");
        UNREADABLE
    })?;
    let next_before = changes.last().filter(|_| changes.len() == limit).map(|last| last.seq);
    Ok(Json(Changes { changes: changes.into_iter().map(ShownChange::of).collect(), next_before }))
}
