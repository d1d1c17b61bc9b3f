//! What became of a session, from what is known here: LoginRadius is not asked, so it may be away.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::input;
use super::shown::text_of;
use super::who::{Holder, MayKnow};
use crate::api::input::Body;
use crate::http::Problem;
use crate::ledger::{Ending, Known};
use crate::model::SessionId;

const WHICH: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "which",
    "name a session by `session` (32 hex digits) or by `token`, one of them",
);

/// The session that is asked about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VerdictRequest {
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

/// What is known. It never claims that a session is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerdictWord {
    /// We have ended it within the last day.
    Evicted,
    /// It was kept when its user was looked at last.
    NotKnownEvicted,
    Unknown,
}

#[derive(Serialize, ToSchema)]
pub(super) struct VerdictAnswer {
    verdict: VerdictWord,
    session: String,
    /// Why it was ended.
    #[schema(example = "displaced_by_newer_login")]
    reason: Option<&'static str>,
    /// When it was ended.
    at: Option<Timestamp>,
    /// The kind of device that took over.
    by_device_type: Option<String>,
    /// When its user was looked at, where it was kept then.
    as_of: Option<Timestamp>,
}

/// What became of a session, for a check at each request. It is answered from memory.
#[utoipa::path(post, path = "/v1/verdict", request_body = VerdictRequest,
    responses((status = 200, body = VerdictAnswer), (status = 400), (status = 401), (status = 403), (status = 408), (status = 413), (status = 415), (status = 429)),
    security(("app_key" = [])))]
pub(super) async fn verdict(
    State(api): State<Arc<Api>>,
    MayKnow(tenant): MayKnow,
    Body(request): Body<VerdictRequest>,
) -> Result<Json<VerdictAnswer>, Problem> {
    let session = match (request.session, request.token) {
        (Some(id), None) => SessionId::parse(&id).map_err(|_grammar| WHICH)?,
        (None, Some(token)) => input::token(&token)?.digest().session_id(),
        _ => return Err(WHICH),
    };
    let nothing = VerdictAnswer {
        verdict: VerdictWord::Unknown,
        session: session.to_string(),
        reason: None,
        at: None,
        by_device_type: None,
        as_of: None,
    };
    Ok(Json(match api.sessions.endings.of(&tenant, session, api.sessions.clock.now()) {
        Known::Ended(ending) => VerdictAnswer {
            verdict: VerdictWord::Evicted,
            reason: Some(ending.reason.as_str()),
            at: Some(ending.at),
            by_device_type: ending.by.device_type.clone(),
            ..nothing
        },
        Known::Kept { as_of } => VerdictAnswer { verdict: VerdictWord::NotKnownEvicted, as_of: Some(as_of), ..nothing },
        Known::Unknown => nothing,
    }))
}

/// Why a session was ended. All is null where that is not known, or not so.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct WhyAnswer {
    #[schema(example = "displaced_by_newer_login")]
    reason: Option<&'static str>,
    /// For people.
    text: Option<&'static str>,
    at: Option<Timestamp>,
    /// The kind of device that took over.
    by_device_type: Option<String>,
    /// Where it is, coarsely, if the operator allows that to be told.
    by_place: Option<String>,
}

impl WhyAnswer {
    pub(super) fn of(ending: &Ending, with_place: bool) -> Self {
        let place = [&ending.by.city, &ending.by.country].into_iter().flatten().map(String::as_str);
        let place: Vec<&str> = place.filter(|word| !word.eq_ignore_ascii_case("unknown")).collect();
        Self {
            reason: Some(ending.reason.as_str()),
            text: Some(text_of(ending.reason)),
            at: Some(ending.at),
            by_device_type: ending.by.device_type.clone(),
            by_place: (with_place && !place.is_empty()).then(|| place.join(", ")),
        }
    }
}

/// Why the session of this token was ended, for a day; whoever holds the token may ask. An unknown one is answered in the
/// same form.
#[utoipa::path(post, path = "/v1/why",
    responses((status = 200, body = WhyAnswer), (status = 401), (status = 403), (status = 429)),
    security(("user_token" = [])))]
pub(super) async fn why(State(api): State<Arc<Api>>, holder: Holder) -> Json<WhyAnswer> {
    let session = holder.token.digest().session_id();
    Json(match api.sessions.endings.of(&holder.tenant, session, api.sessions.clock.now()) {
        Known::Ended(ending) => WhyAnswer::of(&ending, api.sessions.config.why_place),
        Known::Kept { .. } | Known::Unknown => WhyAnswer::default(),
    })
}
