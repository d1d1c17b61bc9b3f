//! A process that loses its broker, or is not let in, says so without the password, however much it is told to log.

use std::path::Path;

use super::check::PASSWORD;
use super::{comes_down_to, logs_in, on, publish, sandbox, until};
use crate::support::broker::own_broker;
use crate::support::process::{Serving, command};
use crate::support::proxy::Proxy;
use crate::support::soon;

/// As much as can be named, the AMQP client's own targets included.
const EVERYTHING: &str = "trace,lapin=trace,amq_protocol_tcp=trace,amq_protocol=trace,tcp_stream=trace,rustls=trace";

async fn serve(folder: &Path, api_url: &str, url: &str, log: &str) -> Serving {
    let options: Vec<(String, &str)> = on(url)
        .into_iter()
        .chain([("TELEMETRY__LOG", log)])
        .map(|(option, value)| (format!("SOLOIST_{option}"), value))
        .collect();
    let options: Vec<(&str, &str)> = options.iter().map(|(option, value)| (option.as_str(), *value)).collect();
    Serving::start(command(folder, api_url, &options), folder).await
}

async fn is_up(serving: &Serving, up: bool) {
    until("the broker's state", async || serving.admin("/admin/v1/status").await["broker"]["up"] == up).await;
}

/// What the private listener tells.
async fn told(serving: &Serving) -> Vec<String> {
    let mut told = vec![serving.admin("/admin/v1/status").await.to_string()];
    for path in ["/metrics", "/readyz"] {
        let answer = soon(path, serving.client.get(format!("{}{path}", serving.admin_url)).send()).await.unwrap();
        told.push(answer.text().await.unwrap());
    }
    told
}

/// Searches answers, files, and the log, which says what is the matter.
fn has_no_password(told: &[String], log: &[String], folder: &Path) {
    assert!(log.iter().any(|line| line.contains("the broker cannot be used")), "{log:#?}");
    // As a list of bytes, which is how a frame is printed.
    let as_bytes = format!("{:?}", PASSWORD.as_bytes());
    let as_bytes = as_bytes.trim_matches(['[', ']']);
    for line in told.iter().chain(log) {
        assert!(!line.contains(PASSWORD) && !line.contains(as_bytes), "{line}");
    }
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()), "{}", file.display());
    }
}

#[tokio::test]
async fn a_service_that_loses_its_broker_logs_no_password() {
    let Some(broker) = own_broker("a_service_that_loses_its_broker_logs_no_password").await else { return };
    for log in ["debug", "trace", EVERYTHING] {
        let (vhost, sandbox, folder) = (broker.fresh_vhost().await, sandbox().await, tempfile::tempdir().unwrap());
        let proxy = Proxy::start(broker.addr()).await;
        let user = format!("silent-{}", vhost.name);
        broker.add_user(&user, PASSWORD, &vhost.name, [".*"; 3]).await;
        let url = format!("amqp://{user}:{PASSWORD}@{}/{}", proxy.addr(), vhost.name);
        let serving = serve(folder.path(), &sandbox.url(), &url, log).await;
        is_up(&serving, true).await;
        let newest = logs_in(&sandbox, "ann");
        publish(&vhost.url, "default", "application/json", br#"{"uid":"ann"}"#).await;
        comes_down_to(&sandbox, &newest).await;

        proxy.refuse(true).await;
        proxy.cut_all().await;
        is_up(&serving, false).await;
        let mut answers = told(&serving).await;
        proxy.refuse(false).await;
        is_up(&serving, true).await;
        answers.extend(told(&serving).await);

        let (code, lines) = serving.stop().await;
        assert_eq!(code, 0);
        has_no_password(&answers, &lines, folder.path());
    }
}

#[tokio::test]
async fn a_service_that_is_not_let_in_logs_no_password() {
    let Some(broker) = own_broker("a_service_that_is_not_let_in_logs_no_password").await else { return };
    let (sandbox, folder) = (sandbox().await, tempfile::tempdir().unwrap());
    let url = format!("amqp://nobody:{PASSWORD}@{}", broker.addr());
    let serving = serve(folder.path(), &sandbox.url(), &url, EVERYTHING).await;
    let trouble = async || serving.admin("/admin/v1/status").await["broker"]["trouble"].to_string();
    until("the refusal", async || trouble().await.contains("refuses the user or the password")).await;
    let answers = told(&serving).await;
    let (code, lines) = serving.stop().await;
    assert_eq!(code, 0);
    has_no_password(&answers, &lines, folder.path());
}
