//! What is missing for one part is no trouble for the others, and what was deleted is declared again.

use super::accounts::{account_with, declared_by_admin, restricted, rights};
use super::{Member, acme, comes_down_to, configured, logs_in, publish, sandbox};
use crate::cli::Running;
use crate::support::broker::own_broker;

const JSON: &str = "application/json";

/// Stops it; it must not have given its connection up on the way.
async fn has_kept_its_connection(mut running: Running) {
    running.signal("TERM").await;
    assert_eq!(running.ended().await, Some(0));
    let lost = running.rest().await.into_iter().find(|line| line.contains("the broker cannot be used"));
    assert_eq!(lost, None);
}

#[tokio::test]
async fn a_worker_that_may_not_hear_what_to_obey_says_so_and_ends_nobody() {
    let test = "a_worker_that_may_not_hear_what_to_obey_says_so_and_ends_nobody";
    let Some(broker) = own_broker(test).await else { return };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    declared_by_admin(broker, &vhost, &sandbox).await;
    let [_, write, read] = rights("worker");
    let deaf = account_with(broker, &vhost, "deaf", ["^$".to_owned(), write, read]).await;
    let mut worker = restricted(&sandbox, &deaf).start(&["serve", "--role", "worker"]);
    let why = worker.says(", will try again: ").await;
    let missing = "a permission is missing: access to queue 'soloist.private.";
    assert!(why.starts_with(missing) && why.contains(&deaf.name), "{why}");

    logs_in(&sandbox, "ann");
    let sessions = sandbox.sessions("ann").len();
    publish(&vhost.url, "default", JSON, br#"{"uid":"ann"}"#).await;
    worker.says("no control process tells what to obey").await;
    assert_eq!(sandbox.sessions("ann").len(), sessions);
    has_kept_its_connection(worker).await;
}

#[tokio::test]
async fn a_tenant_whose_queue_is_gone_holds_up_no_other() {
    let Some(broker) = own_broker("a_tenant_whose_queue_is_gone_holds_up_no_other").await else { return };
    let (vhost, ours, theirs) = (broker.fresh_vhost().await, sandbox().await, sandbox().await);
    let acme = acme(&theirs);
    let mut options = acme.each_ref().map(|(option, value)| (*option, value.as_str())).to_vec();
    configured(&ours, &vhost.url, &options).done(&["check"]).await;
    options.push(("QUEUE__RABBITMQ__DECLARE", "false"));
    let control = Member::start(configured(&ours, &vhost.url, &options), "control").await;
    let mut worker = configured(&ours, &vhost.url, &options).start(&["serve", "--role", "worker"]);
    let newest = logs_in(&theirs, "ann");
    publish(&vhost.url, "acme", JSON, br#"{"uid":"ann"}"#).await;
    comes_down_to(&theirs, &newest).await;

    broker.delete_queue(&vhost.name, "soloist.enforce.acme").await;
    worker.says("something is not declared: no queue 'soloist.enforce.acme'").await;
    for _ in 0..3 {
        let newest = logs_in(&ours, "ann");
        publish(&vhost.url, "default", JSON, br#"{"uid":"ann"}"#).await;
        comes_down_to(&ours, &newest).await;
    }
    has_kept_its_connection(worker).await;
    control.stop().await;
}

#[tokio::test]
async fn a_queue_of_all_that_was_deleted_is_declared_again_while_everything_runs() {
    let test = "a_queue_of_all_that_was_deleted_is_declared_again_while_everything_runs";
    let Some(broker) = own_broker(test).await else { return };
    let (vhost, sandbox) = (broker.fresh_vhost().await, sandbox().await);
    let service = Member::start(configured(&sandbox, &vhost.url, &[]), "webhook,worker,control").await;

    broker.delete_queue(&vhost.name, "soloist.dead").await;
    broker.delete_queue(&vhost.name, "soloist.delay.1s").await;
    publish(&vhost.url, "default", JSON, b"{}").await;
    service.dead_letters(1).await;

    let newest = logs_in(&sandbox, "ann");
    publish(&vhost.url, "default", JSON, br#"{"uid":"ann"}"#).await;
    comes_down_to(&sandbox, &newest).await;
    service.stop().await;
}
