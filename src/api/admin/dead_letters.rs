//! The messages that were given up: list, put back, drop.

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

use super::input::OptionalWord;
use super::{Admin, PAGE_DEFAULT, PAGE_MAX, queue_problem};
use crate::api::input::{Body, PageSize, Params};
use crate::http::Problem;
use crate::queue::{DeadLetter, Selection};

/// Bytes of a choice; 100,000 ids fit.
const CHOICE_BYTES_MAX: usize = 2 << 20;

const SELECTION: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "selection",
    "choose dead letters by exactly one of all, why and ids; an id is below 2^63",
);

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(redrive)).routes(routes!(discard))
}

/// Which dead letters: exactly one of `all`, `why` and `ids`.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    #[serde(default)]
    all: bool,
    why: Option<String>,
    ids: Option<Vec<u64>>,
    owner: Option<String>,
    reason: Option<String>,
}

impl Choice {
    fn selection(self) -> Result<(Selection, OptionalWord), Problem> {
        let selection = match (self.all, self.why, self.ids) {
            (true, None, None) => Selection::All,
            (false, Some(why), None) => Selection::Why(why),
            (false, None, Some(ids)) if ids.iter().all(|id| is_id(*id)) => Selection::Ids(ids),
            _ => return Err(SELECTION),
        };
        Ok((selection, OptionalWord::new(self.owner, self.reason)))
    }
}

/// Numbers of rows are not larger than that.
fn is_id(id: u64) -> bool {
    i64::try_from(id).is_ok()
}

/// Ids that the record of one change names; of more it says how many.
const IDS_NAMED_MAX: usize = 100;
/// Characters of a reason in it.
const WHY_NAMED_MAX: usize = 64;

/// What is chosen, for the record.
fn named(selection: &Selection) -> String {
    match selection {
        Selection::All => "all".to_owned(),
        Selection::Why(why) => {
            format!("why={}", why.chars().filter(char::is_ascii_graphic).take(WHY_NAMED_MAX).collect::<String>())
        }
        Selection::Ids(ids) if ids.len() > IDS_NAMED_MAX => format!("{} ids", ids.len()),
        Selection::Ids(ids) => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadQuery {
    /// Only those that were given up for this.
    why: Option<String>,
    /// Only this one.
    id: Option<u64>,
    /// `next_after` of the page before.
    #[serde(default)]
    after: u64,
    /// Dead letters on one page.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<PageSize<PAGE_MAX>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DeadLettersAnswer {
    dead_letters: Vec<ShownDeadLetter>,
    next_after: Option<u64>,
}

#[derive(Serialize, ToSchema)]
struct ShownDeadLetter {
    id: u64,
    tenant: String,
    lane: &'static str,
    why: String,
    attempt: u32,
    died_at: Timestamp,
    /// Missing, as the next two, where the message cannot be read.
    uid: Option<String>,
    event_id: Option<String>,
    login_at: Option<Timestamp>,
    body_bytes: usize,
    body_sha256: String,
    /// What is wrong with it.
    problem: Option<String>,
}

/// The messages that were given up, by id.
#[utoipa::path(get, path = "/admin/v1/dead-letters", operation_id = "dead_letters", params(DeadQuery),
    responses((status = 200, body = DeadLettersAnswer), (status = 400), (status = 401), (status = 403), (status = 404), (status = 503)))]
async fn list(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<DeadQuery>,
) -> Result<Json<DeadLettersAnswer>, Problem> {
    if !is_id(query.after) || !query.id.is_none_or(is_id) {
        return Err(SELECTION);
    }
    let selection = match (query.id, query.why) {
        (Some(id), _) => Selection::Ids(vec![id]),
        (None, Some(why)) => Selection::Why(why),
        (None, None) => Selection::All,
    };
    let limit = PageSize::or(query.limit, PAGE_DEFAULT);
    let dead = admin.dead_letters()?.list(&selection, query.after, limit).await.map_err(queue_problem)?;
    let next = dead.last().filter(|_| dead.len() == limit).map(|last| last.id);
    Ok(Json(DeadLettersAnswer { dead_letters: dead.into_iter().map(shown).collect(), next_after: next }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Redriven {
    redriven: u64,
}

/// Puts dead letters back into the queue.
#[utoipa::path(post, path = "/admin/v1/dead-letters/redrive", request_body = Choice,
    responses((status = 200, body = Redriven), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn redrive(
    State(admin): State<Arc<Admin>>,
    Body(choice): Body<Choice, CHOICE_BYTES_MAX>,
) -> Result<Json<Redriven>, Problem> {
    let ((selection, word), dead_letters) = (choice.selection()?, admin.dead_letters()?);
    admin.audit(format!("redrive/{}", named(&selection)), word).await?;
    let chosen = dead_letters.list(&selection, 0, PAGE_MAX).await.map_err(queue_problem)?;
    // Nobody works on a tenant that is not configured: such a message stays where it is seen.
    let ids = chosen.iter().filter(|dead| admin.tenants.contains_key(&dead.tenant)).map(|dead| dead.id).collect();
    let redriven = dead_letters.redrive(&Selection::Ids(ids)).await.map_err(queue_problem)?;
    Ok(Json(Redriven { redriven }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Dropped {
    dropped: u64,
}

/// Throws dead letters away.
#[utoipa::path(post, path = "/admin/v1/dead-letters/drop", request_body = Choice,
    responses((status = 200, body = Dropped), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn discard(
    State(admin): State<Arc<Admin>>,
    Body(choice): Body<Choice, CHOICE_BYTES_MAX>,
) -> Result<Json<Dropped>, Problem> {
    let ((selection, word), dead_letters) = (choice.selection()?, admin.dead_letters()?);
    admin.audit(format!("drop/{}", named(&selection)), word).await?;
    let dropped = dead_letters.discard(&selection).await.map_err(queue_problem)?;
    Ok(Json(Dropped { dropped }))
}

fn shown(dead: DeadLetter) -> ShownDeadLetter {
    ShownDeadLetter {
        id: dead.id,
        tenant: dead.tenant.as_str().to_owned(),
        lane: dead.lane.as_str(),
        why: dead.why,
        attempt: dead.attempt,
        died_at: dead.died_at,
        uid: dead.event.as_ref().map(|event| event.user.as_str().to_owned()),
        event_id: dead.event.as_ref().map(|event| event.id.as_str().to_owned()),
        login_at: dead.event.as_ref().and_then(|event| event.login_at),
        body_bytes: dead.body_bytes,
        body_sha256: hex::encode(dead.body_sha256),
        problem: dead.problem,
    }
}
