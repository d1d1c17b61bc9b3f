//! The systemd unit of single roles: its configuration loads, its ports differ, its limits fit the options.

use std::collections::{BTreeMap, BTreeSet};

use soloist::config::Config;

use super::{configured, is_understood, text};

const ROLES: [&str; 3] = ["webhook", "worker", "control"];

/// The values of a key in the unit, `%i` replaced by the role.
fn values(role: &str, key: &str) -> Vec<String> {
    let unit = text("deploy/systemd/soloist@.service");
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.replace("%i", role)).collect()
}

/// What the unit's process reads, with the files of `/etc/soloist` in a folder of the test's.
fn config(role: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let etc = |value: &str| value.replace("/etc/soloist", folder.path().to_str().unwrap());
    std::fs::write(folder.path().join(format!("{role}.url")), format!("amqp://{role}:fake@127.0.0.1:5672")).unwrap();
    let secrets = ["API_KEY", "API_SECRET"].map(|name| format!("SOLOIST_LOGINRADIUS__{name}=fake"));
    let mut lines: Vec<String> = values(role, "Environment").into_iter().chain(secrets).collect();
    for file in values(role, "EnvironmentFile") {
        let ours = text(&format!("deploy/systemd/{}", file.strip_prefix("/etc/soloist/").unwrap()));
        lines.extend(ours.lines().filter(|line| !line.starts_with('#')).map(str::to_owned));
    }
    let variable = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), etc(value))).unwrap();
    configured(None, lines.iter().map(variable).collect::<BTreeMap<_, _>>())
}

#[tokio::test]
async fn each_role_is_started_with_a_command_that_is_understood() {
    for role in ROLES {
        let start = values(role, "ExecStart");
        let words: Vec<String> = start[0].split_whitespace().map(str::to_owned).collect();
        assert_eq!(words[0], "/usr/local/bin/soloist");
        assert_eq!(super::after(&words, "--role"), Some(role));
        is_understood(&words[1..]).await;
    }
}

#[test]
fn all_roles_fit_on_one_machine() {
    let mut ports = BTreeSet::new();
    for role in ROLES {
        let config = config(role);
        assert!(ports.insert(config.admin.listen.port()), "{role} takes the port of another");
        // Workers take nothing from outside, and control answers apps.
        let public = if role == "webhook" { Some(config.webhook.listen) } else { config.api.listen };
        assert!(public.is_none_or(|public| ports.insert(public.port())), "{role}");
        let folder = config.data_dir.to_str().unwrap().to_owned();
        assert_eq!(values(role, "WorkingDirectory"), std::slice::from_ref(&folder));
        assert_eq!(values(role, "StateDirectory"), [folder.strip_prefix("/var/lib/").unwrap()]);
    }
}

#[test]
fn the_limits_of_the_unit_are_above_those_of_the_service() {
    let limit = |key: &str| -> u64 { values("webhook", key)[0].parse().unwrap() };
    let config = config("webhook");
    assert!(limit("TimeoutStopSec") > config.worker.drain_timeout.as_secs());
    assert!(limit("LimitNOFILE") > u64::try_from(config.webhook.connections_max).unwrap());
}
