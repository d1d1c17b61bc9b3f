//! Who is to be told is told: that a session was ended, a user is contended, a budget is used up. At least once, by those
//! who may be called only, and without what nobody else may know.

mod feed;
mod receiver;
mod shown;
mod trouble;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use soloist::sandbox::{LoginMade, SandboxConfig};

use self::receiver::Receiver;
use crate::support::service::Service;

/// A service that tells these endpoints.
pub(crate) async fn service(endpoints: &[String], options: &[(&str, &str)]) -> Service {
    let notify = format!("[{}]", endpoints.join(", "));
    let options: Vec<_> = options.iter().copied().chain([("SOLOIST_NOTIFY", notify.as_str())]).collect();
    Service::start_with(SandboxConfig::default(), &options).await
}

fn login(service: &Service, user: &str, device: &str) -> LoginMade {
    service.sandbox.advance(Duration::from_millis(2));
    service.sandbox.login(user, Some(device)).unwrap()
}

/// A login, and another one that ends it.
async fn eviction(service: &Service, user: &str) -> LoginMade {
    let first = login(service, user, "phone");
    login(service, user, "linux");
    service.settled().await;
    first
}

fn metric(service: &Service, name: &str) -> u64 {
    service.metric(&format!("soloist_notices_{name}{{endpoint=\"app\"}}"))
}

#[tokio::test]
async fn an_eviction_is_told_once_and_the_reference_implementation_finds_its_signature_right() {
    let receiver = Receiver::start(204).await;
    let service = service(&[receiver.endpoint("")], &[]).await;
    let ended = eviction(&service, "ann").await;

    let [got] = receiver.until(1, 204).await.try_into().unwrap();
    let told = got.verified();
    assert_eq!(got.header("content-type"), "application/json");
    let at: jiff::Timestamp = told["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(got.header("webhook-timestamp").parse::<i64>().unwrap() >= at.as_second());
    assert_eq!(told["type"], "session.revoked");
    let expected = json!({
        "tenant": "default", "uid": "ann", "session": ended.session,
        "reason": "displaced_by_newer_login",
        "text": "You were logged out because you logged in on another device.",
        "device": { "device_type": "Mobile", "os": "iOS", "browser": "Safari" },
        "displaced_by": { "device_type": "PC" },
    });
    assert_eq!(told["data"], expected);

    // Another one comes behind it, and nothing comes twice.
    login(&service, "ann", "tv");
    receiver.until(2, 204).await;
    service.until("all to be settled", async |service| metric(service, "pending") == 0).await;
    assert_eq!((receiver.taken().len(), receiver.got().len()), (2, 2));
    assert_eq!((metric(&service, "delivered_total"), metric(&service, "failed_total")), (2, 0));
    service.stop().await;
}

#[tokio::test]
async fn an_endpoint_hears_only_what_it_asked_for_and_in_the_words_of_the_file() {
    let (everything, rejections) = (Receiver::start(200).await, Receiver::start(200).await);
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.toml");
    std::fs::write(&texts, "displaced_by_newer_login = \"Sie haben sich anderswo angemeldet.\"").unwrap();
    let picky = rejections.endpoint(", events = [\"session.rejected\", \"user.contended\"]").replace("app", "picky");
    let endpoints = [everything.endpoint(""), picky];
    let options = [("SOLOIST_NOTIFY_TEXTS", texts.to_str().unwrap())];
    let service = service(&endpoints, &options).await;
    eviction(&service, "ann").await;
    let [got] = everything.until(1, 200).await.try_into().unwrap();
    assert_eq!(got.verified()["data"]["text"], "Sie haben sich anderswo angemeldet.");
    assert_eq!(rejections.got().len(), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_login_that_is_turned_away_is_told_as_rejected() {
    let receiver = Receiver::start(200).await;
    let options = [("SOLOIST_POLICY__STRATEGY", "reject_newest"), ("SOLOIST_BUDGET__REVOCATIONS", "50")];
    let service = service(&[receiver.endpoint("")], &options).await;
    login(&service, "ann", "phone");
    service.settled().await;
    let rejected = login(&service, "ann", "linux");
    let [got] = receiver.until(1, 200).await.try_into().unwrap();
    let told = got.verified();
    assert_eq!((&told["type"], &told["data"]["session"]), (&json!("session.rejected"), &json!(rejected.session)));
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_a_person_ended_is_told_as_such_and_one_that_is_only_observed_is_not() {
    let receiver = Receiver::start(200).await;
    let service = service(&[receiver.endpoint("")], &[("SOLOIST_POLICY__MODE", "observe")]).await;
    let observed = eviction(&service, "ann").await;
    let path = format!("/admin/v1/users/ann/sessions/{}", observed.session);
    assert_eq!(service.admin("DELETE", &path).await.0, 200);
    let [got] = receiver.until(1, 200).await.try_into().unwrap();
    let told = got.verified();
    assert_eq!((&told["type"], &told["data"]["reason"]), (&json!("session.revoked"), &json!("admin")), "{told}");
    assert_eq!(told["data"]["session"], observed.session);
    service.stop().await;
}

#[tokio::test]
async fn a_contended_user_and_a_spent_budget_are_told_once_also_over_a_restart() {
    let receiver = Receiver::start(200).await;
    let notify = format!("[{}]", receiver.endpoint(", events = [\"user.contended\", \"tenant.budget_exceeded\"]"));
    let options = [("SOLOIST_NOTIFY", notify.as_str()), ("SOLOIST_BUDGET__REVOCATIONS", "8")];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    for device in ["phone", "linux"].into_iter().cycle().take(12) {
        login(&service, "ann", device);
        service.settled().await;
    }
    for user in 0..5 {
        eviction(&service, &format!("user-{user}")).await;
    }
    receiver.until(2, 200).await;
    let (sandbox, data_dir) = service.stop().await;
    let service = Service::start_on(sandbox, data_dir, &options).await;
    eviction(&service, "bob").await;
    let told: Vec<Value> = receiver.got().iter().map(receiver::Got::verified).collect();
    let types: BTreeSet<&str> = told.iter().map(|told| told["type"].as_str().unwrap()).collect();
    assert_eq!((told.len(), types), (2, BTreeSet::from(["tenant.budget_exceeded", "user.contended"])), "{told:?}");
    let contended = told.iter().find(|told| told["type"] == "user.contended").unwrap();
    assert_eq!(contended["data"]["uid"], "ann");
    service.stop().await;
}

#[tokio::test]
async fn no_history_is_told_to_a_new_endpoint_and_no_other_tenants_to_one_of_a_tenant() {
    let service = Service::start().await;
    eviction(&service, "ann").await;
    let (sandbox, data_dir) = service.stop().await;
    let (receiver, others) = (Receiver::start(200).await, Receiver::start(200).await);
    let of_acme = others.endpoint(", tenant = \"acme\"").replace("\"app\"", "\"acme\"");
    let notify = format!("[{}, {of_acme}]", receiver.endpoint(", tenant = \"default\""));
    let url = sandbox.url();
    let options = [
        ("SOLOIST_NOTIFY", notify.as_str()),
        ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_URL", url.as_str()),
        ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_KEY", "sandbox-key"),
        ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_SECRET", "sandbox-secret"),
    ];
    let service = Service::start_on(sandbox, data_dir, &options).await;
    eviction(&service, "bob").await;
    let [got] = receiver.until(1, 200).await.try_into().unwrap();
    assert_eq!(got.verified()["data"]["uid"], "bob");
    service.until("all to be settled", async |service| metric(service, "pending") == 0).await;
    assert_eq!((receiver.got().len(), others.got().len()), (1, 0));
    service.stop().await;
}

/// A key of the kind as a PEM file, and what verifies its signatures.
fn key(kind: &str) -> (tempfile::NamedTempFile, UnparsedPublicKey<Vec<u8>>) {
    let (der, public) = if kind == "ES256" {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED as _, key.public_key().as_ref().to_vec());
        (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public)
    } else {
        let key = Ed25519KeyPair::generate().unwrap();
        let public = UnparsedPublicKey::new(&ED25519 as _, key.public_key().as_ref().to_vec());
        (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public)
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
    std::fs::write(file.path(), pem).unwrap();
    (file, public)
}

#[tokio::test]
async fn a_security_event_token_is_verified_with_the_public_key() {
    for kind in ["ES256", "EdDSA"] {
        let (key_file, public) = key(kind);
        let receiver = Receiver::start(202).await;
        let endpoint = format!(
            "{{ name = \"app\", format = \"caep\", url = \"{}\", allow_private = true, issuer = \"https://us.example\", \
             audience = \"https://them.example\", signing_key_file = \"{}\" }}",
            receiver.url,
            key_file.path().display()
        );
        let service = service(&[endpoint], &[]).await;
        let begun = soloist::app::now().as_second();
        eviction(&service, "ann").await;
        let [got] = receiver.until(1, 202).await.try_into().unwrap();
        assert_eq!(got.header("content-type"), "application/secevent+jwt");
        assert!(got.headers.get("webhook-signature").is_none());
        let (signed, signature) = got.body.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        public.verify(signed.as_bytes(), &signature).unwrap();
        assert!(public.verify(signed.replacen("ey", "ez", 1).as_bytes(), &signature).is_err());
        let parts: Vec<Value> = signed
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(parts[0], json!({ "alg": kind, "typ": "secevent+jwt" }));
        let claims = &parts[1];
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://us.example"), &json!("https://them.example")));
        assert_eq!(claims["sub_id"], json!({ "format": "opaque", "id": "ann" }));
        assert!(claims["jti"].as_str().unwrap().starts_with("msg_") && claims["iat"].as_i64().unwrap() >= begun);
        let event = &claims["events"]["https://schemas.openid.net/secevent/caep/event-type/session-revoked"];
        assert!(event["event_timestamp"].as_i64().unwrap() >= begun - 1, "{claims}");
        assert!(event["reason_admin"]["en"].as_str().unwrap().contains("another device"), "{claims}");
        service.stop().await;
    }
}
