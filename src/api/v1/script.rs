//! `soloist.js`: the browser side of this API, served beside it, so that both are of one version.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};

const SCRIPT: &str = include_str!("../../../deploy/js/soloist.js");
/// Changes with the script, and with nothing else.
static ETAG: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", hex::encode(Sha256::digest(SCRIPT))));

/// The script, or that the asking browser has it already.
pub(super) async fn script(headers: HeaderMap) -> Response {
    let kept = [(header::ETAG, ETAG.as_str()), (header::CACHE_CONTROL, "public, max-age=3600")];
    if is_known(&headers) {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    let read_as =
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (kept, read_as, SCRIPT).into_response()
}

fn is_known(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|line| line.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == ETAG.as_str()
    })
}
