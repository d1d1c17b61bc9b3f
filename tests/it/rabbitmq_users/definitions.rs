//! `deploy/rabbitmq/definitions.json` is what the code declares, for a reader and for a real broker.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use soloist::queue::rabbitmq::topology::{self, Argument};

use super::{configured, sandbox};
use crate::support::broker::{Broker, rabbitmq_or_skip};
use crate::support::tenant;

fn file(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rabbitmq").join(path)
}

pub(super) fn definitions() -> Value {
    serde_json::from_slice(&std::fs::read(file("definitions.json")).unwrap()).unwrap()
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().unwrap()
}

fn word<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap()
}

/// Everything of a kind, each as one text, so that a difference is shown whole.
fn told(definitions: &Value, kind: &str, text: impl Fn(&Value) -> String) -> BTreeSet<String> {
    let all = list(definitions, kind);
    assert!(all.iter().all(|one| one["vhost"] == "/"));
    let texts: BTreeSet<String> = all.iter().map(text).collect();
    assert_eq!(texts.len(), all.len(), "{kind}: one is there twice");
    texts
}

fn is_lasting(one: &Value) -> bool {
    one["durable"] == true && one["auto_delete"] == false
}

#[tokio::test]
async fn the_definitions_name_what_the_code_declares_with_the_same_arguments_and_bindings() {
    if !rabbitmq_or_skip("the_definitions_name_what_the_code_declares_with_the_same_arguments_and_bindings") {
        return;
    }
    let definitions = definitions();
    let exchanges = told(&definitions, "exchanges", |one| {
        assert!(is_lasting(one) && one["internal"] == false && one["arguments"] == serde_json::json!({}), "{one}");
        format!("{} {}", word(one, "name"), word(one, "type"))
    });
    let declared = topology::exchanges().into_iter().map(|one| format!("{} {}", one.name, one.kind));
    assert_eq!(exchanges, declared.collect());

    let queues = told(&definitions, "queues", |one| {
        assert!(is_lasting(one), "{one}");
        let arguments: BTreeSet<String> =
            one["arguments"].as_object().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {arguments:?}", word(one, "name"))
    });
    let specs = topology::queues([&tenant("default")]);
    let declared = specs.iter().map(|queue| {
        let value = |argument: &Argument| match argument {
            Argument::Text(text) => Value::from(*text),
            Argument::Number(number) => Value::from(*number),
        };
        let arguments: BTreeSet<String> =
            queue.arguments.iter().map(|(name, argument)| format!("{name}={}", value(argument))).collect();
        format!("{} {arguments:?}", queue.name)
    });
    assert_eq!(queues, declared.collect());

    let bindings = told(&definitions, "bindings", |one| {
        assert_eq!((&one["destination_type"], &one["arguments"]), (&"queue".into(), &serde_json::json!({})), "{one}");
        format!("{} `{}` {}", word(one, "source"), word(one, "routing_key"), word(one, "destination"))
    });
    let declared = specs
        .iter()
        .flat_map(|queue| queue.bindings.iter().map(|(exchange, key)| format!("{exchange} `{key}` {}", queue.name)));
    assert_eq!(bindings, declared.collect());
}

#[tokio::test]
async fn a_broker_with_the_definitions_lets_every_role_work_with_its_published_password() {
    if !rabbitmq_or_skip("a_broker_with_the_definitions_lets_every_role_work_with_its_published_password") {
        return;
    }
    let load = format!("load_definitions = {}", file("definitions.json").display());
    let (broker, sandbox) = (Broker::start_with(&[&load]).await, sandbox().await);
    for (user, roles, declare) in [
        ("admin", "webhook,worker,control", "true"),
        ("webhook", "webhook", "false"),
        ("worker", "worker", "false"),
        ("control", "control", "false"),
    ] {
        let url = format!("amqp://{user}@{}", broker.addr());
        let password = file("passwords").join(user);
        let options =
            [("QUEUE__RABBITMQ__PASSWORD_FILE", password.to_str().unwrap()), ("QUEUE__RABBITMQ__DECLARE", declare)];
        let checked = configured(&sandbox, &url, &options).done(&["check", "--role", roles]).await;
        assert!(checked.contains("everything is declared, and we have the rights we need"), "{user}: {checked}");
    }
}
