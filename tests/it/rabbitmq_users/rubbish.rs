//! What cannot be used dies at once, with a reason that people understand, and holds up nobody.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Member, comes_down_to, configured, empty_vhost, everything_in_queues, logs_in, publish, sandbox};
use crate::support::broker::shared_rabbitmq_or_skip;

/// One message of each kind: its content type, its body, the reason that it dies for, and what is wrong in words.
fn rubbish() -> [(&'static str, Vec<u8>, &'static str, &'static str); 5] {
    let large = format!(r#"{{"uid":"ann","about":"{}"}}"#, "x".repeat(256 << 10));
    [
        ("application/json", b"\x00\xff\xfebinary".to_vec(), "unreadable", "it is not JSON of the expected shape"),
        ("application/json", br#"{"user":"ann"}"#.to_vec(), "no_user", "it names no user: `uid` is missing"),
        ("application/json", large.into_bytes(), "too_large", "it is larger than 262144 bytes"),
        ("text/plain", br#"{"uid":"ann"}"#.to_vec(), "media_type", "its content type is neither application/json nor"),
        ("application/json", br#"{"uid":"ann","tenant":"nobody","x":"y"}"#.to_vec(), "unknown_tenant", ""),
    ]
}

fn remains_of(body: &[u8], letter: &Value) {
    assert_eq!(letter["uid"], Value::Null, "{letter}");
    assert_eq!(letter["body_bytes"], body.len(), "{letter}");
    assert_eq!(letter["body_sha256"], hex::encode(Sha256::digest(body)), "{letter}");
}

#[tokio::test]
async fn five_kinds_of_rubbish_die_for_five_reasons_and_the_login_behind_them_is_enforced() {
    if !shared_rabbitmq_or_skip("five_kinds_of_rubbish_die_for_five_reasons_and_the_login_behind_them_is_enforced") {
        return;
    }
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    let service = Member::start(configured(&sandbox, &vhost.url, &[]), "webhook,worker,control").await;
    let newest = logs_in(&sandbox, "ann");
    for (content_type, body, ..) in rubbish() {
        publish(&vhost.url, "default", content_type, &body).await;
    }
    publish(&vhost.url, "default", "application/json", br#"{"uid":"ann"}"#).await;
    comes_down_to(&sandbox, &newest).await;

    let letters = service.dead_letters(5).await;
    let table = service.says(&["dead-letters", "ls"]).await;
    for ((_, body, why, problem), letter) in rubbish().into_iter().zip(&letters) {
        assert_eq!((&letter["why"], &letter["attempt"], &letter["tenant"]), (&why.into(), &1.into(), &tenant_of(why)));
        if why == "unknown_tenant" {
            // It can be read, so the event is kept: once its tenant is configured, it can be put back.
            assert_eq!(letter["uid"], "ann");
        } else {
            remains_of(&body, letter);
            assert!(letter["problem"].as_str().unwrap().starts_with(problem), "{letter}");
        }
        assert!(table.contains(why), "{table}");
    }
    assert!(table.ends_with("\n5 dead letters\n"), "{table}");
    for (queue, _, body) in everything_in_queues(&vhost.url).await {
        let waits: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(waits["reason"], "recheck", "nothing comes again but a second look at whom was enforced: {queue}");
    }
    assert_eq!(
        service.says(&["dead-letters", "redrive", "--all", "--dry-run"]).await,
        "would put back 0 dead letters\n"
    );
    assert_eq!(service.says(&["dead-letters", "redrive", "--all"]).await, "put back 0 dead letters\n");
    let mut soloist = service.stop().await;

    // Its tenant is configured.
    let theirs = super::sandbox().await;
    for (option, value) in
        [("API_URL", theirs.url().as_str()), ("API_KEY", "sandbox-key"), ("API_SECRET", "sandbox-secret")]
    {
        soloist.set(&format!("TENANTS__NOBODY__LOGINRADIUS__{option}"), value);
    }
    let service = Member::start(soloist, "webhook,worker,control").await;
    let newest = logs_in(&theirs, "ann");
    let redrive = ["dead-letters", "redrive", "--why", "unknown_tenant"];
    assert_eq!(service.says(&redrive).await, "put back 1 dead letter\n");
    comes_down_to(&theirs, &newest).await;
    service.stop().await;
}

fn tenant_of(why: &str) -> Value {
    if why == "unknown_tenant" { "nobody".into() } else { "default".into() }
}
