//! RabbitMQ as its users have it: other programs publish, accounts may do little, operators ask what is wrong.

mod accounts;
mod apart;
mod check;
pub(crate) mod clients;
mod dead_letters;
mod definitions;
mod flood;
mod foreign;
mod rubbish;
mod silence;
mod tls;

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::types::AMQPValue;
use serde_json::Value;
use soloist::model::Lane;
use soloist::queue::rabbitmq::topology;
use soloist::sandbox::{LoginMade, Sandbox, SandboxConfig};

use crate::cli::{Running, Soloist};
use crate::support::broker::{Vhost, shared_broker};
use crate::support::{amqp, soon, tenant};

/// Every tenant that a test here may have.
const TENANTS: [&str; 3] = ["default", "acme", "nobody"];

/// A virtual host without anything in it.
async fn empty_vhost() -> Vhost {
    let vhost = shared_broker().await.fresh_vhost().await;
    if vhost.is_shared() {
        amqp::remove_everything(&vhost.url, &TENANTS.map(tenant)).await;
    }
    vhost
}

async fn sandbox() -> Sandbox {
    Sandbox::start(SandboxConfig::default()).await.unwrap()
}

/// The options of a process that works with a broker.
fn on(url: &str) -> [(&str, &str); 3] {
    [("QUEUE__BACKEND", "rabbitmq"), ("QUEUE__RABBITMQ__URL", url), ("LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited")]
}

/// The binary, configured for a sandbox and a broker, with options on top.
fn configured(sandbox: &Sandbox, url: &str, options: &[(&str, &str)]) -> Soloist {
    let mut soloist = Soloist::for_api(&sandbox.url());
    for (option, value) in on(url).iter().chain(options) {
        soloist.set(option, value);
    }
    soloist
}

/// The options of one more tenant, with a LoginRadius of its own.
fn acme(sandbox: &Sandbox) -> [(&'static str, String); 4] {
    [
        ("TENANTS__ACME__LOGINRADIUS__API_URL", sandbox.url()),
        ("TENANTS__ACME__LOGINRADIUS__API_KEY", "sandbox-key".to_owned()),
        ("TENANTS__ACME__LOGINRADIUS__API_SECRET", "sandbox-secret".to_owned()),
        ("TENANTS__ACME__LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited".to_owned()),
    ]
}

/// A running process of a fleet.
struct Member {
    soloist: Soloist,
    running: Running,
    /// Where it takes webhooks, if it does.
    webhook_url: Option<String>,
    admin_url: String,
}

impl Member {
    /// Starts a process in these roles and waits until it can use the broker.
    async fn start(soloist: Soloist, roles: &str) -> Self {
        let mut running = soloist.start(&["serve", "--role", roles]);
        let mut webhook_url = None;
        if roles.contains("webhook") {
            let addr = running.says("listening for webhooks on ").await;
            webhook_url = Some(format!("http://{addr}/webhooks/loginradius"));
        }
        let admin_url = format!("http://{}", running.says("admin API on ").await);
        let member = Self { soloist, running, webhook_url, admin_url };
        until("the broker to be usable", async || member.status().await["broker"]["up"] == true).await;
        member
    }

    async fn status(&self) -> Value {
        let key = std::fs::read_to_string(self.soloist.data_dir().join("admin.key")).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        let request = client.get(format!("{}/admin/v1/status", self.admin_url)).bearer_auth(key.trim());
        soon("the status", request.send()).await.unwrap().json().await.unwrap()
    }

    /// What a command beside the running process prints.
    async fn says(&self, args: &[&str]) -> String {
        self.soloist.done(args).await
    }

    /// The dead letters that it keeps, as soon as there are so many.
    async fn dead_letters(&self, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        until("the dead letters", async || {
            found = json_lines(&self.says(&["dead-letters", "ls", "--json"]).await);
            found.len() >= count
        })
        .await;
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    /// Ends it; nothing that it did may have been refused for want of a right.
    async fn stop(mut self) -> Soloist {
        self.running.signal("TERM").await;
        assert_eq!(self.running.ended().await, Some(0));
        let refused = self.running.rest().await.into_iter().find(|line| line.contains("a permission is missing"));
        assert_eq!(refused, None);
        self.soloist
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until `holds`, asking again and again.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            pause.tick().await;
        }
    })
    .await;
}

/// Three logins that nobody is told of; the last of them.
fn logs_in(sandbox: &Sandbox, user: &str) -> LoginMade {
    for _ in 0..2 {
        sandbox.login_in_silence(user, None).unwrap();
    }
    // The newest to the millisecond, too: listings show no more.
    sandbox.advance(Duration::from_millis(2));
    sandbox.login_in_silence(user, None).unwrap()
}

/// Waits until only this session of the user is left.
async fn comes_down_to(sandbox: &Sandbox, newest: &LoginMade) {
    let left = || sandbox.sessions(&newest.uid);
    until(&format!("one session of {} to be left", newest.uid), async || left().len() <= 1).await;
    assert_eq!(left().iter().map(|left| left.session.as_str()).collect::<Vec<_>>(), [newest.session.as_str()]);
}

/// What a foreign program publishes to the producers' exchange.
async fn publish(url: &str, key: &str, content_type: &str, body: &[u8]) {
    amqp::publish(url, topology::LOGINS, key, content_type, body).await;
}

/// Every message that waits in any queue of ours. They stay where they are.
async fn everything_in_queues(url: &str) -> Vec<(String, BasicProperties, Vec<u8>)> {
    let (connection, channel) = amqp::connect(url).await;
    let mut found = Vec::new();
    for queue in topology::queues(&TENANTS.map(tenant)) {
        if amqp::depth(&connection.create_channel().await.unwrap(), &queue.name).await.is_none() {
            continue;
        }
        while let Some(got) = channel.basic_get(queue.name.as_str().into(), BasicGetOptions::default()).await.unwrap() {
            found.push((queue.name.clone(), got.delivery.properties, got.delivery.data));
        }
    }
    connection.close(200, "done".into()).await.unwrap();
    found
}

/// Takes what waits for the default tenant and gives it back, until the broker has given up so many messages.
async fn hand_out_too_often(url: &str, messages: usize) {
    let (connection, channel) = amqp::connect(url).await;
    let queue = topology::queue_name(&tenant("default"), Lane::Logins);
    let (mut pause, mut left) = (tokio::time::interval(Duration::from_millis(1)), messages);
    soon("the broker to give messages up", async {
        while left > 0 {
            let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
            let Some(got) = got else {
                // It is not back yet.
                pause.tick().await;
                continue;
            };
            let counted =
                got.delivery.properties.headers().as_ref().and_then(|all| all.inner().get("x-delivery-count"));
            let counted = counted.and_then(AMQPValue::as_long_long_int).unwrap_or(0);
            left -= usize::from(counted == topology::DELIVERY_LIMIT);
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            channel.basic_nack(got.delivery.delivery_tag, options).await.unwrap();
        }
    })
    .await;
    connection.close(200, "done".into()).await.unwrap();
}
