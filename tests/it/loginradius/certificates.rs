//! Whom the client trusts over https. The CA store is chosen by environment variables, which a process reads once, so
//! each test runs itself again as a process of its own.

use std::path::Path;

use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use rcgen::generate_simple_self_signed;
use serde_json::json;
use soloist::provider::SessionProvider as _;
use soloist::provider::loginradius::{LoginRadius, LoginRadiusConfig};

use super::*;

/// Names the test that the child process is.
const CHILD: &str = "SOLOIST_TEST_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this file in a process that trusts only the certificates in a file.
async fn run_as_child(test: &str, ca_file: &Path) {
    let empty = tempfile::tempdir().unwrap();
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("loginradius::certificates::{test}")])
        .env(CHILD, test)
        .env("SSL_CERT_FILE", ca_file)
        .env("SSL_CERT_DIR", empty.path())
        // Nothing listens there: only a client that leaves the proxy alone on loopback gets through.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .output();
    let output = child.await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
}

#[tokio::test]
async fn without_ca_certificates_https_says_what_to_install_and_loopback_works() {
    if !is_child() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let this = "without_ca_certificates_https_says_what_to_install_and_loopback_works";
        return run_as_child(this, empty.path()).await;
    }
    assert!(list([ok(&json!({"data": []}))]).await.unwrap().complete);
    let api_url = ApiUrl::parse(ApiUrl::DEFAULT).unwrap();
    let error = LoginRadius::new(LoginRadiusConfig::new(api_url, KEY.into(), SECRET.into())).unwrap_err();
    assert!(format!("{error:#}").contains("install `ca-certificates`"), "{error:#}");
}

/// A vendor with a certificate; the client that talks to it over https.
async fn https_vendor(pem: Vec<u8>) -> (JoinSet<()>, LoginRadius) {
    let tls = RustlsConfig::from_pem(pem.clone(), pem).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Script::default();
    script.replies.lock().unwrap().push_back(ok(&json!({"data": [row("a")]})));
    let app = Router::new().fallback(next_reply).with_state(script);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let mut server = JoinSet::new();
    server.spawn(async move { from_tcp_rustls(listener, tls).unwrap().serve(app).await.unwrap() });
    let api_url = ApiUrl::parse(&format!("https://localhost:{port}")).unwrap();
    (server, LoginRadius::new(LoginRadiusConfig::new(api_url, KEY.into(), SECRET.into())).unwrap())
}

#[tokio::test]
async fn a_vendor_is_trusted_with_credentials_only_when_its_certificate_is() {
    let certificate_and_key = || {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        made.cert.pem() + &made.signing_key.serialize_pem()
    };
    let Some(trusted) = std::env::var_os("SSL_CERT_FILE").filter(|_| is_child()) else {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate_and_key()).unwrap();
        let this = "a_vendor_is_trusted_with_credentials_only_when_its_certificate_is";
        return run_as_child(this, file.path()).await;
    };
    let (_server, client) = https_vendor(std::fs::read(trusted).unwrap()).await;
    assert_eq!(tokens(&client.list(&ann()).await.unwrap()), ["a"]);

    let (_server, client) = https_vendor(certificate_and_key().into_bytes()).await;
    let error = client.list(&ann()).await.unwrap_err();
    assert_eq!((error.class(), text(error).contains("certificate")), ("unavailable", true));
}
