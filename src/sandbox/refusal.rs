//! The vendor's error codes, their HTTP statuses, and the two envelopes they come in.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Which of the vendor's two spellings an answer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    /// `/api/v2/access_token/…`: `errorCode`, `message`, `description`.
    Camel,
    /// `/identity/v2/…`: `ErrorCode`, `Message`, `Description` and two more.
    Pascal,
}

/// A vendor error, named after its entry in the vendor's table of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    KeyUnauthorized,
    SecretUnauthorized,
    TokenInvalid,
    TokenExpired,
    ParameterMissing,
    KeyInvalid,
    SecretInvalid,
    KeyMissing,
    SecretMissing,
    UserIdInvalid,
    UserUnknown,
    UnknownError,
    AccountBlocked,
    CursorInvalid,
    NoMoreRecords,
    NoActiveSession,
    TokenMissing,
    UidSyntax,
    LoginLimited,
    TooManyRequests,
}

impl Refusal {
    /// The vendor's code, HTTP status and text.
    fn entry(self) -> (u16, u16, &'static str) {
        match self {
            Self::KeyUnauthorized => (901, 403, "The API key is not authorized"),
            Self::SecretUnauthorized => (902, 401, "The API secret is not authorized"),
            Self::TokenInvalid => (905, 403, "Access token is invalid"),
            Self::TokenExpired => (906, 403, "Access token has expired"),
            Self::ParameterMissing => (908, 403, "A parameter is not formatted correctly or is missing"),
            Self::KeyInvalid => (920, 400, "API key is invalid"),
            Self::SecretInvalid => (921, 400, "API secret is invalid"),
            Self::KeyMissing => (922, 400, "API key is missing"),
            Self::SecretMissing => (923, 400, "API secret is missing"),
            Self::UserIdInvalid => (937, 403, "The user id is invalid"),
            Self::UserUnknown => (938, 403, "The user does not exist"),
            Self::UnknownError => (950, 500, "An unknown error occurred, try again in a few minutes"),
            Self::AccountBlocked => (991, 403, "The account is blocked"),
            Self::CursorInvalid => (996, 403, "The cursor must be greater than zero"),
            Self::NoMoreRecords => (997, 403, "No more records"),
            Self::NoActiveSession => (1055, 403, "The session has expired, there is no current active session"),
            Self::TokenMissing => (1060, 400, "Access token is missing"),
            Self::UidSyntax => (1200, 403, "The uid may have letters, digits, _ and -, and 1 to 50 characters"),
            Self::LoginLimited => (1338, 403, "The limit of active login sessions is exceeded"),
            Self::TooManyRequests => (429, 429, "Too many requests"),
        }
    }

    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.entry().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The whole answer, with `status` in place of the documented one where a fault asks for that.
    pub(super) fn answer(self, envelope: Envelope, status: StatusCode) -> Response {
        let (code, _, text) = self.entry();
        let body = match envelope {
            Envelope::Camel => json!({ "errorCode": code, "message": text, "description": text }),
            Envelope::Pascal => json!({
                "Description": text,
                "ErrorCode": code,
                "Message": text,
                "IsProviderError": false,
                "ProviderErrorResponse": null,
            }),
        };
        (status, Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_refused_with_the_statuses_of_the_vendors_table() {
        let pairs = [
            Refusal::KeyUnauthorized,
            Refusal::SecretUnauthorized,
            Refusal::KeyInvalid,
            Refusal::SecretInvalid,
            Refusal::KeyMissing,
            Refusal::SecretMissing,
        ]
        .map(|refusal| (refusal.entry().0, refusal.status().as_u16()));

        assert_eq!(pairs, [(901, 403), (902, 401), (920, 400), (921, 400), (922, 400), (923, 400)]);
    }
}
