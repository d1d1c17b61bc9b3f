//! The compose file: every command is read by the binary, every configuration loads, and the addresses fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::LazyLock;

use serde_json::Value;
use soloist::config::Config;

use super::{after, configured, entries, image, is_understood, list, root, word, words, yaml};

static COMPOSE: LazyLock<Value> = LazyLock::new(|| {
    let [compose]: [Value; 1] = yaml("docker-compose.yml").try_into().unwrap();
    compose
});

const DATA_DIR: &str = "/var/lib/soloist";

/// Whether there is such a service.
pub(crate) fn is_composed(service: &str) -> bool {
    COMPOSE["services"][service].is_object()
}

/// Text with the defaults of the variables in it, `${NAME:-default}`.
fn with_defaults(text: &str) -> String {
    let mut pieces = text.split("${");
    let mut whole = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (variable, rest) = piece.split_once('}').unwrap();
        let (_, default) = variable.split_once(":-").unwrap_or_else(|| panic!("{variable} has no default"));
        whole.push_str(default);
        whole.push_str(rest);
    }
    whole
}

/// The services that run our image.
fn ours() -> impl Iterator<Item = (&'static str, &'static Value)> {
    entries(&COMPOSE["services"]).filter(|(_, service)| word(&service["image"]).starts_with("soloist"))
}

/// The services that run a role, with it.
fn serving() -> impl Iterator<Item = (&'static str, &'static Value, String)> {
    ours().filter_map(|(name, service)| {
        let role = after(&words(&service["command"]), "--role")?.to_owned();
        Some((name, service, role))
    })
}

/// The file beside the compose file that stands for a secret.
fn secret_file(mounted: &str) -> Option<String> {
    let secret = &COMPOSE["secrets"][mounted.strip_prefix("/run/secrets/")?]["file"];
    Some(root().join(with_defaults(word(secret))).to_str().unwrap().to_owned())
}

fn config(service: &Value) -> Config {
    let variable = |(name, value): (&str, &Value)| {
        let value = with_defaults(word(value));
        (name.to_owned(), secret_file(&value).unwrap_or(value))
    };
    let mut env: BTreeMap<String, String> = entries(&service["environment"]).map(variable).collect();
    env.insert("SOLOIST_DATA_DIR".to_owned(), DATA_DIR.to_owned());
    configured(None, env)
}

/// The address in the URL that a service's health is asked at.
fn asked(service: &Value) -> String {
    let test = words(&service["healthcheck"]["test"]);
    after(&test, "--url").unwrap().split('/').nth(2).unwrap().to_owned()
}

#[tokio::test]
async fn every_composed_command_is_understood() {
    for (_, service) in ours() {
        is_understood(&words(&service["command"]).iter().map(|word| with_defaults(word)).collect::<Vec<_>>()).await;
        let test = words(&service["healthcheck"]["test"]);
        assert_eq!(test[..2], ["CMD", "soloist"], "{service}");
        is_understood(&test[2..]).await;
    }
}

#[test]
fn all_roles_run_each_with_a_volume_of_its_own_and_an_account_of_its_role() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let mut volumes = BTreeSet::new();
    for (name, service, role) in serving() {
        *count.entry(role.clone()).or_default() += 1;
        let data: Vec<&str> =
            list(&service["volumes"]).filter_map(|v| word(v).strip_suffix(&format!(":{DATA_DIR}"))).collect();
        assert!(data.len() == 1 && COMPOSE["volumes"].get(data[0]).is_some(), "{name}: {data:?}");
        assert!(volumes.insert(data[0]), "{name} shares {data:?}");
        let secret = format!("{role}_password");
        assert_eq!(words(&service["secrets"]), [secret.as_str()], "{name}");
        let environment = &service["environment"];
        assert_eq!(environment["SOLOIST_QUEUE__RABBITMQ__PASSWORD_FILE"], format!("/run/secrets/{secret}"), "{name}");
        let url = word(&environment["SOLOIST_QUEUE__RABBITMQ__URL"]);
        assert!(url.starts_with(&format!("amqp://{role}@rabbitmq:")), "{name}: {url}");
    }
    let expected = [("control", 1), ("webhook", 2), ("worker", 3)].map(|(role, count)| (role.to_owned(), count));
    assert_eq!(count, BTreeMap::from(expected));
}

#[test]
fn every_composed_configuration_loads_and_is_asked_where_it_listens() {
    for (name, service, role) in serving() {
        let config = config(service);
        assert_eq!(config.admin.listen.to_string(), asked(service), "{name}");
        let public: SocketAddr = config.webhook.listen;
        assert!(role != "webhook" || public.ip().is_unspecified(), "nobody reaches {name} at {public}");
    }
}

#[test]
fn who_calls_the_sandbox_lives_in_its_network_on_a_port_of_its_own() {
    let sandbox = &COMPOSE["services"]["sandbox"];
    let command = words(&sandbox["command"]);
    let listens: SocketAddr = after(&command, "--listen").unwrap().parse().unwrap();
    let mut ports = BTreeSet::from([listens.port()]);
    for (name, service, _) in serving().filter(|(_, _, role)| role != "webhook") {
        assert_eq!(service["network_mode"], "service:sandbox", "{name}");
        let config = config(service);
        for tenant in config.tenants.values() {
            assert_eq!(tenant.loginradius.api_url, format!("http://127.0.0.1:{}", listens.port()), "{name}");
        }
        assert!(ports.insert(config.admin.listen.port()), "{name} takes the port of another");
    }
}

#[test]
fn the_sandbox_posts_to_the_webhooks() {
    let command = words(&COMPOSE["services"]["sandbox"]["command"]);
    let url = after(&command, "--webhook").unwrap();
    for (name, service, _) in serving().filter(|(_, _, role)| role == "webhook") {
        let alias = word(&service["networks"]["default"]["aliases"][0]);
        let port = config(service).webhook.listen.port();
        assert_eq!(url, format!("http://{alias}:{port}/webhooks/loginradius"), "{name}");
        let published = with_defaults(word(&service["ports"][0]));
        assert!(published.starts_with("127.0.0.1:") && published.ends_with(&format!(":{port}")), "{published}");
    }
}

#[test]
fn everybody_waits_until_what_he_needs_is_healthy() {
    let needs: BTreeMap<&str, Vec<&str>> = entries(&COMPOSE["services"])
        .map(|(name, service)| {
            assert!(service["healthcheck"]["test"].is_array(), "nobody asks how {name} is");
            let needed = entries(&service["depends_on"]).map(|(needed, how)| {
                assert_eq!(how["condition"], "service_healthy", "{name}");
                needed
            });
            (name, needed.collect())
        })
        .collect();
    // In the order in which they start; a circle would never end.
    let mut started = BTreeSet::new();
    while started.len() < needs.len() {
        let ready: Vec<&str> = needs
            .iter()
            .filter(|(_, needed)| needed.iter().all(|n| started.contains(n)))
            .map(|(name, _)| *name)
            .collect();
        let before = started.len();
        started.extend(ready);
        assert!(started.len() > before, "they wait for each other");
    }
    assert!(serving().all(|(name, _, _)| needs[name].contains(&"rabbitmq")));
}

#[test]
fn one_image_is_built_and_all_of_ours_run_it() {
    for (name, service) in ours() {
        assert_eq!(service["image"], image(), "{name}");
        assert_eq!(service["build"].is_object(), name == "sandbox", "{name}");
        assert_eq!(service["pull_policy"], if name == "sandbox" { "build" } else { "never" }, "{name}");
    }
    let build = &COMPOSE["services"]["sandbox"]["build"];
    assert!(root().join(word(&build["context"])).join(word(&build["dockerfile"])).exists());
}
