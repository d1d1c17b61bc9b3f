//! The README's producers, run as they stand there with the real clients, against a real broker.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use soloist::queue::rabbitmq::topology;
use tokio::process::Command;

use super::accounts::account;
use super::{Member, comes_down_to, configured, empty_vhost, logs_in, sandbox};
use crate::support::broker::{Vhost, shared_broker, shared_rabbitmq_or_skip};
use crate::support::{amqp, report, soon};

/// Where a client is installed; `tests/run` does that where the client's registry can be reached.
pub(crate) fn installed(test: &str, client: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SOLOIST_TEST_PRODUCERS").map(|folder| Path::new(&folder).join(client));
    let folder = folder.filter(|folder| folder.is_dir());
    if folder.is_none() {
        report::skipped(test, &format!("the {client} client is not installed in SOLOIST_TEST_PRODUCERS"));
    }
    folder
}

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/producers").join(file)
}

/// `python3 producer.py` with `aio-pika` from the folder.
fn python(client: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(fixture("producer.py")).env("PYTHONPATH", client);
    command
}

/// `node producer.mjs` with `amqplib` from the folder: Node looks for it beside the file alone.
fn node(client: &Path, beside: &Path) -> Command {
    std::fs::copy(fixture("producer.mjs"), beside.join("producer.mjs")).unwrap();
    std::os::unix::fs::symlink(client.join("node_modules"), beside.join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.arg(beside.join("producer.mjs"));
    command
}

/// The URL of an account that may publish logins and nothing else, where it is ours to make one.
async fn producers_url(vhost: &Vhost) -> String {
    match shared_broker().await.own() {
        Some(broker) => account(broker, vhost, "webhook").await.url,
        None => vhost.url.clone(),
    }
}

/// Whether the producer ended well, and what it said.
async fn ran(mut command: Command, url: &str) -> (bool, String) {
    let command = command.arg("ann").env("AMQP_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("a producer to end", command.output()).await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// First no queue takes the login, which it must say; then one does, and the user comes down to one session.
async fn is_enforced(mut producer: impl FnMut() -> Command) {
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    let url = producers_url(&vhost).await;
    let (connection, channel) = amqp::connect(&vhost.url).await;
    declare_without_queues(&channel).await;
    connection.close(200, "done".into()).await.unwrap();
    let (is_well, said) = ran(producer(), &url).await;
    assert!(!is_well && !said.is_empty(), "nobody took the login: {said}");

    let service = Member::start(configured(&sandbox, &vhost.url, &[]), "webhook,worker,control").await;
    let newest = logs_in(&sandbox, "ann");
    let (is_well, said) = ran(producer(), &url).await;
    assert!(is_well, "{said}");
    comes_down_to(&sandbox, &newest).await;
    assert_eq!(service.says(&["dead-letters", "ls"]).await, "0 dead letters\n");
    service.stop().await;
}

async fn declare_without_queues(channel: &Channel) {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (name, kind) = (topology::LOGINS.into(), ExchangeKind::Topic);
    channel.exchange_declare(name, kind, options, FieldTable::default()).await.unwrap();
}

#[tokio::test]
async fn the_python_producer_of_the_readme_is_enforced() {
    let test = "the_python_producer_of_the_readme_is_enforced";
    if !shared_rabbitmq_or_skip(test) {
        return;
    }
    let Some(client) = installed(test, "python") else { return };
    is_enforced(|| python(&client)).await;
}

#[tokio::test]
async fn the_node_producer_of_the_readme_is_enforced() {
    let test = "the_node_producer_of_the_readme_is_enforced";
    if !shared_rabbitmq_or_skip(test) {
        return;
    }
    let Some(client) = installed(test, "node") else { return };
    let mut folders = Vec::new();
    is_enforced(|| {
        folders.push(tempfile::tempdir().unwrap());
        node(&client, folders.last().unwrap().path())
    })
    .await;
}
