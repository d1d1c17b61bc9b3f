//! The same with RabbitMQ between the processes.

use std::time::Duration;

use soloist::model::TenantId;

use super::table::report_and_judge;
use super::trap::Step;
use super::{DRAIN_PATIENCE, Moment, Site, kills, start};
use crate::rabbitmq::{QUIET_LOOKS, broker_or_skip, waiting};
use crate::support::broker::Broker;
use crate::support::process::Serving;

fn variables(url: &str) -> Vec<(String, String)> {
    let variables = [("SOLOIST_QUEUE__BACKEND", "rabbitmq"), ("SOLOIST_QUEUE__RABBITMQ__URL", url)];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Waits until nothing is left in any queue of the virtual host and in the journals of these processes.
async fn quiet(broker: &Broker, vhost: &str, processes: &[&Serving]) {
    let (mut left, mut quiet_looks) = (None, 0);
    let quiet = tokio::time::timeout(DRAIN_PATIENCE, async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        loop {
            pause.tick().await;
            let mut messages: u64 =
                waiting(broker, vhost, &TenantId::default_tenant()).await.into_values().flatten().sum();
            for process in processes {
                let status = process.admin("/admin/v1/status").await;
                messages += status["broker"]["spool_messages"].as_u64().unwrap();
            }
            left = Some(messages);
            quiet_looks = if messages == 0 { quiet_looks + 1 } else { 0 };
            if quiet_looks == QUIET_LOOKS {
                return;
            }
        }
    });
    assert!(quiet.await.is_ok(), "after {DRAIN_PATIENCE:?} there is left: {left:?}");
}

/// What the process that keeps them has.
async fn dead_letters(control: &Serving) -> usize {
    control.admin("/admin/v1/dead-letters").await["dead_letters"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_is_settled_though_a_process_with_all_roles_on_rabbitmq_is_killed_at_every_step() {
    let name = "every_accepted_event_is_settled_though_a_process_with_all_roles_on_rabbitmq_is_killed_at_every_step";
    let Some(broker) = broker_or_skip(name).await else { return };
    let mut rows = Vec::new();
    for moment in Moment::ALL {
        let folder = tempfile::tempdir().unwrap();
        let vhost = broker.fresh_vhost().await;
        let site = Site::new(folder.path(), variables(&vhost.url), None).await;
        let (mut row, load, serving) = site.killed(moment, kills(1, 3)).await;
        let accepted = load.end().await;
        quiet(&broker, &vhost.name, &[&serving]).await;
        row.dead = dead_letters(&serving).await;
        site.judge(&mut row, &accepted);
        rows.push(row);
        assert_eq!(serving.stop().await.0, 0);
    }
    report_and_judge("kill -9 of `soloist serve` in all roles, RabbitMQ", &rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_is_settled_though_a_worker_on_rabbitmq_is_killed_at_every_step() {
    let name = "every_accepted_event_is_settled_though_a_worker_on_rabbitmq_is_killed_at_every_step";
    let Some(broker) = broker_or_skip(name).await else { return };
    let mut rows = Vec::new();
    for moment in Moment::ALL {
        // A worker publishes no webhooks.
        if matches!(moment, Moment::After(Step::Published)) {
            continue;
        }
        let (folder, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let vhost = broker.fresh_vhost().await;
        let variables = variables(&vhost.url);
        let site = Site::new(folder.path(), variables.clone(), Some("worker")).await;
        let others = start(others.path(), &site.sandbox.url(), &variables, Some("webhook,control")).await;
        site.door.send_replace(others.webhook_url.clone());
        let (mut row, load, serving) = site.killed(moment, kills(1, 4)).await;
        let accepted = load.end().await;
        quiet(&broker, &vhost.name, &[&serving, &others]).await;
        row.dead = dead_letters(&others).await;
        site.judge(&mut row, &accepted);
        rows.push(row);
        assert_eq!((serving.stop().await.0, others.stop().await.0), (0, 0));
    }
    report_and_judge("kill -9 of `soloist serve --role worker`, RabbitMQ", &rows);
}
