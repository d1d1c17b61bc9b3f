//! Receivers that are down, that want no more, or that may not be called; a service that is killed; files that are damaged.

use serde_json::Value;
use soloist::sandbox::{Sandbox, SandboxConfig};

use super::receiver::{Receiver, SECRET};
use super::{eviction, login, metric, service};
use crate::support::process::{Serving, command};
use crate::support::service::Service;
use crate::support::soon;

#[tokio::test]
async fn a_receiver_that_was_down_is_told_once_under_the_same_name() {
    let receiver = Receiver::start(503).await;
    let service = service(&[receiver.endpoint("")], &[]).await;
    eviction(&service, "ann").await;
    receiver.until(1, 503).await;
    receiver.answer_with(200);
    let got = receiver.until(1, 200).await;
    service.until("nothing to wait", async |service| metric(service, "pending") == 0).await;
    let names: std::collections::BTreeSet<&str> = got.iter().map(super::receiver::Got::id).collect();
    assert!(names.len() == 1 && got.iter().filter(|got| got.answered == 200).count() == 1, "{got:?}");
    got.last().unwrap().verified();
    assert!(metric(&service, "failed_total") >= 1);
    assert_eq!(metric(&service, "delivered_total"), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_is_no_delivery() {
    let receiver = Receiver::start(307).await;
    let service = service(&[receiver.endpoint("")], &[]).await;
    eviction(&service, "ann").await;
    service.until("an attempt", async |service| metric(service, "failed_total") == 1).await;
    assert_eq!((receiver.got().len(), metric(&service, "pending")), (1, 1));
    service.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone_until_the_next_start() {
    let receiver = Receiver::start(410).await;
    let notify = format!("[{}]", receiver.endpoint(""));
    let options = [("SOLOIST_NOTIFY", notify.as_str())];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    eviction(&service, "ann").await;
    service.until("the endpoint to be disabled", async |service| metric(service, "disabled") == 1).await;
    eviction(&service, "bob").await;
    service.until("both to wait", async |service| metric(service, "pending") == 2).await;
    assert_eq!(receiver.got().len(), 1, "nothing is sent any more");
    receiver.answer_with(200);
    let (sandbox, data_dir) = service.stop().await;
    let service = Service::start_on(sandbox, data_dir, &options).await;
    receiver.until(2, 200).await;
    assert_eq!(receiver.taken().len(), 2);
    assert_eq!(metric(&service, "disabled"), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_is_killed_loses_no_notice() {
    const USERS: usize = 12;
    let receiver = Receiver::start(503).await;
    let (sandbox, folder) = (Sandbox::start(SandboxConfig::default()).await.unwrap(), tempfile::tempdir().unwrap());
    let notify = format!("[{}]", receiver.endpoint(""));
    let variables = [("SOLOIST_NOTIFY", notify.as_str())];
    let start = || async {
        let serving = Serving::start(command(folder.path(), &sandbox.url(), &variables), folder.path()).await;
        sandbox.set_webhook_url(Some(&serving.webhook_url)).unwrap();
        serving
    };
    let mut ended = 0;
    for round in 0..3 {
        let serving = start().await;
        for user in 0..USERS / 3 {
            let user = format!("user-{round}-{user}");
            sandbox.login(&user, Some("phone")).unwrap();
            sandbox.advance(std::time::Duration::from_millis(2));
            sandbox.login(&user, Some("linux")).unwrap();
        }
        soon("the webhooks", sandbox.webhooks_settled()).await;
        ended += USERS / 3;
        if round == 0 {
            receiver.until(1, 503).await;
        }
        serving.kill().await;
    }
    receiver.answer_with(200);
    let serving = start().await;
    // What was not ended before the kill is ended now, and told like the rest.
    receiver.until(ended, 200).await;
    let told: std::collections::BTreeSet<String> = receiver
        .got()
        .iter()
        .filter(|got| got.answered == 200)
        .map(|got| got.verified()["data"]["uid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told.len(), USERS);
    serving.stop().await;
}

#[tokio::test]
async fn an_address_of_a_private_network_is_not_called_unless_it_is_allowed() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let endpoint = |name: &str, host: &str, more: &str| {
        format!(
            "{{ name = \"{name}\", url = \"https://{host}:{port}\", secret = \"{SECRET}\", timeout = \"500ms\" {more} }}"
        )
    };
    let hosts = ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"];
    let named = hosts.iter().enumerate();
    let endpoints: Vec<String> = named.map(|(at, host)| endpoint(&format!("e{at}"), host, "")).collect();
    let refusing = service(&endpoints, &[]).await;
    eviction(&refusing, "ann").await;
    let failed = |name: &str| format!("soloist_notices_failed_total{{endpoint=\"{name}\"}}");
    for at in 0..hosts.len() {
        let failed = failed(&format!("e{at}"));
        refusing.until("the refusal", async |service| service.metric(&failed) >= 1).await;
    }
    let nobody = socket.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "nobody came");
    refusing.stop().await;

    // It was the rule that kept them away.
    let allowed = service(&[endpoint("inside", "localhost", ", allow_private = true")], &[]).await;
    eviction(&allowed, "ann").await;
    allowed.until("an attempt", async |service| service.metric(&failed("inside")) >= 1).await;
    socket.accept().unwrap();
    allowed.stop().await;
}

#[tokio::test]
async fn a_damaged_file_of_notices_is_set_aside_and_the_next_end_is_told() {
    let receiver = Receiver::start(503).await;
    let notify = format!("[{}]", receiver.endpoint(""));
    let options = [("SOLOIST_NOTIFY", notify.as_str())];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    eviction(&service, "ann").await;
    receiver.until(1, 503).await;
    let (sandbox, data_dir) = service.stop().await;
    std::fs::write(data_dir.path().join("notices.db"), b"SQLite format 3\0 and then nothing of the kind").unwrap();
    receiver.answer_with(200);
    let service = Service::start_on(sandbox, data_dir, &options).await;
    assert!(service.data_dir.path().join("notices.db.damaged-1").exists());
    login(&service, "ann", "tv");
    let got = receiver.until(1, 200).await;
    got.last().unwrap().verified();
    service.stop().await;
}

#[tokio::test]
async fn no_token_address_or_secret_is_in_a_notice_or_its_file() {
    let receiver = Receiver::start(503).await;
    let service = service(&[receiver.endpoint("")], &[]).await;
    let mail = "planted-ann@planted-domain.example".to_owned();
    let traits = soloist::sandbox::Traits { email: Some(mail), ..soloist::sandbox::Traits::default() };
    service.sandbox.set_traits("ann", traits).unwrap();
    for device in ["phone", "linux", "tv"] {
        login(&service, "ann", device);
        service.settled().await;
    }
    receiver.until(2, 503).await;
    receiver.answer_with(200);
    let tokens = service.sandbox.sessions_ever("ann").into_iter().map(|session| session.access_token);
    let fixed =
        ["planted-", "198.51.100.", "203.0.113.", "192.0.2.", "sandbox-secret", SECRET.trim_start_matches("whsec_")];
    let needles: Vec<String> = tokens.chain(fixed.map(str::to_owned)).collect();
    let found = |bytes: &[u8]| {
        needles.iter().find(|needle| bytes.windows(needle.len()).any(|window| window == needle.as_bytes())).cloned()
    };
    let mut files = 0;
    for entry in std::fs::read_dir(service.data_dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("notices.db") {
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(found(&bytes), None, "in {}", path.display());
            files += 1;
        }
    }
    assert!(files >= 2, "the file and its log");
    for got in receiver.until(2, 200).await {
        let told: Value = got.verified();
        assert_eq!(found(got.body.as_bytes()), None, "{told}");
        assert_eq!(found(format!("{:?}", got.headers).as_bytes()), None);
    }
    service.stop().await;
}
