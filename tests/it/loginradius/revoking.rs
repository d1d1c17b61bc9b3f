//! Ending sessions.

use serde_json::json;
use soloist::provider::loginradius::{CredentialsIn, LoginRadius, LoginRadiusConfig};
use soloist::provider::{Revoked, SessionProvider as _};

use super::*;

#[tokio::test]
async fn a_revocation_prevents_refreshing_and_carries_the_token_in_a_header_and_no_secret() {
    for credentials_in in [CredentialsIn::Headers, CredentialsIn::Query] {
        let vendor = Vendor::new([ok(&json!({"IsPosted": true}))]).await;
        let client = LoginRadius::new(LoginRadiusConfig { credentials_in, ..vendor.config() }).unwrap();

        assert_eq!(client.revoke(&token()).await.unwrap(), Revoked::Done);

        let [request] = vendor.seen().try_into().ok().unwrap();
        assert_eq!(request.uri, "/identity/v2/auth/access_token/invalidate?preventRefresh=true&apikey=canary-key");
        assert_eq!(request.header("authorization"), Some("Bearer canary-token"));
        assert!(!format!("{}{:?}", request.uri, request.headers).contains(SECRET));
    }
}

#[tokio::test]
async fn a_revocation_is_done_unless_the_answer_says_no() {
    for body in [json!({"IsPosted": true}), json!({"isPosted": true}), json!({}), json!({"ErrorCode": null})] {
        assert_eq!(revoke(ok(&body)).await.unwrap(), Revoked::Done, "{body}");
    }
    for body in
        [json!({"IsPosted": false}), json!({"isPosted": null}), json!({"message": "sorry"}), json!([]), json!(true)]
    {
        assert_eq!(revoke(ok(&body)).await.unwrap_err().class(), "unavailable", "{body}");
    }
    for body in ["", "<html>", r#"{"IsPosted":tr"#] {
        assert_eq!(revoke(reply(200, body)).await.unwrap_err().class(), "unavailable", "{body}");
    }
}

#[tokio::test]
async fn a_token_that_is_no_longer_known_is_already_gone_in_every_envelope() {
    for code in [905, 906, 2024, 1055] {
        let pascal = json!({"Description": "x", "ErrorCode": code, "Message": "y", "IsProviderError": false});
        let camel = json!({"errorCode": code.to_string(), "message": "x", "description": "y"});
        for body in [pascal, camel] {
            for status in [200, 400, 401, 403, 500] {
                assert_eq!(revoke(json_reply(status, &body)).await.unwrap(), Revoked::AlreadyGone, "{status} {body}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_travels_in_the_header_word_for_word() {
    for token in ["a+b/c=".to_owned(), "ey.J-h_b".repeat(500)] {
        let vendor = Vendor::new([ok(&json!({"IsPosted": true}))]).await;

        vendor.client().revoke(&AccessToken::new(&token)).await.unwrap();

        let [request] = vendor.seen().try_into().ok().unwrap();
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {token}")));
        assert_eq!(request.query("preventRefresh").as_deref(), Some("true"));
        assert_eq!(request.url().query_pairs().count(), 2, "the token is not in the URL");
    }
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_refused_without_a_call() {
    for token in ["a\r\nX-Evil: 1", "ünique", "a\0"] {
        let vendor = Vendor::new([]).await;
        let error = vendor.client().revoke(&AccessToken::new(token)).await.unwrap_err();
        assert_eq!(error.class(), "refused");
        assert!(vendor.seen().is_empty());
    }
}
