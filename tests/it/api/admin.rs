//! The admin API: described as it is, denied without the key, and every change on record.

use serde_json::{Value, json};

use super::Shop;
use crate::support::soon;

/// Every route of the admin API's own description, with names that can be in its path.
async fn routes(shop: &Shop) -> Vec<(String, String)> {
    let (status, document) = shop.service.admin("GET", "/admin/v1/openapi.json").await;
    assert_eq!((status, document["openapi"].as_str().unwrap()), (200, "3.1.0"));
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let path =
                path.replace("{uid}", "ann").replace("{session}", &"0".repeat(32)).replace("{key}", "mode/default");
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

fn signed(mut body: Value) -> Value {
    body["owner"] = json!("night shift");
    body["reason"] = json!("a test");
    body
}

#[tokio::test]
async fn no_route_of_the_admin_api_answers_without_its_key() {
    let shop = Shop::open(&[]).await;
    let routes = routes(&shop).await;
    assert!(routes.len() >= 30, "{routes:?}");
    let own = [("GET", "/admin/v1/openapi.json"), ("GET", "/admin/v1/reference")];
    let own = own.map(|(method, path)| (method.to_owned(), path.to_owned()));
    for (method, path) in routes.into_iter().chain(own) {
        let url = format!("{}{path}", shop.service.admin_url);
        let ask = async |key: Option<&str>| {
            let request = shop.service.client.request(method.parse().unwrap(), &url).json(&signed(json!({})));
            let request = key.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            soon("an answer", request.send()).await.unwrap().status().as_u16()
        };
        assert_eq!(ask(None).await, 401, "{method} {path} without a key");
        assert_eq!(ask(Some("wrong")).await, 401, "{method} {path} with a wrong key");
        assert_eq!(ask(Some(super::KEY)).await, 401, "{method} {path} with an app's key");
        let known = ask(Some(&shop.service.admin_key)).await;
        assert!(known != 401 && known != 405, "{method} {path}: {known}");
    }
    shop.close().await;
}

/// Does something, and returns what is on record last.
async fn done(shop: &Shop, method: &str, path: &str, body: Value, expected: u16) -> [String; 4] {
    let (status, answer) = shop.service.tell(method, path, &signed(body)).await;
    assert_eq!(status, expected, "{method} {path}: {answer}");
    let (_, changes) = shop.service.admin("GET", "/admin/v1/changes?limit=1").await;
    ["act", "key", "owner", "reason"].map(|field| changes["changes"][0][field].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn whatever_an_operator_changes_is_on_record_with_who_and_why() {
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "2")]).await;
    let login = shop.login("ann", "phone");
    shop.service.settled().await;
    let session = login.session.as_str();
    let of = |rest: &str| format!("/admin/v1/users/ann/{rest}");
    let acts = [
        ("POST", of("enforce"), json!({}), 200, "enforce", "default/ann".to_owned()),
        ("POST", of("enforce?queued=true"), json!({}), 202, "enforce", "default/ann".to_owned()),
        ("PUT", of("override"), json!({"policy": {"limit": 3}}), 200, "put", "override/default/ann".to_owned()),
        ("DELETE", of("override"), json!({}), 200, "remove", "override/default/ann".to_owned()),
        ("PUT", of("pin"), json!({"session": session}), 200, "put", format!("pin/default/ann/{session}")),
        ("DELETE", of(&format!("pin/{session}")), json!({}), 200, "remove", format!("pin/default/ann/{session}")),
        (
            "PUT",
            of("exempt"),
            json!({"expires": "2999-01-01T00:00:00Z"}),
            200,
            "put",
            "exemption/default/uid=ann".to_owned(),
        ),
        ("DELETE", of("exempt"), json!({}), 200, "remove", "exemption/default/uid=ann".to_owned()),
        ("PUT", "/admin/v1/modes".to_owned(), json!({"mode": "observe"}), 200, "put", "mode/default".to_owned()),
        ("PUT", "/admin/v1/modes".to_owned(), json!({"canary_percent": 1.5}), 200, "put", "canary/default".to_owned()),
        ("DELETE", "/admin/v1/modes".to_owned(), json!({}), 200, "remove", "mode/default".to_owned()),
        (
            "POST",
            "/admin/v1/users/import".to_owned(),
            json!({"uids": ["bob", "cat"]}),
            200,
            "import",
            "default/2".to_owned(),
        ),
        ("POST", "/admin/v1/dead-letters/redrive".to_owned(), json!({"all": true}), 200, "redrive", "all".to_owned()),
        ("POST", "/admin/v1/dead-letters/drop".to_owned(), json!({"ids": [7]}), 200, "drop", "1_by_id".to_owned()),
        ("DELETE", of(&format!("sessions/{session}")), json!({}), 200, "end", format!("default/ann/{session}")),
        ("POST", of("forget"), json!({}), 200, "forget", "default".to_owned()),
    ];
    for (method, path, body, status, act, key) in acts {
        let kept = done(&shop, method, &path, body, status).await;
        assert_eq!(kept, [act, &key, "night shift", "a test"], "{method} {path}");
    }
    let (_, changes) = shop.service.admin("GET", "/admin/v1/changes").await;
    assert_eq!(changes["changes"].as_array().unwrap().len(), 16);
    let older = format!("/admin/v1/changes?before={}&limit=2", changes["changes"][13]["seq"]);
    let (_, page) = shop.service.admin("GET", &older).await;
    assert_eq!(page["changes"].as_array().unwrap()[..], changes["changes"].as_array().unwrap()[14..]);

    // Somebody who says neither has still done it.
    assert_eq!(shop.service.admin("POST", &of("enforce")).await.0, 200);
    let (_, last) = shop.service.admin("GET", "/admin/v1/changes?limit=1").await;
    assert_eq!([&last["changes"][0]["owner"], &last["changes"][0]["reason"]], ["admin", "none given"]);
    shop.close().await;
}

#[tokio::test]
async fn what_holds_is_shown_by_tenant_and_by_user() {
    let shop = Shop::open(&[("SOLOIST_POLICY__MODE", "observe")]).await;
    shop.login("ann", "phone");
    shop.service.settled().await;
    let modes = async || shop.service.admin("GET", "/admin/v1/modes").await.1["modes"][0].clone();
    assert_eq!([&modes().await["mode"], &modes().await["canary_percent"]], [&json!("observe"), &json!(100.0)]);
    shop.service.tell("PUT", "/admin/v1/modes", &signed(json!({"mode": "off"}))).await;
    shop.service.tell("PUT", "/admin/v1/modes", &signed(json!({"canary_percent": 12.5}))).await;
    let now = modes().await;
    assert_eq!([&now["mode"], &now["canary_percent"]], [&json!("off"), &json!(12.5)]);
    assert_eq!(now["directives"].as_array().unwrap().len(), 2);

    shop.service.tell("PUT", "/admin/v1/users/ann/override", &signed(json!({"policy": {"limit": 3}}))).await;
    shop.service.tell("PUT", "/admin/v1/users/bob/override", &signed(json!({"policy": {"limit": 3}}))).await;
    let (_, ann) = shop.service.admin("GET", "/admin/v1/users/ann").await;
    assert_eq!(ann["known"]["source"], "event");
    assert!(ann["last_decision"]["decided_at"].is_string(), "{ann}");
    assert_eq!(ann["directives"].as_array().unwrap().len(), 1);
    assert_eq!(ann["directives"][0]["key"], "override/default/ann");
    let (_, nobody) = shop.service.admin("GET", "/admin/v1/users/nobody").await;
    assert_eq!([&nobody["known"], &nobody["last_decision"]], [&Value::Null, &Value::Null]);
    shop.close().await;
}

#[tokio::test]
async fn a_wrong_request_changes_nothing_and_is_answered_with_problem_details() {
    let shop = Shop::open(&[]).await;
    let long = "x".repeat(501);
    for (method, path, body, status, problem) in [
        ("POST", "/admin/v1/users/ann/enforce", json!({"owner": "", "reason": "x"}), 400, "word"),
        ("POST", "/admin/v1/users/ann/enforce", json!({"owner": "x", "reason": long}), 400, "word"),
        ("POST", "/admin/v1/users/ann/enforce", json!({"who": "x"}), 400, "malformed"),
        ("POST", "/admin/v1/users/a.b/enforce", json!({}), 400, "uid"),
        ("PUT", "/admin/v1/users/ann/override", signed(json!({"policy": {"limit": "many"}})), 400, "directive"),
        ("PUT", "/admin/v1/users/ann/pin", signed(json!({"session": "x"})), 400, "directive"),
        ("PUT", "/admin/v1/users/ann/exempt", signed(json!({})), 400, "malformed"),
        ("PUT", "/admin/v1/modes", signed(json!({"mode": "off", "canary_percent": 1})), 400, "directive"),
        ("PUT", "/admin/v1/modes?tenant=other", signed(json!({"mode": "off"})), 404, "tenant"),
        ("DELETE", "/admin/v1/contended/ann", signed(json!({})), 404, "no_directive"),
        ("GET", "/admin/v1/changes?limit=x", json!({}), 400, "malformed"),
        ("GET", "/admin/v1/users?limit=0", json!({}), 400, "malformed"),
        ("GET", "/admin/v1/users?limit=1001", json!({}), 400, "malformed"),
        ("POST", "/admin/v1/users/ann/forget", json!(["ops", "an array of values"]), 400, "malformed"),
        ("GET", "/admin/v1/dead-letters?after=9223372036854775808", json!({}), 400, "selection"),
    ] {
        let (got, answer) = shop.service.tell(method, path, &body).await;
        let expected = (status, format!("urn:soloist:problem:{problem}"));
        assert_eq!(
            (got, answer["type"].as_str().unwrap_or_default().to_owned()),
            expected,
            "{method} {path}: {answer}"
        );
    }
    let encoded = shop.service.tell("DELETE", "/admin/v1/directives/mode%2Fdefault", &signed(json!({}))).await;
    assert_eq!(encoded.1["type"], "urn:soloist:problem:no_directive", "as the description has a key: {encoded:?}");
    let (_, changes) = shop.service.admin("GET", "/admin/v1/changes").await;
    assert_eq!(changes["changes"], json!([]));
    shop.close().await;
}
