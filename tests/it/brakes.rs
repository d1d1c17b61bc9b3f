//! What stops a mistake before it spreads: the budget, the guard against ping-pong, and what people decide at run time.

use serde_json::{Value, json};
use soloist::sandbox::{Sandbox, SandboxConfig};

use crate::support::service::Service;

const REASON: &str = "a test";

fn word(mut fields: Value) -> Value {
    fields["owner"] = json!("ops");
    fields["reason"] = json!(REASON);
    fields
}

fn revoked(service: &Service) -> u64 {
    let calls = service.sandbox.report(1).calls;
    calls.iter().filter(|(operation, _)| operation.contains("invalidate")).map(|(_, count)| count).sum()
}

fn live(service: &Service, users: usize) -> usize {
    (0..users).map(|n| service.sandbox.sessions(&format!("user-{n}")).len()).sum()
}

async fn restarted(service: Service, options: &[(&str, &str)]) -> Service {
    let (sandbox, data_dir): (Sandbox, _) = service.stop().await;
    Service::start_on(sandbox, data_dir, options).await
}

#[tokio::test]
async fn a_budget_of_fifty_ends_fifty_sessions_and_waits_for_a_person() {
    const USERS: usize = 100;
    let options = [("SOLOIST_BUDGET__REVOCATIONS", "50")];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    for n in 0..USERS {
        for _ in 0..10 {
            service.sandbox.login_in_silence(&format!("user-{n}"), None).unwrap();
        }
        service.sandbox.login(&format!("user-{n}"), None).unwrap();
    }
    service.settled().await;
    assert_eq!(live(&service, USERS), USERS * 11 - 50);
    let stopped = async |service: &Service| service.admin("GET", "/admin/v1/budget").await.1["budget"][0].clone();
    assert_eq!(stopped(&service).await["stopped"], json!(true));
    assert_eq!(service.metric("soloist_budget_breached{tenant=\"default\"}"), 1);

    // Whatever comes then, and a restart, change nothing.
    service.sandbox.login("user-0", None).unwrap();
    let service = restarted(service, &options).await;
    service.sandbox.login("user-1", None).unwrap();
    service.settled().await;
    assert_eq!(live(&service, USERS), USERS * 11 - 50 + 2);
    assert!(service.metric("soloist_decisions_held_total{tenant=\"default\",why=\"budget\"}") >= 1);

    let (status, resumed) = service.tell("POST", "/admin/v1/resume", &word(json!({}))).await;
    assert_eq!((status, &resumed["resumed"]), (200, &json!(true)), "{resumed}");
    assert!(resumed["looked_at_again"].as_u64().unwrap() >= 90, "{resumed}");
    service.settled().await;
    assert_eq!(live(&service, USERS), USERS * 11 - 100 + 2, "another fifty");
    assert_eq!(stopped(&service).await["stopped"], json!(true));
    assert!(service.sandbox.report(1).wrong_revocations.is_empty());
    service.stop().await;
}

/// Two clients, each of which logs in again as soon as its session has been ended. Returns how many were ended.
async fn play(service: &Service, rounds: usize) -> u64 {
    let before = revoked(service);
    for round in 0..rounds {
        let device = if round % 2 == 0 { "phone" } else { "laptop" };
        service.sandbox.advance(std::time::Duration::from_millis(2));
        service.sandbox.login("ann", Some(device)).unwrap();
        service.settled().await;
    }
    revoked(service) - before
}

#[tokio::test]
async fn two_clients_that_log_in_again_on_every_kick_are_stopped_at_the_sixth_eviction() {
    let service = Service::start().await;
    assert_eq!(play(&service, 20).await, 6);
    assert_eq!(service.metric("soloist_contended_users{tenant=\"default\"}"), 1);
    assert!(service.metric("soloist_decisions_held_total{tenant=\"default\",why=\"contended\"}") >= 13);

    // It holds over a restart, until a person or the time lets go.
    let service = restarted(service, &[]).await;
    assert_eq!(play(&service, 2).await, 0);
    let (status, _) = service.tell("DELETE", "/admin/v1/directives/contended/default/ann", &word(json!({}))).await;
    assert_eq!(status, 200);
    service.settled().await;
    assert_eq!(service.sandbox.sessions("ann").len(), 1, "looked at again at once");
    service.stop().await;
}

#[tokio::test]
async fn the_guard_remembers_evictions_over_a_restart() {
    let service = Service::start().await;
    assert_eq!(play(&service, 5).await, 4);
    let service = restarted(service, &[]).await;
    assert_eq!(play(&service, 9).await, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_the_user_is_looked_at_then() {
    let options = [("SOLOIST_GUARD__HOLD_FOR", "1s"), ("SOLOIST_GUARD__EVICTIONS", "4")];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    assert_eq!(play(&service, 6).await, 4);
    service.until("the hold to end", async |service| service.sandbox.sessions("ann").len() == 1).await;
    service.stop().await;
}

#[tokio::test]
async fn a_mode_holds_at_once_for_rules_and_overrides_too_and_those_it_held_back_are_looked_at_afterwards() {
    let options = [("SOLOIST_POLICY__OVERRIDES", r#"[{ uid = "bob", mode = "enforce", limit = 1 }]"#)];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    let observe = word(json!({ "kind": "mode", "mode": "observe" }));
    assert_eq!(service.tell("PUT", "/admin/v1/directives", &observe).await.0, 200);
    for user in ["ann", "bob"] {
        service.sandbox.login(user, None).unwrap();
        service.sandbox.login(user, None).unwrap();
    }
    service.settled().await;
    assert_eq!(revoked(&service), 0);

    let service = restarted(service, &options).await;
    let enforce = word(json!({ "kind": "mode", "mode": "enforce" }));
    let (status, answer) = service.tell("PUT", "/admin/v1/directives", &enforce).await;
    assert_eq!((status, &answer["looked_at_again"]), (200, &json!(2)), "{answer}");
    service.settled().await;
    assert_eq!(revoked(&service), 2);
    service.stop().await;
}

#[tokio::test]
async fn overrides_exemptions_and_pins_made_at_run_time_are_obeyed() {
    let service = Service::start().await;
    let oldest = service.sandbox.login_in_silence("cat", None).unwrap();
    let (_, sessions) = service.admin("GET", "/admin/v1/users/cat/sessions").await;
    for directive in [
        json!({ "kind": "override", "uid": "ann", "policy": { "limit": 2 } }),
        json!({ "kind": "exemption", "who": { "uid": "bob" }, "expires": "2099-01-01T00:00:00Z" }),
        json!({ "kind": "pin", "uid": "cat", "session": sessions["sessions"][0]["session"] }),
    ] {
        let (status, answer) = service.tell("PUT", "/admin/v1/directives", &word(directive)).await;
        assert_eq!(status, 200, "{answer}");
    }
    for _ in 0..4 {
        for user in ["ann", "bob", "cat"] {
            service.sandbox.advance(std::time::Duration::from_millis(2));
            service.sandbox.login(user, None).unwrap();
        }
    }
    service.settled().await;
    let left = |user: &str| service.sandbox.sessions(user).len();
    assert_eq!((left("ann"), left("bob"), left("cat")), (2, 4, 2));
    assert!(service.sandbox.sessions("cat").iter().any(|session| session.session == oldest.session));
    service.stop().await;
}

#[tokio::test]
async fn a_wrong_directive_is_refused_with_its_mistake_and_changes_nothing() {
    let service = Service::start().await;
    for (wrong, expected) in [
        (json!({ "kind": "override", "uid": "ann", "policy": { "limit": 0 } }), "policy.overrides[0].limit"),
        (json!({ "kind": "override", "uid": "ann", "policy": { "strategy": "reject_newest" } }), "budget.revocations"),
        (json!({ "kind": "canary", "percent": 101 }), "policy.canary_percent"),
        (json!({ "kind": "mode", "mode": "observe", "tenant": "acme" }), "no tenant `acme`"),
    ] {
        let (status, problem) = service.tell("PUT", "/admin/v1/directives", &word(wrong)).await;
        assert_eq!(status, 400);
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    }
    assert_eq!(service.admin("GET", "/admin/v1/directives").await.1, json!({ "directives": [] }));
    service.stop().await;
}
