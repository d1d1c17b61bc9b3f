//! The broker's definitions: whole, as the README's commands say, and with the passwords that lie beside them.

use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{list, text, word};

fn definitions() -> Value {
    serde_json::from_str(&text("deploy/rabbitmq/definitions.json")).unwrap()
}

fn names(of: &Value) -> BTreeSet<&str> {
    list(of).map(|one| word(&one["name"])).collect()
}

/// Whether the broker has an exchange or a queue of this name. What `default` has, any tenant has.
pub(crate) fn is_on_the_broker(name: &str) -> bool {
    let (name, definitions) = (name.replace(".acme", ".default"), definitions());
    ["exchanges", "queues"].iter().any(|kind| names(&definitions[kind]).contains(name.as_str()))
}

/// Checks a command of `rabbitmqctl` against the definitions.
pub(crate) fn is_for_the_broker(command: &[&str]) {
    let definitions = definitions();
    match command {
        ["add_user", user] => assert!(names(&definitions["users"]).contains(user), "{user}"),
        ["set_permissions", user, configure, write, read] => {
            let rights = list(&definitions["permissions"]).find(|rights| rights["user"] == *user).unwrap();
            assert_eq!(
                [configure, write, read],
                ["configure", "write", "read"].map(|right| word(&rights[right])).each_ref()
            );
        }
        ["delete_queue", queue] => assert!(is_on_the_broker(queue), "{queue}"),
        other => panic!("nobody checks rabbitmqctl {other:?}"),
    }
}

/// The bytes of a base64 text.
fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for digit in text.trim_end_matches('=').chars() {
        bits = (bits << 6) | u32::try_from(DIGITS.find(digit).unwrap()).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    bytes
}

#[test]
fn every_account_has_the_password_that_lies_beside_the_definitions() {
    for user in list(&definitions()["users"]) {
        let password = text(&format!("deploy/rabbitmq/passwords/{}", word(&user["name"])));
        assert!(password.starts_with("fake-"), "what is published must look so");
        assert_eq!(user["hashing_algorithm"], "rabbit_password_hashing_sha256");
        let salted = unbase64(word(&user["password_hash"]));
        let (salt, hash) = salted.split_at(4);
        let expected = Sha256::new().chain_update(salt).chain_update(password.trim_end()).finalize();
        assert_eq!(hash, expected.as_slice(), "{user}");
    }
}

#[test]
fn every_account_has_rights_and_none_but_admin_may_make_or_remove_what_is_shared() {
    let definitions = definitions();
    let rights: Vec<&Value> = list(&definitions["permissions"]).collect();
    assert_eq!(rights.iter().map(|one| word(&one["user"])).collect::<BTreeSet<_>>(), names(&definitions["users"]));
    for one in rights.into_iter().filter(|one| one["user"] != "admin") {
        assert!(["^$", r"^soloist\.private\..*"].contains(&word(&one["configure"])), "{one}");
    }
}

#[test]
fn nothing_is_lost_for_want_of_a_queue_an_exchange_or_a_limit() {
    let definitions = definitions();
    let (exchanges, queues) = (names(&definitions["exchanges"]), names(&definitions["queues"]));
    for binding in list(&definitions["bindings"]) {
        assert!(exchanges.contains(word(&binding["source"])), "{binding}");
        assert!(queues.contains(word(&binding["destination"])), "{binding}");
    }
    for queue in list(&definitions["queues"]) {
        let arguments = &queue["arguments"];
        assert!(queue["durable"] == true && arguments["x-queue-type"] == "quorum", "{queue}");
        assert!(arguments["x-delivery-limit"].is_u64(), "its default differs between versions: {queue}");
        let bound = list(&definitions["bindings"]).any(|binding| binding["destination"] == queue["name"]);
        assert!(bound, "nothing leads to {queue}");
        if let Some(to) = arguments["x-dead-letter-exchange"].as_str() {
            assert!(exchanges.contains(to), "{queue}");
            assert_eq!(arguments["x-dead-letter-strategy"], "at-least-once", "{queue}");
            assert_eq!(arguments["x-overflow"], "reject-publish", "at-least-once works with nothing else: {queue}");
        }
    }
}

#[test]
fn the_broker_loads_the_definitions_that_are_mounted_for_it() {
    let conf = text("deploy/rabbitmq/rabbitmq.conf");
    let (_, path) =
        conf.lines().filter_map(|line| line.split_once(" = ")).find(|(key, _)| *key == "load_definitions").unwrap();
    let compose = text("docker-compose.yml");
    assert!(compose.contains(&format!("/definitions.json:{path}:ro")), "{path}");
}
