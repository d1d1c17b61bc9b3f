//! What became of a session: `verdict`, `why` and the stream of events.

use serde_json::json;
use soloist::sandbox::Faults;
use tokio::io::AsyncReadExt as _;

use super::Shop;
use crate::support::soon;

#[tokio::test]
async fn who_was_displaced_is_told_why_and_an_unknown_token_gets_the_same_form() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    let laptop = shop.login("ann", "laptop");
    shop.service.settled().await;
    let (status, why) = shop.user("POST", "/v1/why", &phone).await;
    assert_eq!((status, &why["reason"]), (200, &json!("displaced_by_newer_login")));
    assert!(why["text"].as_str().unwrap().contains("another device") && why["by_place"].is_null(), "{why}");
    let unknown = shop.request("POST", "/v1/why").bearer_auth("nobody's");
    let (status, unknown) = shop.ask(unknown).await;
    let keys = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((status, keys(&unknown)), (200, keys(&why)));

    for body in [json!({"session": phone.session}), json!({"token": phone.access_token})] {
        let (_, verdict) = shop.app("/v1/verdict", &body).await;
        assert_eq!((&verdict["verdict"], &verdict["reason"]), (&json!("evicted"), &why["reason"]));
    }
    let (_, kept) = shop.app("/v1/verdict", &json!({"token": laptop.access_token})).await;
    assert_eq!(kept["verdict"], "not_known_evicted");
    assert!(kept["as_of"].is_string());
    let (_, unknown) = shop.app("/v1/verdict", &json!({"session": "0".repeat(32)})).await;
    assert_eq!(unknown["verdict"], "unknown");
    shop.close().await;
}

#[tokio::test]
async fn the_place_of_the_other_device_is_told_only_where_that_is_allowed() {
    let shop = Shop::open(&[("SOLOIST_WHY__PLACE", "true")]).await;
    let phone = shop.login("ann", "phone");
    shop.login("ann", "laptop");
    shop.service.settled().await;
    assert!(shop.user("POST", "/v1/why", &phone).await.1["by_place"].is_string());
    shop.close().await;
}

#[tokio::test]
async fn what_was_ended_long_before_a_restart_is_known_soon_after_it() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    shop.login("ann", "laptop");
    shop.service.settled().await;
    let (sandbox, data_dir) = shop.service.stop().await;
    // More decisions about others than a start waits for.
    let ledger = rusqlite::Connection::open(data_dir.path().join("ledger.db")).unwrap();
    let copies = ledger.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 110000)
         INSERT INTO decisions (id, decided_at_ms, tenant, uid, looked, executed, decision)
         SELECT newest.id + n.i, newest.decided_at_ms, newest.tenant, 'bob', newest.looked, 0, newest.decision
         FROM n, (SELECT * FROM decisions ORDER BY id DESC LIMIT 1) AS newest",
        [],
    );
    assert_eq!(copies.unwrap(), 110_000);
    drop(ledger);
    let service = crate::support::service::Service::start_on(sandbox, data_dir, &[]).await;
    let base = service.webhook_url.trim_end_matches("/webhooks/loginradius").to_owned();
    let shop = Shop { service, base };
    let why = async || shop.user("POST", "/v1/why", &phone).await.1["reason"].clone();
    soon("the end to be known", async {
        while why().await != "displaced_by_newer_login" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn what_was_ended_is_known_after_a_restart() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    shop.login("ann", "laptop");
    shop.service.settled().await;
    let before = shop.user("POST", "/v1/why", &phone).await.1;
    let (sandbox, data_dir) = shop.service.stop().await;
    let service = crate::support::service::Service::start_on(sandbox, data_dir, &[]).await;
    let base = service.webhook_url.trim_end_matches("/webhooks/loginradius").to_owned();
    let shop = Shop { service, base };
    let after = shop.user("POST", "/v1/why", &phone).await.1;
    assert_eq!((&after["reason"], &after["by_device_type"]), (&before["reason"], &before["by_device_type"]));
    shop.close().await;
}

#[tokio::test]
async fn a_tab_hears_at_once_that_its_session_was_ended_and_again_only_if_it_has_not() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    let listening = shop.request("GET", "/v1/events").bearer_auth(&phone.access_token);
    let mut stream = soon("the stream", listening.send()).await.unwrap();
    assert_eq!(
        (stream.status().as_u16(), stream.headers()["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    shop.login("ann", "laptop");
    let mut heard = String::new();
    while let Some(chunk) = soon("an event", stream.chunk()).await.unwrap() {
        heard.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(heard.contains("event: session.revoked") && heard.contains("displaced_by_newer_login"), "{heard}");
    let id = heard.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();

    let again = shop.request("GET", "/v1/events").bearer_auth(&phone.access_token);
    let again = soon("the answer", again.send()).await.unwrap();
    assert!(soon("its body", again.text()).await.unwrap().contains(&id));
    let knowing = shop.request("GET", "/v1/events").bearer_auth(&phone.access_token).header("last-event-id", id);
    assert_eq!(soon("the answer", knowing.send()).await.unwrap().status().as_u16(), 204);
    shop.close().await;
}

#[tokio::test]
async fn a_tab_need_not_wait_until_all_others_of_its_user_are_ended() {
    const SESSIONS: usize = 20;
    let shop = Shop::open(&[]).await;
    let oldest = shop.login_in_silence("ann", "phone");
    let stream = shop.request("GET", "/v1/events").bearer_auth(&oldest.access_token).send();
    let stream = soon("the stream", stream).await.unwrap();
    for _ in 1..SESSIONS {
        shop.login_in_silence("ann", "tablet");
    }
    shop.service.sandbox.set_faults(Faults { latency_ms: 200, ..Faults::default() });
    shop.login("ann", "laptop");
    assert!(soon("the event", stream.text()).await.unwrap().contains("session.revoked"));
    assert!(shop.service.sandbox.sessions("ann").len() > 2, "told while others are still being ended");
    shop.service.settled().await;
    shop.close().await;
}

/// A stopping service does not wait for tabs that listen for hours.
#[tokio::test]
async fn an_open_stream_keeps_no_service_from_stopping() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    let (host, path) = (shop.base.trim_start_matches("http://").to_owned(), "/v1/events");
    let mut socket = tokio::net::TcpStream::connect(&host).await.unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\r\n", phone.access_token);
    tokio::io::AsyncWriteExt::write_all(&mut socket, asked.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    soon("the answer", socket.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    shop.close().await;
}
