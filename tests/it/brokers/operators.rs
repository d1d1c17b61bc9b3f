//! What an operator does to a node: alarms, rights, listeners, connections.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::amqp;
use crate::support::broker::{Broker, free_port, own_broker, rabbitmq_or_skip};
use crate::support::soon;

const ALARMS: &str = "rabbit_alarm:get_alarms()";

#[tokio::test]
async fn an_operator_can_alarm_cut_and_freeze_a_node() {
    if !rabbitmq_or_skip("an_operator_can_alarm_cut_and_freeze_a_node") {
        return;
    }
    let broker = Broker::start().await;
    let alarm = |kind: &str| format!("[{{{{resource_limit,{kind},a@localhost}},[]}}]");
    broker.memory_alarm(true).await;
    assert_eq!(broker.eval(ALARMS).await, alarm("memory"));
    broker.memory_alarm(false).await;
    broker.disk_alarm(true).await;
    assert_eq!(broker.eval(ALARMS).await, alarm("disk"));
    broker.disk_alarm(false).await;
    assert_eq!(broker.eval(ALARMS).await, "[]");

    let mut connection = amqp::open(&broker.url()).await.unwrap();
    broker.close_all_connections().await;
    assert_eq!(amqp::method(&mut connection).await, amqp::CONNECTION_CLOSE);

    broker.freeze().await;
    let url = broker.url();
    tokio::time::timeout(Duration::from_millis(200), amqp::open(&url)).await.unwrap_err();
    broker.thaw().await;
    amqp::open(&url).await.unwrap();
    assert_eq!(broker.ctl(&["-q", "list_vhosts"]).await.lines().last(), Some("/"));
}

#[tokio::test]
async fn a_user_has_the_rights_it_was_given() {
    let Some(broker) = own_broker("a_user_has_the_rights_it_was_given").await else { return };
    let (own, other) = (broker.fresh_vhost().await, broker.fresh_vhost().await);
    broker.add_user("webhook", "se\"cret", &own.name, ["^$", "^soloist\\.logins$", ""]).await;

    let url = |vhost: &str| broker.url_of(vhost).replace("guest:guest", "webhook:se\"cret");
    amqp::open(&url(&own.name)).await.unwrap();
    assert_eq!(amqp::open(&url(&other.name)).await.unwrap_err(), amqp::CONNECTION_CLOSE);
    let rights = broker.ctl(&["-q", "list_user_permissions", "webhook", "--no-table-headers"]).await;
    assert_eq!(rights.trim_end(), format!("{}\t^$\t^soloist\\.logins$", own.name));
}

#[tokio::test]
async fn a_node_can_listen_for_tls() {
    if !rabbitmq_or_skip("a_node_can_listen_for_tls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (cert, key) = (file("cert.pem", made.cert.pem()), file("key.pem", made.signing_key.serialize_pem()));
    let port = free_port();
    let conf = [
        format!("listeners.ssl.1 = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {cert}"),
        format!("ssl_options.certfile = {cert}"),
        format!("ssl_options.keyfile = {key}"),
    ];
    let _broker = Broker::start_with(&conf.each_ref().map(String::as_str)).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let greeted = tokio::task::spawn_blocking(move || greet(port, roots));
    assert_eq!(soon("an answer", greeted).await.unwrap().unwrap(), 1);
}

/// The kind of the first frame that is sent over TLS.
fn greet(port: u16, roots: rustls::RootCertStore) -> std::io::Result<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    let server = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(client, server).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(("127.0.0.1", port))?);
    stream.write_all(amqp::GREETING)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok(kind[0])
}
