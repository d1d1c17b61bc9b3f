//! What callers name: sessions in paths, tokens in bodies.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use http::StatusCode;
use http::request::Parts;

use super::Api;
use crate::http::Problem;
use crate::model::{AccessToken, SessionId};

/// Bytes of a token; LoginRadius' longest are below 4 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;

const BAD_SESSION: Problem = Problem::new(StatusCode::BAD_REQUEST, "session", "a session id is 32 hex digits");
const BAD_TOKEN: Problem = Problem::new(StatusCode::BAD_REQUEST, "token", "a token is a text of up to 8 KiB");

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
