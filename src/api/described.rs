//! An API's description as it is served.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::header;
use utoipa::openapi::OpenApi;

/// As JSON. It is made of constants, so it always serialises.
pub(super) fn text(document: &OpenApi) -> Arc<str> {
    document.to_json().unwrap_or_default().into()
}

pub(super) async fn answer(State(document): State<Arc<str>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document.to_string())
}
