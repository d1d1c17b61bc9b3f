//! What callers send: read within limits, and refused in one form that quotes nothing of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::StatusCode;
use http::header;
use http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Api;
use crate::http::Problem;
use crate::model::{AccessToken, SessionId};

/// Bytes of a body; the longest holds one token.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a token; LoginRadius' longest are below 4 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;

const MEDIA_TYPE: Problem =
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "send JSON with Content-Type: application/json");
const TOO_LARGE: Problem =
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than any request needs");
const SLOW_BODY: Problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body did not arrive in time");
const MALFORMED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "malformed",
    "the body or the query is not what the description of this route says: see /v1/openapi.json",
);
const BAD_SESSION: Problem = Problem::new(StatusCode::BAD_REQUEST, "session", "a session id is 32 hex digits");
const BAD_TOKEN: Problem = Problem::new(StatusCode::BAD_REQUEST, "token", "a token is a text of up to 8 KiB");

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Api>) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(MEDIA_TYPE);
        }
        let read = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
        let bytes = read.map_err(|_late| SLOW_BODY)?.map_err(|_too_many| TOO_LARGE)?;
        serde_json::from_slice(&bytes).map(Self).map_err(|_wrong| MALFORMED)
    }
}

/// The parameters of a query.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|_wrong| MALFORMED)
    }
}

/// The session that a path names.
pub(super) struct Named(pub(super) SessionId);

impl FromRequestParts<Arc<Api>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let named: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, api).await;
        let Path(id) = named.map_err(|_no_text| BAD_SESSION)?;
        SessionId::parse(&id).map(Self).map_err(|_grammar| BAD_SESSION)
    }
}

/// A token that came in a body.
pub(super) fn token(raw: &str) -> Result<AccessToken, Problem> {
    let is_token = !raw.is_empty() && raw.len() <= TOKEN_BYTES_MAX && raw.bytes().all(|c| c.is_ascii_graphic());
    if is_token { Ok(AccessToken::new(raw)) } else { Err(BAD_TOKEN) }
}
