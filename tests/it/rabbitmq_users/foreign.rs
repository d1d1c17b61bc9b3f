//! What other programs publish is enforced, in whichever of the forms that are read, and leaves nothing behind.

use serde_json::{Value, json};

use super::{
    Member, acme, comes_down_to, configured, empty_vhost, everything_in_queues, logs_in, on, publish, sandbox, until,
};
use crate::support::broker::shared_rabbitmq_or_skip;
use crate::support::process::{Serving, command};

const JSON: &str = "application/json";
/// A password hash as a LoginRadius body holds it.
const PLANTED: &str = "planted-password-hash-b7a1";

/// A LoginRadius body as another gateway forwards it; `data` on top of the profile.
fn raw(data: &Value) -> Value {
    let mut body = json!({
        "HookName": "login", "HookId": "hook-1", "Time": "2026-01-01T00:00:00Z",
        "Data": { "Password": PLANTED, "Email": [{ "Type": "Primary", "Value": format!("{PLANTED}@example.com") }] },
    });
    body["Data"].as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_login_is_enforced_in_whichever_form_another_program_publishes_it() {
    if !shared_rabbitmq_or_skip("a_login_is_enforced_in_whichever_form_another_program_publishes_it") {
        return;
    }
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    let service = Member::start(configured(&sandbox, &vhost.url, &[]), "webhook,worker,control").await;
    let cloud_event = json!({ "specversion": "1.0", "type": "com.example.login", "source": "/gateway", "id": "1", "subject": "cloud" });
    for (user, content_type, body) in [
        ("own", JSON, json!({ "uid": "own" })),
        ("cloud", "application/cloudevents+json; charset=utf-8", cloud_event),
        ("raw", JSON, raw(&json!({ "Uid": "raw" }))),
    ] {
        let newest = logs_in(&sandbox, user);
        publish(&vhost.url, "default", content_type, body.to_string().as_bytes()).await;
        comes_down_to(&sandbox, &newest).await;
    }
    assert_eq!(service.says(&["dead-letters", "ls"]).await, "0 dead letters\n");
    service.stop().await;
}

#[tokio::test]
async fn an_empty_key_means_the_default_tenant_and_a_name_that_tenant() {
    if !shared_rabbitmq_or_skip("an_empty_key_means_the_default_tenant_and_a_name_that_tenant") {
        return;
    }
    let (vhost, ours, theirs) = (empty_vhost().await, sandbox().await, sandbox().await);
    let acme = acme(&theirs);
    let options = acme.each_ref().map(|(option, value)| (*option, value.as_str()));
    let service = Member::start(configured(&ours, &vhost.url, &options), "webhook,worker,control").await;
    for (key, sandbox) in [("", &ours), ("acme", &theirs)] {
        let newest = logs_in(sandbox, "ann");
        publish(&vhost.url, key, JSON, br#"{"uid":"ann"}"#).await;
        comes_down_to(sandbox, &newest).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn the_tenant_in_a_message_wins_over_the_queue_that_it_came_by() {
    if !shared_rabbitmq_or_skip("the_tenant_in_a_message_wins_over_the_queue_that_it_came_by") {
        return;
    }
    let (vhost, ours, theirs) = (empty_vhost().await, sandbox().await, sandbox().await);
    let acme = acme(&theirs);
    let options = acme.each_ref().map(|(option, value)| (*option, value.as_str()));
    let service = Member::start(configured(&ours, &vhost.url, &options), "webhook,worker,control").await;
    let (here, there) = (logs_in(&ours, "ann"), logs_in(&theirs, "ann"));

    publish(&vhost.url, "default", JSON, br#"{"uid":"ann","tenant":"acme"}"#).await;
    comes_down_to(&theirs, &there).await;
    assert_eq!(ours.sessions("ann").len(), 3, "the user of the same name is another");

    publish(&vhost.url, "acme", JSON, br#"{"uid":"ann","tenant":"default"}"#).await;
    comes_down_to(&ours, &here).await;
    service.stop().await;
}

/// Bodies with the planted text, by content type: one that is read, and others that are not, each for its own reason.
fn with_plants() -> Vec<(&'static str, Vec<u8>)> {
    let text = |body: &Value| body.to_string().into_bytes();
    let mut large = raw(&json!({ "Uid": "raw" }));
    large["Data"]["About"] = Value::from("x".repeat(300 << 10));
    vec![
        (JSON, text(&raw(&json!({ "Uid": "raw" })))),
        (JSON, text(&raw(&json!({})))),
        (JSON, text(&raw(&json!({ "Uid": format!("{PLANTED}/") })))),
        (JSON, text(&large)),
        (PLANTED, text(&raw(&json!({ "Uid": "raw" })))),
        (JSON, format!("{PLANTED} {{").into_bytes()),
        (JSON, [b"\xff\x00".as_slice(), PLANTED.as_bytes()].concat()),
        (JSON, text(&json!({ "HookName": "Register", "Data": { "Password": PLANTED } }))),
        (JSON, text(&json!({ "uid": "own", "id": "an id", "tenant": "default", "password": PLANTED }))),
        (JSON, text(&json!({ "uid": "own", "tenant": "nobody", "password": PLANTED }))),
    ]
}

fn holds_plant(bytes: &[u8]) -> bool {
    bytes.windows(PLANTED.len()).any(|window| window == PLANTED.as_bytes())
}

/// Searches what waits at the broker: bodies, and properties as well.
async fn queues_hold_no_plant(url: &str) {
    for (queue, properties, body) in everything_in_queues(url).await {
        assert!(!holds_plant(&body), "{queue}: {}", String::from_utf8_lossy(&body));
        assert!(!format!("{properties:?}").contains(PLANTED), "{queue}: {properties:?}");
    }
}

#[tokio::test]
async fn the_profile_in_a_forwarded_login_is_nowhere_to_be_found_afterwards() {
    if !shared_rabbitmq_or_skip("the_profile_in_a_forwarded_login_is_nowhere_to_be_found_afterwards") {
        return;
    }
    let (vhost, sandbox, folder) = (empty_vhost().await, sandbox().await, tempfile::tempdir().unwrap());
    let (newest, own) = (logs_in(&sandbox, "raw"), logs_in(&sandbox, "own"));
    let traced = [("TELEMETRY__LOG", "trace,lapin=trace")];
    let options = on(&vhost.url).into_iter().chain(traced).map(|(option, value)| (format!("SOLOIST_{option}"), value));
    let options: Vec<(String, &str)> = options.collect();
    let options: Vec<(&str, &str)> = options.iter().map(|(option, value)| (option.as_str(), *value)).collect();
    // Without a control process it obeys what it has heard last.
    let heard = json!({ "heard_at": soloist::app::now().to_string(), "version": 0, "entries": [] });
    std::fs::write(folder.path().join("directives.json"), heard.to_string()).unwrap();
    let mut worker = command(folder.path(), &sandbox.url(), &options);
    worker.args(["--role", "webhook,worker"]);
    let worker = Serving::start(worker, folder.path()).await;
    until("the broker", async || worker.admin("/admin/v1/status").await["broker"]["up"] == true).await;

    for (content_type, body) in with_plants() {
        publish(&vhost.url, "default", content_type, &body).await;
    }
    comes_down_to(&sandbox, &newest).await;
    comes_down_to(&sandbox, &own).await;
    let dead = with_plants().len() - 3;
    until("the others to die", async || worker.admin("/admin/v1/status").await["broker"]["dead"] == dead).await;
    queues_hold_no_plant(&vhost.url).await;

    let control = Member::start(configured(&sandbox, &vhost.url, &[]), "control").await;
    for letter in control.dead_letters(dead).await {
        assert!(!holds_plant(control.says(&["dead-letters", "show", &letter["id"].to_string()]).await.as_bytes()));
    }
    queues_hold_no_plant(&vhost.url).await;
    let control = control.stop().await;
    let (_, log) = worker.stop().await;
    assert!(log.len() > 50, "the log is there to be searched");
    let as_bytes = format!("{:?}", PLANTED.as_bytes());
    let as_bytes = as_bytes.trim_matches(['[', ']']);
    assert_eq!(log.iter().find(|line| line.contains(PLANTED) || line.contains(as_bytes)), None);
    for folder in [folder.path(), &control.data_dir()] {
        for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            assert!(!holds_plant(&std::fs::read(&file).unwrap()), "{}", file.display());
        }
    }
}
