//! Every failure the vendor documents, and those it does not, sorted by the next move.

use std::time::Duration;

use serde_json::json;
use soloist::provider::SessionProvider as _;

use super::*;

/// The outcome of a call in one word.
fn word<T>(outcome: Result<T, ProviderError>, done: impl FnOnce(&T) -> &'static str) -> &'static str {
    match outcome {
        Ok(value) => done(&value),
        Err(error) => error.class(),
    }
}

fn of_view(view: &View) -> &'static str {
    if *view == (View { sessions: vec![], complete: true }) { "empty" } else { "a view" }
}

fn of_revoked(revoked: Revoked) -> &'static str {
    match revoked {
        Revoked::Done => "done",
        Revoked::AlreadyGone => "gone",
    }
}

/// Code, documented status, what becomes of: revoke, list.
const CODES: [(u32, u16, &str, &str); 48] = [
    (905, 403, "gone", "unavailable"),
    (906, 403, "gone", "unavailable"),
    (2024, 403, "gone", "unavailable"),
    (1055, 403, "gone", "empty"),
    (1060, 400, "refused", "refused"),
    (901, 403, "unauthorized", "unauthorized"),
    (920, 400, "unauthorized", "unauthorized"),
    (922, 400, "unauthorized", "unauthorized"),
    (902, 401, "unauthorized", "unauthorized"),
    (902, 403, "unauthorized", "unauthorized"),
    (921, 400, "unauthorized", "unauthorized"),
    (923, 400, "unauthorized", "unauthorized"),
    (924, 400, "unauthorized", "unauthorized"),
    (929, 400, "unauthorized", "unauthorized"),
    (909, 403, "unauthorized", "unauthorized"),
    (1143, 403, "unauthorized", "unauthorized"),
    (1206, 403, "unauthorized", "unauthorized"),
    (1207, 400, "unauthorized", "unauthorized"),
    (1208, 400, "unauthorized", "unauthorized"),
    (1209, 403, "unauthorized", "unauthorized"),
    (1210, 403, "unauthorized", "unauthorized"),
    (1211, 403, "unauthorized", "unauthorized"),
    (1212, 403, "unauthorized", "unauthorized"),
    (942, 403, "unauthorized", "unauthorized"),
    (2023, 400, "unauthorized", "unauthorized"),
    (908, 403, "refused", "refused"),
    (908, 400, "refused", "refused"),
    (971, 400, "refused", "refused"),
    (1214, 400, "refused", "refused"),
    (937, 403, "user_unknown", "user_unknown"),
    (938, 403, "user_unknown", "user_unknown"),
    (984, 403, "user_unknown", "user_unknown"),
    (1037, 400, "user_unknown", "user_unknown"),
    (1200, 403, "refused", "refused"),
    (996, 403, "unavailable", "unavailable"),
    (997, 403, "unavailable", "empty"),
    (950, 500, "unavailable", "unavailable"),
    (429, 400, "throttled", "throttled"),
    (1217, 403, "unavailable", "unavailable"),
    (1337, 400, "unavailable", "unavailable"),
    (1338, 403, "unavailable", "unavailable"),
    (1339, 403, "unavailable", "unavailable"),
    (970, 403, "refused", "refused"),
    (991, 403, "refused", "refused"),
    (1198, 403, "refused", "refused"),
    (1264, 403, "refused", "refused"),
    (2017, 400, "unavailable", "unavailable"),
    (424_242, 403, "unavailable", "unavailable"),
];

#[tokio::test]
async fn a_code_decides_in_every_envelope_also_inside_a_success() {
    for (code, status, on_revoke, on_list) in CODES {
        let envelopes = [
            json!({"Description": "d", "ErrorCode": code, "Message": "m", "IsProviderError": false}),
            json!({"errorCode": code, "message": "m", "description": "d"}),
            json!({"ERRORCODE": code.to_string(), "data": [row("a")], "IsPosted": true}),
        ];
        let answers = || envelopes.iter().flat_map(|body| [json_reply(status, body), json_reply(200, body)]);
        let vendor = Vendor::new(answers().chain(answers())).await;
        let client = vendor.client();
        for _ in answers() {
            assert_eq!(
                word(client.revoke(&token()).await, |revoked| of_revoked(*revoked)),
                on_revoke,
                "revoke, {code}"
            );
        }
        for _ in answers() {
            assert_eq!(word(client.list(&ann()).await, of_view), on_list, "list, {code}");
        }
    }
}

#[tokio::test]
async fn without_a_readable_code_the_status_decides() {
    let unreadable = [
        "",
        "<html>Forbidden</html>",
        "Forbidden",
        r#"{"error":"invalid_client","error_description":"d"}"#,
        r#"{"errorCode":"x"}"#,
    ];
    for (status, class) in [
        (400, "unavailable"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "unauthorized"),
        (405, "unavailable"),
        (408, "unavailable"),
        (418, "unavailable"),
        (429, "throttled"),
        (500, "unavailable"),
        (502, "unavailable"),
        (503, "unavailable"),
        (504, "unavailable"),
    ] {
        for body in unreadable {
            assert_eq!(word(list([reply(status, body)]).await, of_view), class, "{status} {body}");
            assert_eq!(
                word(revoke(reply(status, body)).await, |revoked| of_revoked(*revoked)),
                class,
                "{status} {body}"
            );
        }
    }
    for body in unreadable {
        assert_eq!(word(list([reply(200, body)]).await, of_view), "unavailable", "{body}");
        assert_eq!(word(revoke(reply(200, body)).await, |revoked| of_revoked(*revoked)), "unavailable", "{body}");
    }
}

async fn wait(reply: Reply) -> Option<Option<Duration>> {
    match list([reply]).await {
        Err(ProviderError::Throttled { retry_after, .. }) => Some(retry_after),
        _ => None,
    }
}

#[tokio::test]
async fn a_wish_to_be_left_alone_is_told_with_its_length() {
    let seven = Some(Some(Duration::from_secs(7)));
    assert_eq!(wait(reply(429, "")).await, Some(None));
    for status in [429, 503, 403, 500] {
        assert_eq!(wait(with_header(reply(status, "busy"), "retry-after", "7")).await, seven, "{status}");
    }
    let unknown = json_reply(500, &json!({"ErrorCode": 950}));
    assert_eq!(wait(with_header(unknown, "retry-after", "7")).await, seven);
    let far = with_header(reply(429, ""), "retry-after", "Tue, 31 Dec 2999 23:59:59 GMT");
    assert_eq!(wait(far).await, Some(Some(Duration::from_hours(24))));
    let past = with_header(reply(429, ""), "retry-after", "Fri, 31 Dec 1999 23:59:59 GMT");
    assert_eq!(wait(past).await, Some(Some(Duration::ZERO)));
    assert_eq!(wait(with_header(reply(429, ""), "retry-after", "soon")).await, Some(None));
}

#[tokio::test]
async fn what_waiting_does_not_mend_is_not_throttled() {
    let rotated = json_reply(401, &json!({"ErrorCode": 902}));
    assert_eq!(list([with_header(rotated, "retry-after", "7")]).await.unwrap_err().class(), "unauthorized");
    let gone = json_reply(403, &json!({"ErrorCode": 905}));
    assert_eq!(revoke(with_header(gone, "retry-after", "7")).await.unwrap(), Revoked::AlreadyGone);
    assert_eq!(list([with_header(reply(503, ""), "retry-after", "soon")]).await.unwrap_err().class(), "unavailable");
}

#[tokio::test]
async fn a_dead_token_is_refused_where_it_was_to_be_looked_at() {
    for (code, outcome) in [(905, "refused"), (906, "refused"), (2024, "refused"), (1055, "empty")] {
        let vendor = Vendor::new([json_reply(403, &json!({"errorCode": code}))]).await;
        assert_eq!(word(vendor.client().list_by_token(&token()).await, of_view), outcome, "{code}");
    }
}

#[tokio::test]
async fn a_probe_tells_accepted_credentials_from_others() {
    for body in [json!({"data": []}), json!({"ErrorCode": 938}), json!({"errorCode": 984}), json!({"errorCode": 1055})]
    {
        Vendor::new([ok(&body)]).await.client().probe().await.unwrap();
    }
    for (reply, class) in [
        (json_reply(401, &json!({"ErrorCode": 902})), "unauthorized"),
        (json_reply(403, &json!({"errorCode": 1206})), "unauthorized"),
        (reply(404, "not found"), "unauthorized"),
        (reply(200, "<html>a captive portal</html>"), "unavailable"),
        (reply(429, ""), "throttled"),
    ] {
        assert_eq!(Vendor::new([reply]).await.client().probe().await.unwrap_err().class(), class);
    }
}
