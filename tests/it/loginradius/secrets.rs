//! Keys, secrets, tokens and the vendor's words are planted everywhere and must appear nowhere.

use std::time::Duration;

use serde_json::json;
use soloist::provider::SessionProvider as _;
use soloist::provider::loginradius::{CredentialsIn, LoginRadius, LoginRadiusConfig};

use super::*;

const BOTH: [CredentialsIn; 2] = [CredentialsIn::Headers, CredentialsIn::Query];

/// Fails where any form of the error shows what only the vendor may see.
fn assert_discreet(error: ProviderError, what: &str) {
    let debug = format!("{error} {error:?} {error:#?}");
    let chain = anyhow::Error::new(error);
    for shown in [debug, format!("{chain} {chain:#}"), format!("{chain:?} {chain:#?}")] {
        assert!(!shown.contains("canary"), "{what}: {shown}");
    }
}

/// Makes every call once and gives back its error, if it has one.
async fn every_call(client: &LoginRadius) -> Vec<ProviderError> {
    let outcomes = [
        client.list(&ann()).await.err(),
        client.list_by_token(&token()).await.err(),
        client.revoke(&token()).await.err(),
        client.identify(&token()).await.err(),
        client.traits(&ann()).await.err(),
        client.probe().await.err(),
    ];
    outcomes.into_iter().flatten().collect()
}

#[tokio::test]
async fn no_answer_makes_an_error_talk() {
    let body = |code: u32| json!({"ErrorCode": code, "Message": "canary", "Description": "canary"}).to_string();
    let location = format!("http://canary.invalid/?secret={SECRET}&token={TOKEN}");
    for credentials_in in BOTH {
        for code in [902, 905, 908, 938, 950, 1055, 424_242] {
            let vendor = Vendor::new((0..6).map(|_| reply(403, body(code)))).await;
            let client = LoginRadius::new(LoginRadiusConfig { credentials_in, ..vendor.config() }).unwrap();
            for error in every_call(&client).await {
                assert_discreet(error, &code.to_string());
            }
        }
        for (status, body) in [
            (200, "canary"),
            (200, r#"{"Uid":"ann/canary","message":"canary"}"#),
            (403, "canary"),
            (429, "canary"),
            (502, ""),
        ] {
            let vendor = Vendor::new((0..6).map(|_| with_header(reply(status, body), "location", &location))).await;
            let client = LoginRadius::new(LoginRadiusConfig { credentials_in, ..vendor.config() }).unwrap();
            let errors = every_call(&client).await;
            assert_eq!(errors.len(), 6, "{status} {body}");
            for error in errors {
                assert_discreet(error, &format!("{status} {body}"));
            }
        }
    }
}

#[tokio::test]
async fn no_failing_connection_makes_an_error_talk() {
    for credentials_in in BOTH {
        let broken = || with_header(reply(200, "canary"), "content-encoding", "gzip");
        let vendor = Vendor::new((0..6).map(|_| broken()).chain((0..6).map(|_| Reply::Silence))).await;
        let timeout = Duration::from_millis(100);
        let client = LoginRadius::new(LoginRadiusConfig { credentials_in, timeout, ..vendor.config() }).unwrap();
        for what in ["broken", "silent"] {
            let errors = every_call(&client).await;
            assert_eq!(errors.len(), 6, "{what}");
            for error in errors {
                assert_discreet(error, what);
            }
        }

        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let api_url = ApiUrl::parse(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
        let client = LoginRadius::new(LoginRadiusConfig { credentials_in, api_url, ..vendor.config() }).unwrap();
        for error in every_call(&client).await {
            assert_discreet(error, "closed");
        }
    }
}

#[tokio::test]
async fn neither_the_client_nor_its_configuration_prints_a_credential() {
    let vendor = Vendor::new([]).await;
    assert!(!format!("{:?} {:?}", vendor.config(), vendor.client()).contains("canary"));
    let config = LoginRadiusConfig { api_secret: "canary\n".into(), ..vendor.config() };
    let error = LoginRadius::new(config).unwrap_err();
    assert!(!format!("{error:?}").contains("canary") && error.to_string().contains("api_secret"));
}

#[tokio::test]
async fn with_credentials_in_headers_no_url_has_the_secret_and_only_listing_by_token_a_token() {
    let vendor = Vendor::new([]).await;
    every_call(&vendor.client()).await;
    let seen = vendor.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|request| !request.uri.contains(SECRET)));
    let with_token: Vec<_> = seen.iter().filter(|request| request.uri.contains(TOKEN)).map(Seen::url).collect();
    assert_eq!(with_token.len(), 1);
    assert_eq!(with_token[0].path(), "/api/v2/access_token/activesession");
}

/// Keeps every log line of this thread, of every crate and level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_line_of_any_level_shows_a_credential() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _this_thread = tracing::subscriber::set_default(subscriber);
    tracing::info!("listening");
    let vendor = Vendor::new([reply(200, "canary")]).await;
    let client =
        LoginRadius::new(LoginRadiusConfig { credentials_in: CredentialsIn::Query, ..vendor.config() }).unwrap();

    every_call(&client).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("listening") && !log.contains("canary"), "{log}");
}
