//! One account for each role, which may do no more than that role does: all of it is needed, and it is enough.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use serde_json::Value;
use soloist::queue::rabbitmq::topology;
use soloist::sandbox::Sandbox;

use super::definitions::definitions;
use super::{Member, comes_down_to, configured, hand_out_too_often, logs_in, publish, sandbox, until};
use crate::cli::Soloist;
use crate::support::broker::{Broker, Vhost, own_broker};
use crate::support::{amqp, soon};

const PASSWORD: &str = "planted-broker-password-4e8f";

/// A user of one virtual host.
pub(super) struct Account {
    pub(super) name: String,
    pub(super) url: String,
}

/// Configure, write, read of a role in the definitions.
pub(super) fn rights(role: &str) -> [String; 3] {
    let definitions = definitions();
    let all = definitions["permissions"].as_array().unwrap();
    let rights = all.iter().find(|rights| rights["user"] == role).unwrap();
    ["configure", "write", "read"].map(|right| rights[right].as_str().unwrap().to_owned())
}

/// A user with exactly the rights of a role; its name is that of no other test.
pub(super) async fn account(broker: &Broker, vhost: &Vhost, role: &str) -> Account {
    account_with(broker, vhost, role, rights(role)).await
}

pub(super) async fn account_with(broker: &Broker, vhost: &Vhost, name: &str, rights: [String; 3]) -> Account {
    let name = format!("{name}-{}", vhost.name);
    broker.add_user(&name, PASSWORD, &vhost.name, rights.each_ref().map(String::as_str)).await;
    let url = format!("amqp://{name}:{PASSWORD}@{}/{}", broker.addr(), vhost.name);
    Account { name, url }
}

/// A process that works with the account and declares nothing.
pub(super) fn restricted(sandbox: &Sandbox, account: &Account) -> Soloist {
    configured(sandbox, &account.url, &[("QUEUE__RABBITMQ__DECLARE", "false")])
}

/// The admin's account declares everything, and then rests.
pub(super) async fn declared_by_admin(broker: &Broker, vhost: &Vhost, sandbox: &Sandbox) {
    let admin = account(broker, vhost, "admin").await;
    Member::start(configured(sandbox, &admin.url, &[]), "control").await.stop().await;
}

#[tokio::test]
async fn three_processes_do_all_their_work_with_the_rights_of_their_roles_alone() {
    let Some(broker) = own_broker("three_processes_do_all_their_work_with_the_rights_of_their_roles_alone").await
    else {
        return;
    };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    declared_by_admin(broker, &vhost, &sandbox).await;
    let (webhook, worker, control) = (
        account(broker, &vhost, "webhook").await,
        account(broker, &vhost, "worker").await,
        account(broker, &vhost, "control").await,
    );
    // A login that the broker has given up before anybody works.
    let bob = logs_in(&sandbox, "bob");
    publish(&webhook.url, "default", "application/json", br#"{"uid":"bob"}"#).await;
    hand_out_too_often(&vhost.url, 1).await;
    let publisher = webhook.url.clone();
    let control = Member::start(restricted(&sandbox, &control), "control").await;
    let worker = Member::start(restricted(&sandbox, &worker), "worker").await;
    let webhook = Member::start(restricted(&sandbox, &webhook), "webhook").await;
    sandbox.set_webhook_url(webhook.webhook_url.as_deref()).unwrap();

    sandbox.login("ann", None).unwrap();
    sandbox.advance(Duration::from_millis(2));
    let newest = sandbox.login("ann", None).unwrap();
    comes_down_to(&sandbox, &newest).await;
    until("the decision", async || control.says(&["decisions", "ann"]).await.contains("revoked")).await;

    publish(&publisher, "default", "application/json", b"{}").await;
    let dead = control.dead_letters(2).await;
    let reasons: Vec<_> = dead.iter().map(|letter| (&letter["why"], &letter["uid"])).collect();
    assert_eq!(reasons, [(&"delivery_limit".into(), &"bob".into()), (&"no_user".into(), &Value::Null)]);
    assert_eq!(control.says(&["dead-letters", "redrive", "--all"]).await, "put back 1 dead letter\n");
    comes_down_to(&sandbox, &bob).await;

    for member in [webhook, worker, control] {
        let status = member.status().await;
        assert_eq!((&status["broker"]["up"], &status["broker"]["spooling"]), (&true.into(), &false.into()), "{status}");
        member.stop().await;
    }
}

/// The parts of a pattern like `^soloist\.(work|fleet)$`, with what is left of it without each.
fn without_each(pattern: &str) -> Vec<(String, String)> {
    let Some((before, parts)) = pattern.split_once('(') else {
        return if pattern == "^$" { Vec::new() } else { vec![(pattern.to_owned(), "^$".to_owned())] };
    };
    let (parts, after) = parts.split_once(')').unwrap();
    let parts: Vec<&str> = parts.split('|').collect();
    let without = |left_out: usize| {
        let left: Vec<&str> =
            parts.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, part)| *part).collect();
        format!("{before}({}){after}", left.join("|"))
    };
    parts.iter().enumerate().map(|(at, part)| (format!("soloist.{part}"), without(at))).collect()
}

#[tokio::test]
async fn every_right_that_a_role_lacks_is_told_by_the_check() {
    let Some(broker) = own_broker("every_right_that_a_role_lacks_is_told_by_the_check").await else { return };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    declared_by_admin(broker, &vhost, &sandbox).await;
    let mut tried = 0;
    for role in ["webhook", "worker", "control"] {
        let whole = account(broker, &vhost, role).await;
        let checked = restricted(&sandbox, &whole).done(&["check", "--role", role]).await;
        assert!(checked.contains("we have the rights we need"), "{checked}");
        let all = rights(role);
        for (at, right) in ["configure", "write", "read"].into_iter().enumerate() {
            for (lacking, pattern) in without_each(&all[at]) {
                tried += 1;
                let mut rights = all.clone();
                rights[at] = pattern;
                let account = account_with(broker, &vhost, &format!("{role}-{tried}"), rights).await;
                let checked = restricted(&sandbox, &account).run(&["check", "--role", role]).await;
                let stem = lacking.replace(['\\', '^', '$', '*'], "");
                let stem = stem.trim_end_matches('.');
                assert_eq!(checked.code, Some(1), "{lacking}: {checked:?}");
                let line = checked.out.lines().find(|line| line.contains("a permission is missing"));
                let line = line.unwrap_or_else(|| panic!("{lacking}: {checked:?}"));
                assert!(
                    line.contains(stem) && line.contains(right) && line.contains(&account.name),
                    "{lacking}: {line}"
                );
                assert!(checked.out.contains("rabbitmqctl set_permissions"), "{checked:?}");
                assert!(!checked.out.contains(PASSWORD) && !checked.err.contains(PASSWORD), "{checked:?}");
            }
        }
    }
    assert_eq!(tried, 1 + 11 + 9, "rights that were left out one by one");
}

/// What the broker answers to one message; `None` when it takes it.
async fn refusal(url: &str, exchange: &str, key: &str, user_id: Option<&str>) -> Option<String> {
    let (connection, channel) = amqp::connect(url).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if let Some(user) = user_id {
        properties = properties.with_user_id(user.into());
    }
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties).await.unwrap();
    let confirmed = soon("an answer", published).await;
    connection.close(200, "done".into()).await.ok();
    confirmed.err().map(|error| error.to_string())
}

#[tokio::test]
async fn no_account_can_do_another_roles_work_or_speak_in_its_name() {
    let Some(broker) = own_broker("no_account_can_do_another_roles_work_or_speak_in_its_name").await else { return };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    declared_by_admin(broker, &vhost, &sandbox).await;
    let webhook = account(broker, &vhost, "webhook").await;
    let (worker, control) = (account(broker, &vhost, "worker").await, account(broker, &vhost, "control").await);

    for (account, exchange, key) in [
        (&webhook, topology::WORK, "enforce.default"),
        (&webhook, topology::DECISIONS, "default"),
        (&worker, topology::LOGINS, "default"),
        (&worker, topology::DIRECTIVES, ""),
        (&control, topology::DECISIONS, "default"),
        (&control, topology::LOGINS, "default"),
    ] {
        let refused = refusal(&account.url, exchange, key, None).await.unwrap();
        assert!(refused.contains("ACCESS_REFUSED") && refused.contains(exchange), "{}: {refused}", account.name);
    }
    let forged = refusal(&webhook.url, topology::LOGINS, "default", Some(&worker.name)).await.unwrap();
    assert!(forged.contains("PRECONDITION_FAILED") && forged.contains("user_id"), "{forged}");
    assert_eq!(refusal(&webhook.url, topology::LOGINS, "default", Some(&webhook.name)).await, None);
}
