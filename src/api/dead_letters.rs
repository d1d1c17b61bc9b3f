//! The admin API's dead letters: list, put back, drop.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{Admin, PAGE_DEFAULT, PAGE_MAX, queue_problem};
use crate::http::Problem;
use crate::queue::{DeadLetter, Selection};

/// Which dead letters: `all`, or `why`, or `ids`; nothing chosen chooses nothing.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    #[serde(default)]
    all: bool,
    why: Option<String>,
    ids: Option<Vec<u64>>,
}

impl Choice {
    fn selection(self) -> Result<Selection, Problem> {
        match (self.all, self.why, self.ids) {
            (true, None, None) => Ok(Selection::All),
            (false, Some(why), None) => Ok(Selection::Why(why)),
            (false, None, Some(ids)) => Ok(Selection::Ids(ids)),
            _ => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "selection",
                "choose dead letters by exactly one of all, why and ids",
            )),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct DeadQuery {
    why: Option<String>,
    id: Option<u64>,
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<DeadQuery>,
) -> Result<Json<Value>, Problem> {
    let selection = match (query.id, query.why) {
        (Some(id), _) => Selection::Ids(vec![id]),
        (None, Some(why)) => Selection::Why(why),
        (None, None) => Selection::All,
    };
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let dead = admin.dead_letters()?.list(&selection, query.after, limit).await.map_err(queue_problem)?;
    let next = dead.last().filter(|_| dead.len() == limit).map(|last| last.id);
    Ok(Json(json!({ "dead_letters": dead.iter().map(dead_letter).collect::<Vec<_>>(), "next_after": next })))
}

pub(super) async fn redrive(
    State(admin): State<Arc<Admin>>,
    Json(choice): Json<Choice>,
) -> Result<Json<Value>, Problem> {
    let (selection, dead_letters) = (choice.selection()?, admin.dead_letters()?);
    let chosen = dead_letters.list(&selection, 0, PAGE_MAX).await.map_err(queue_problem)?;
    // Nobody works on a tenant that is not configured: such a message stays where it is seen.
    let ids = chosen.iter().filter(|dead| admin.tenants.contains_key(&dead.tenant)).map(|dead| dead.id).collect();
    let redriven = dead_letters.redrive(&Selection::Ids(ids)).await.map_err(queue_problem)?;
    Ok(Json(json!({ "redriven": redriven })))
}

pub(super) async fn discard(
    State(admin): State<Arc<Admin>>,
    Json(choice): Json<Choice>,
) -> Result<Json<Value>, Problem> {
    let selection = choice.selection()?;
    let dropped = admin.dead_letters()?.discard(&selection).await.map_err(queue_problem)?;
    Ok(Json(json!({ "dropped": dropped })))
}

fn dead_letter(dead: &DeadLetter) -> Value {
    json!({
        "id": dead.id,
        "tenant": dead.tenant.as_str(),
        "lane": dead.lane.as_str(),
        "why": dead.why,
        "attempt": dead.attempt,
        "died_at": dead.died_at.to_string(),
        "uid": dead.event.as_ref().map(|event| event.user.as_str()),
        "event_id": dead.event.as_ref().map(|event| event.id.as_str()),
        "login_at": dead.event.as_ref().and_then(|event| event.login_at).map(|at| at.to_string()),
        "body_bytes": dead.body_bytes,
        "body_sha256": hex::encode(dead.body_sha256),
        "problem": dead.problem,
    })
}
