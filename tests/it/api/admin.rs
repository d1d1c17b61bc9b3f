//! The admin API: described as it is, denied without the key, and every change on record.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Shop;
use crate::support::soon;

/// Every route of the admin API's own description.
async fn templates(shop: &Shop) -> Vec<(String, String)> {
    let (status, document) = shop.service.admin("GET", "/admin/v1/openapi.json").await;
    assert_eq!((status, document["openapi"].as_str().unwrap()), (200, "3.1.0"));
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

/// A route with names that can be in its path.
fn filled(path: &str, session: &str) -> String {
    path.replace("{uid}", "ann").replace("{session}", session).replace("{key}", "mode/default")
}

fn signed(mut body: Value) -> Value {
    body["owner"] = json!("night shift");
    body["reason"] = json!("a test");
    body
}

#[tokio::test]
async fn no_route_of_the_admin_api_answers_without_its_key() {
    let shop = Shop::open(&[]).await;
    let routes = templates(&shop).await;
    let routes: Vec<_> = routes.into_iter().map(|(method, path)| (method, filled(&path, &"0".repeat(32)))).collect();
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

/// Method and path as they are described, a query, what is sent, the status, and what is on record then: what was done, and
/// to what.
type Act = (&'static str, &'static str, &'static str, Value, u16, &'static str, String);

fn acts(session: &str) -> Vec<Act> {
    let none = || json!({});
    let pin = format!("pin/default/ann/{session}");
    let put_mode = json!({"kind": "mode", "mode": "off"});
    vec![
        ("POST", "/admin/v1/users/{uid}/enforce", "", none(), 200, "enforce", "default/ann".into()),
        ("POST", "/admin/v1/users/{uid}/enforce", "?queued=true", none(), 202, "enforce", "default/ann".into()),
        (
            "PUT",
            "/admin/v1/users/{uid}/override",
            "",
            json!({"policy": {"limit": 3}}),
            200,
            "put",
            "override/default/ann".into(),
        ),
        ("DELETE", "/admin/v1/users/{uid}/override", "", none(), 200, "remove", "override/default/ann".into()),
        ("PUT", "/admin/v1/users/{uid}/pin", "", json!({"session": session}), 200, "put", pin.clone()),
        ("DELETE", "/admin/v1/users/{uid}/pin/{session}", "", none(), 200, "remove", pin),
        (
            "PUT",
            "/admin/v1/users/{uid}/exempt",
            "",
            json!({"expires": "2999-01-01T00:00:00Z"}),
            200,
            "put",
            "exemption/default/uid=ann".into(),
        ),
        ("DELETE", "/admin/v1/users/{uid}/exempt", "", none(), 200, "remove", "exemption/default/uid=ann".into()),
        ("PUT", "/admin/v1/modes", "", json!({"mode": "observe"}), 200, "put", "mode/default".into()),
        ("PUT", "/admin/v1/modes", "", json!({"canary_percent": 1.5}), 200, "put", "canary/default".into()),
        ("DELETE", "/admin/v1/modes", "", none(), 200, "remove", "mode/default".into()),
        ("PUT", "/admin/v1/directives", "", put_mode, 200, "put", "mode/default".into()),
        ("DELETE", "/admin/v1/directives/{key}", "", none(), 200, "remove", "mode/default".into()),
        (
            "PUT",
            "/admin/v1/directives",
            "",
            json!({"kind": "contended", "uid": "ann"}),
            200,
            "put",
            "contended/default/ann".into(),
        ),
        ("DELETE", "/admin/v1/contended/{uid}", "", none(), 200, "remove", "contended/default/ann".into()),
        ("PUT", "/admin/v1/directives", "", json!({"kind": "brake"}), 200, "put", "brake/default".into()),
        ("POST", "/admin/v1/resume", "", none(), 200, "remove", "brake/default".into()),
        ("POST", "/admin/v1/users/import", "", json!({"uids": ["bob", "cat"]}), 200, "import", "default/2".into()),
        ("POST", "/admin/v1/dead-letters/redrive", "", json!({"all": true}), 200, "redrive", "all".into()),
        ("POST", "/admin/v1/dead-letters/drop", "", json!({"ids": [7, 8]}), 200, "drop", "7,8".into()),
        ("POST", "/admin/v1/dead-letters/drop", "", json!({"why": "refused"}), 200, "drop", "why=refused".into()),
        (
            "DELETE",
            "/admin/v1/users/{uid}/sessions/{session}",
            "",
            none(),
            200,
            "end",
            format!("default/ann/{session}"),
        ),
        ("POST", "/admin/v1/users/{uid}/forget", "", none(), 200, "forget", "default".into()),
    ]
}

#[tokio::test]
async fn whatever_an_operator_changes_is_on_record_with_who_and_why() {
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "2")]).await;
    let login = shop.login("ann", "phone");
    shop.service.settled().await;
    let acts = acts(&login.session);
    let changing = templates(&shop).await.into_iter().filter(|(method, _)| method != "GET");
    let tried = acts.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(tried.collect::<BTreeSet<_>>(), changing.collect(), "all that changes something is tried here");
    for (method, path, query, body, status, act, key) in acts {
        let path = filled(path, &login.session) + query;
        let kept = done(&shop, method, &path, body, status).await;
        assert_eq!(kept, [act, &key, "night shift", "a test"], "{method} {path}");
    }
    let (_, changes) = shop.service.admin("GET", "/admin/v1/changes").await;
    assert_eq!(changes["changes"].as_array().unwrap().len(), 23);
    let older = format!("/admin/v1/changes?before={}&limit=2", changes["changes"][20]["seq"]);
    let (_, page) = shop.service.admin("GET", &older).await;
    assert_eq!(page["changes"].as_array().unwrap()[..], changes["changes"].as_array().unwrap()[21..]);

    // Somebody who says neither has still done it.
    assert_eq!(shop.service.admin("POST", "/admin/v1/users/ann/enforce").await.0, 200);
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
        ("POST", "/admin/v1/users/ann/enforce", json!({"owner": "soloist", "reason": "x"}), 400, "word"),
        (
            "PUT",
            "/admin/v1/directives",
            json!({"kind": "mode", "mode": "off", "owner": "soloist", "reason": "x"}),
            400,
            "word",
        ),
        ("POST", "/admin/v1/users/ann/enforce?dryrun=true", json!({}), 400, "unknown_parameter"),
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

#[tokio::test]
async fn what_cannot_be_put_on_record_is_not_done() {
    let shop = Shop::open(&[]).await;
    let login = shop.login("ann", "phone");
    shop.service.settled().await;
    let path = format!("/admin/v1/users/ann/sessions/{}", login.session);
    let record = rusqlite::Connection::open(shop.service.data_dir.path().join("directives.db")).unwrap();
    record.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, answer) = shop.service.tell("DELETE", &path, &signed(json!({}))).await;
    assert_eq!((status, &answer["type"]), (503, &json!("urn:soloist:problem:directives")));
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 1);
    record.execute_batch("ROLLBACK").unwrap();
    assert_eq!(shop.service.tell("DELETE", &path, &json!(null)).await.0, 200, "`null` is no body");
    shop.close().await;
}
