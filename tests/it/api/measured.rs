//! What the metrics tell of the session API.

use soloist::sandbox::LoginMade;

use super::Shop;
use crate::support::soon;

fn requests(shop: &Shop, route: &str, status: &str) -> u64 {
    shop.service.metric(&format!("soloist_api_requests_total{{route=\"{route}\",status=\"{status}\"}}"))
}

#[tokio::test]
async fn requests_are_counted_by_route_and_class_and_no_label_says_of_whom() {
    let shop = Shop::open(&[]).await;
    let login = shop.login("ann", "phone");
    let one = "/v1/me/sessions/{id}";
    for (method, path, status) in [
        ("GET", "/v1/me/sessions".to_owned(), 200),
        ("DELETE", "/v1/me/sessions/planted-id".to_owned(), 400),
        ("DELETE", one.replace("{id}", &"0".repeat(32)), 404),
        ("PUT", one.replace("{id}", &"0".repeat(32)), 405),
    ] {
        assert_eq!(shop.user(method, &path, &login).await.0, status, "{method} {path}");
    }
    assert_eq!(shop.ask(shop.request("GET", "/v1/me/sessions?planted=1")).await.0, 400);
    assert_eq!((requests(&shop, "/v1/me/sessions", "2xx"), requests(&shop, "/v1/me/sessions", "4xx")), (1, 1));
    assert_eq!((requests(&shop, one, "2xx"), requests(&shop, one, "4xx")), (0, 3));
    let took = "soloist_api_request_duration_seconds_count{route=\"/v1/me/sessions\"}";
    assert_eq!(shop.service.metric(took), 2);
    let metrics = shop.service.metrics.render();
    for of_whom in ["ann", "planted", &login.session, &"0".repeat(32)] {
        assert!(!metrics.lines().any(|line| line.starts_with("soloist_api_") && line.contains(of_whom)), "{of_whom}");
    }
    shop.close().await;
}

#[tokio::test]
async fn credentials_that_are_nobodys_are_counted_by_their_kind() {
    let shop = Shop::open(&[]).await;
    for credentials in [Some("slk_nobodys"), Some("nobodys"), Some("nobodys"), None] {
        let request = shop.request("GET", "/v1/me/sessions");
        let request = credentials.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        assert_eq!(shop.ask(request).await.0, 401);
    }
    let refused =
        |kind: &str| shop.service.metric(&format!("soloist_api_credentials_refused_total{{credentials=\"{kind}\"}}"));
    assert_eq!((refused("app_key"), refused("user_token"), refused("none")), (1, 2, 1));
    shop.close().await;
}

#[tokio::test]
async fn open_streams_are_counted_until_they_end() {
    let shop = Shop::open(&[]).await;
    let (ann, ben) = (shop.login("ann", "phone"), shop.login("ben", "phone"));
    let listen = async |login: &LoginMade| {
        let request = shop.request("GET", "/v1/events").bearer_auth(&login.access_token);
        soon("the stream", request.send()).await.unwrap()
    };
    let (of_ann, of_ben) = (listen(&ann).await, listen(&ben).await);
    assert_eq!(shop.service.metric("soloist_api_streams"), 2);
    drop(of_ann);
    shop.service.until("one stream to be left", async |it| it.metric("soloist_api_streams") == 1).await;
    drop(of_ben);
    shop.service.until("no stream to be left", async |it| it.metric("soloist_api_streams") == 0).await;
    shop.close().await;
}
