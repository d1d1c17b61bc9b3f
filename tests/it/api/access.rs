//! Who may ask what: everything is denied by default.

use serde_json::{Value, json};

use super::{KEY, Shop, key};

/// Every route of the API's own description.
fn routes(document: &Value) -> Vec<(String, String, Vec<String>)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(|(method, operation)| {
                let security = operation["security"].as_array().unwrap().iter();
                let schemes = security.flat_map(|scheme| scheme.as_object().unwrap().keys().cloned()).collect();
                (method.to_uppercase(), path.replace("{id}", &"0".repeat(32)), schemes)
            })
        })
        .collect()
}

#[tokio::test]
async fn every_route_is_denied_without_with_wrong_and_with_expired_credentials() {
    let expired = key("old", "slk_old", r#"["checkpoint", "verdict"]"#, r#", expires = "2020-01-01T00:00:00Z""#);
    let narrow = key("narrow", "slk_narrow", r#"["verdict"]"#, "");
    let keys = format!("[{}, {expired}, {narrow}]", key("shop", KEY, r#"["checkpoint", "verdict"]"#, ""));
    let shop = Shop::open(&[("SOLOIST_API__KEYS", &keys)]).await;
    let login = shop.login("ann", "phone");
    let (status, document) = {
        let answer =
            crate::support::soon("the document", shop.request("GET", "/v1/openapi.json").send()).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!((status, document["openapi"].as_str().unwrap()), (200, "3.1.0"));
    let routes = routes(&document);
    assert!(routes.len() >= 9, "{routes:?}");
    for (method, path, schemes) in &routes {
        let ask = async |credentials: Option<&str>| {
            let mut request = shop.request(method, path);
            if method == "POST" {
                request = request.json(&json!({}));
            }
            shop.ask(credentials.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth)).await.0
        };
        assert_eq!(ask(None).await, 401, "{method} {path} without credentials");
        let wrong = if path == "/v1/why" { 200 } else { 401 };
        assert_eq!(ask(Some("wrong")).await, wrong, "{method} {path} with nobody's token");
        for dead in ["slk_wrong", "slk_old"] {
            assert_eq!(ask(Some(dead)).await, 401, "{method} {path} with {dead}");
        }
        let is_for = |scheme: &str| schemes.iter().any(|known| known == scheme);
        if !is_for("user_token") {
            assert_eq!(ask(Some(&login.access_token)).await, 403, "{method} {path} with a user's token");
        }
        if !is_for("app_key") {
            assert!([401, 403].contains(&ask(Some(KEY)).await), "{method} {path} with an app's key");
        }
    }
    let narrow = shop.request("POST", "/v1/checkpoint").bearer_auth("slk_narrow").json(&json!({"uid": "ann"}));
    assert_eq!(shop.ask(narrow).await.0, 403, "a key does what its scopes say");
    shop.close().await;
}

#[tokio::test]
async fn a_token_in_an_address_is_refused() {
    let shop = Shop::open(&[]).await;
    let login = shop.login("ann", "phone");
    let path = format!("/v1/me/sessions?access_token={}", login.access_token);
    let (status, answer) = shop.ask(shop.request("GET", &path)).await;
    assert_eq!((status, &answer["type"]), (400, &json!("urn:soloist:problem:unknown_parameter")));
    shop.close().await;
}

#[tokio::test]
async fn nobody_learns_whether_a_user_exists() {
    let shop = Shop::open(&[]).await;
    shop.login("ann", "phone");
    shop.service.settled().await;
    let (known, unknown) = (json!({"uid": "cleo"}), json!({"uid": "nobody-at-all"}));
    shop.service.sandbox.login_in_silence("cleo", None).unwrap();
    for session in shop.service.sandbox.sessions("cleo") {
        shop.service.admin("DELETE", &format!("/admin/v1/users/cleo/sessions/{}", session.session)).await;
    }
    assert_eq!(shop.app("/v1/checkpoint", &known).await, shop.app("/v1/checkpoint", &unknown).await);
    assert_eq!(shop.app("/v1/preflight", &known).await, shop.app("/v1/preflight", &unknown).await);
    shop.close().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait() {
    let shop = Shop::open(&[("SOLOIST_API__TOKEN_REQUESTS_PER_SECOND", "2")]).await;
    let login = shop.login("ann", "phone");
    let mut last = 200;
    for _ in 0..5 {
        last = shop.user("GET", "/v1/me/sessions", &login).await.0;
    }
    assert_eq!(last, 429);
    shop.close().await;
}

#[tokio::test]
async fn guessing_stops_an_address_and_no_app_behind_it() {
    let shop = Shop::open(&[("SOLOIST_API__ADDRESS_REQUESTS_PER_SECOND", "100")]).await;
    for guess in ["guess", "slk_guess"] {
        let mut refused = 0;
        for _ in 0..300 {
            let status = shop.ask(shop.request("GET", "/v1/me/sessions").bearer_auth(guess)).await.0;
            refused += u32::from(status == 401);
        }
        assert!(refused <= 150, "{refused} of 300 guesses were answered");
    }
    assert_eq!(shop.app("/v1/verdict", &json!({"session": "0".repeat(32)})).await.0, 200);
    shop.close().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_without_a_word_of_it() {
    let shop = Shop::open(&[]).await;
    let asked = |body: &str| {
        let request = shop.request("POST", "/v1/verdict").bearer_auth(KEY);
        request.header("content-type", "application/json").body(body.to_owned())
    };
    let large = format!("{{\"token\": \"{}\"}}", "x".repeat(20_000));
    for (body, status) in
        [("\"canary-word\"", 400), ("{\"canary-word\": 1}", 400), ("{\"token\": \"\"}", 400), (&*large, 413)]
    {
        let (answered, answer) = shop.ask(asked(body)).await;
        assert_eq!(answered, status, "{answer}");
        assert!(answer["type"].as_str().unwrap().starts_with("urn:soloist:problem:"));
        assert!(!answer.to_string().contains("canary-word"));
    }
    shop.close().await;
}

#[tokio::test]
async fn only_so_many_tabs_may_listen() {
    let shop = Shop::open(&[("SOLOIST_API__STREAMS_MAX", "1")]).await;
    let (ann, ben) = (shop.login("ann", "phone"), shop.login("ben", "phone"));
    let listen = async |login: &soloist::sandbox::LoginMade| {
        let asked = shop.request("GET", "/v1/events").bearer_auth(&login.access_token).send();
        crate::support::soon("the stream", asked).await.unwrap()
    };
    let first = listen(&ann).await;
    let second = listen(&ben).await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
    assert!(second.headers().contains_key("retry-after"));
    drop((first, second));
    shop.close().await;
}

#[tokio::test]
async fn only_sites_on_the_list_may_call_from_a_page() {
    let shop = Shop::open(&[("SOLOIST_API__ORIGINS", r#"["https://app.example"]"#)]).await;
    let asks = async |origin: &str| {
        let request = shop.request("OPTIONS", "/v1/me/sessions").header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        let answer = crate::support::soon("the answer", request.send()).await.unwrap();
        answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(asks("https://app.example").await.as_deref(), Some("https://app.example"));
    assert_eq!(asks("https://evil.example").await, None);
    shop.close().await;
}
