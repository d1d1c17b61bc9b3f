//! `soloist check` tells what is wrong with the broker in words for people, and no output ever has a password in it.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::{configured, sandbox};
use crate::cli::{Ended, Soloist};
use crate::support::amqp;
use crate::support::broker::{Broker, Vhost, free_port, own_broker, rabbitmq_or_skip};

pub(super) const PASSWORD: &str = "planted-broker-password-91c2";

/// The line about the broker and that of the remedy, if there is one.
pub(super) fn about_broker(ended: &Ended) -> (&str, &str) {
    let mut lines = ended.out.lines().skip_while(|line| !line.contains("  broker: "));
    let line = lines.next().unwrap_or_else(|| panic!("nothing about the broker: {ended:?}"));
    (line, lines.next().filter(|line| line.starts_with("         ")).unwrap_or_default().trim())
}

/// Checks as a webhook does, and that the planted password is not told.
async fn checked(soloist: &Soloist) -> Ended {
    let ended = soloist.run(&["check", "--role", "webhook"]).await;
    assert!(!ended.out.contains(PASSWORD) && !ended.err.contains(PASSWORD), "{ended:?}");
    ended
}

async fn is_a_problem(soloist: &Soloist, found: &str, remedy: &str) {
    let ended = checked(soloist).await;
    let (line, next) = about_broker(&ended);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(line.starts_with("problem  broker: 127.0.0.1:") && line.contains(found), "{line}");
    assert!(next.contains(remedy), "{next}");
}

/// A user who may do everything in the virtual host, with the planted password.
async fn user(broker: &Broker, vhost: &Vhost) -> String {
    let name = format!("all-{}", vhost.name);
    broker.add_user(&name, PASSWORD, &vhost.name, [".*"; 3]).await;
    name
}

#[tokio::test]
async fn a_broker_that_is_not_there_or_does_not_let_us_in_is_a_problem_with_a_remedy() {
    let Some(broker) = own_broker("a_broker_that_is_not_there_or_does_not_let_us_in_is_a_problem_with_a_remedy").await
    else {
        return;
    };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    let (user, addr) = (user(broker, &vhost).await, broker.addr());
    let nowhere = format!("127.0.0.1:{}", free_port());
    for (url, found, remedy) in [
        (
            format!("amqp://{user}:{PASSWORD}@{nowhere}/{}", vhost.name),
            "nothing listens at the broker's address (connection refused)",
            "start RabbitMQ, or correct host and port in queue.rabbitmq.url",
        ),
        (
            format!("amqp://{user}:{PASSWORD}-wrong@{addr}/{}", vhost.name),
            "the broker refuses the user or the password",
            "rabbitmqctl change_password",
        ),
        (format!("amqp://{user}:{PASSWORD}@{addr}/nope"), "has no virtual host `nope`", "rabbitmqctl add_vhost"),
        (format!("amqp://{user}:{PASSWORD}@{addr}/%2f"), "may not use the virtual host", "rabbitmqctl set_permissions"),
        (
            format!("amqps://{user}:{PASSWORD}@{addr}/{}", vhost.name),
            "the broker does not speak TLS at this port",
            "use amqp:// in queue.rabbitmq.url",
        ),
    ] {
        is_a_problem(&configured(&sandbox, &url, &[]), found, remedy).await;
    }
    // Of several hosts every one is looked at.
    let both = format!("[\"{}\", \"amqp://guest:guest@{nowhere}/{}\"]", vhost.url, vhost.name);
    is_a_problem(&configured(&sandbox, &both, &[]), &format!("{nowhere} "), "start RabbitMQ").await;
}

#[tokio::test]
async fn what_is_missing_or_different_on_the_broker_is_a_problem_with_a_remedy() {
    let Some(broker) = own_broker("what_is_missing_or_different_on_the_broker_is_a_problem_with_a_remedy").await else {
        return;
    };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    let url = format!("amqp://{}:{PASSWORD}@{}/{}", user(broker, &vhost).await, broker.addr(), vhost.name);

    let looks_only = configured(&sandbox, &url, &[("QUEUE__RABBITMQ__DECLARE", "false")]);
    let missing = "something is not declared: no exchange 'soloist.logins'";
    is_a_problem(&looks_only, missing, "run once with queue.rabbitmq.declare = true").await;

    let (connection, channel) = amqp::connect(&vhost.url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("soloist.dead".into(), options, arguments).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    let declares = configured(&sandbox, &url, &[]);
    let different = "queue `soloist.dead` exists with x-queue-type = classic, but soloist needs quorum";
    is_a_problem(&declares, different, "delete it (rabbitmqctl delete_queue NAME)").await;

    broker.delete_queue(&vhost.name, "soloist.dead").await;
    let ended = checked(&declares).await;
    let well = format!("ok       broker: {} virtual host `{}`: everything is declared", broker.addr(), vhost.name);
    assert!(ended.code == Some(0) && about_broker(&ended).0.starts_with(&well), "{ended:?}");
    assert_eq!(checked(&looks_only).await.code, Some(0));
    let json = declares.run(&["check", "--json"]).await;
    assert!(json.code == Some(0) && !json.out.contains(PASSWORD), "{json:?}");
}

#[tokio::test]
async fn a_user_who_may_not_declare_is_told_to_only_look() {
    let Some(broker) = own_broker("a_user_who_may_not_declare_is_told_to_only_look").await else { return };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    let name = format!("few-{}", vhost.name);
    broker.add_user(&name, PASSWORD, &vhost.name, ["^$", r"^soloist\.logins$", "^$"]).await;
    let url = format!("amqp://{name}:{PASSWORD}@{}/{}", broker.addr(), vhost.name);
    let found = "a permission is missing: access to exchange 'soloist.logins' in vhost";
    is_a_problem(&configured(&sandbox, &url, &[]), found, "queue.rabbitmq.declare = false").await;
}

#[tokio::test]
async fn the_password_of_a_file_replaces_that_of_the_url_and_neither_is_told() {
    let Some(broker) = own_broker("the_password_of_a_file_replaces_that_of_the_url_and_neither_is_told").await else {
        return;
    };
    let (vhost, sandbox, folder) = (broker.fresh_vhost().await, sandbox().await, tempfile::tempdir().unwrap());
    let user = user(broker, &vhost).await;
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let url = format!("amqp://{user}:{PASSWORD}-old@{}/{}", broker.addr(), vhost.name);
    let soloist = configured(&sandbox, &url, &[("QUEUE__RABBITMQ__PASSWORD_FILE", file.to_str().unwrap())]);
    assert_eq!(checked(&soloist).await.code, Some(0));
    for args in [&["config"][..], &["config", "--json"]] {
        let ended = soloist.run(args).await;
        assert!(ended.code == Some(0) && !ended.out.contains(PASSWORD), "{ended:?}");
        assert!(ended.out.contains("queue.rabbitmq.url") && ended.out.contains("(hidden)"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_a_mistake_that_does_not_quote_it() {
    if !rabbitmq_or_skip("a_url_that_cannot_be_read_is_a_mistake_that_does_not_quote_it") {
        return;
    }
    let sandbox = sandbox().await;
    let (ok, bad_vhost) = ("127.0.0.1:1/x", "127.0.0.1:1/%ff");
    for url in [
        format!("worker:{PASSWORD}@{ok}"),
        format!("http://worker:{PASSWORD}@{ok}"),
        format!("amqp://worker:{PASSWORD}@127.0.0.1:port"),
        format!("amqp://worker:{PASSWORD}#@{ok}"),
        format!("amqp://worker:{PASSWORD}@{bad_vhost}"),
        format!("amqp://worker:{PASSWORD}@{ok}?heartbeat={PASSWORD}"),
        format!("[\"amqp://worker:{PASSWORD}@{ok}\", \"amqp://control:{PASSWORD}@{ok}\"]"),
    ] {
        let soloist = configured(&sandbox, &url, &[]);
        for args in [&["config"][..], &["check"], &["serve"]] {
            let ended = soloist.run(args).await;
            assert!(!ended.out.contains(PASSWORD) && !ended.err.contains(PASSWORD), "{args:?}: {ended:?}");
            let is_shown = args == ["config"] && ended.code == Some(0);
            assert!(is_shown || (ended.out + &ended.err).contains("queue.rabbitmq.url"), "{args:?} names the option");
        }
    }
}
