//! What callers send: read within limits, and refused in one form that quotes nothing of it.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::http::Problem;

/// Bytes of a body; the longest of most routes holds one token.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

const MEDIA_TYPE: Problem =
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "send JSON with Content-Type: application/json");
const TOO_LARGE: Problem =
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than any request needs");
const SLOW_BODY: Problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body did not arrive in time");
const MALFORMED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "malformed",
    "the body or the query is not what the description of this route says: see openapi.json",
);

/// A JSON body of up to `MAX` bytes.
pub(super) struct Body<T, const MAX: usize = BODY_BYTES_MAX>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned, const MAX: usize> FromRequest<S> for Body<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(MEDIA_TYPE);
        }
        parse(&read(request, MAX).await?).map(Self)
    }
}

/// A JSON body of up to 16 KiB that may be missing.
pub(super) struct OptionalBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(&request);
        match &read(request, BODY_BYTES_MAX).await? {
            none if none.is_empty() || is_null(none) => Ok(Self(T::default())),
            _ if !is_json => Err(MEDIA_TYPE),
            body => parse(body).map(Self),
        }
    }
}

fn is_null(body: &Bytes) -> bool {
    body.trim_ascii() == b"null"
}

fn is_json(request: &Request) -> bool {
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let read = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), bytes_max)).await;
    read.map_err(|_late| SLOW_BODY)?.map_err(|_too_many| TOO_LARGE)
}

/// Reads an object. Serde would also take an array of its fields' values.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(MALFORMED);
    }
    serde_json::from_slice(body).map_err(|_wrong| MALFORMED)
}

/// How many are asked for on one page, 1 to `MAX`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "usize")]
pub(super) struct PageSize<const MAX: usize>(usize);

impl<const MAX: usize> TryFrom<usize> for PageSize<MAX> {
    type Error = &'static str;

    fn try_from(size: usize) -> Result<Self, Self::Error> {
        if (1..=MAX).contains(&size) { Ok(Self(size)) } else { Err("not a page's size") }
    }
}

impl<const MAX: usize> PageSize<MAX> {
    pub(super) fn or(asked: Option<Self>, default: usize) -> usize {
        asked.map_or(default, |size| size.0)
    }
}

/// The parameters of a query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|_wrong| MALFORMED)
    }
}
