//! `amqps://` with a CA of one's own, to a broker that asks for a certificate.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use soloist::sandbox::Sandbox;
use tempfile::TempDir;

use super::check::about_broker;
use super::{Member, comes_down_to, configured, logs_in, publish, sandbox};
use crate::cli::Soloist;
use crate::support::broker::{Broker, free_port, rabbitmq_or_skip};

/// A CA, and what it has signed, in files.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// A CA with a certificate for the broker, and one for us.
    fn make() -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap() };
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, "soloist test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        fs::write(made.path("ca.pem"), ca.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(ca, key);
        for (name, hosts, usage) in [
            ("server", vec!["localhost".to_owned(), "127.0.0.1".to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
            ("client", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut leaf = CertificateParams::new(hosts).unwrap();
            leaf.distinguished_name.push(DnType::CommonName, format!("soloist test {name}"));
            leaf.extended_key_usages = vec![usage];
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let key = KeyPair::generate().unwrap();
            fs::write(made.path(&format!("{name}.pem")), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            fs::write(made.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        made
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The lines of `rabbitmq.conf` for a listener that trusts this CA alone and asks everybody for a certificate.
    fn conf(&self, port: u16) -> Vec<String> {
        let file = |option: &str, name: &str| format!("ssl_options.{option} = {}", self.path(name).display());
        vec![
            format!("listeners.ssl.1 = 127.0.0.1:{port}"),
            file("cacertfile", "ca.pem"),
            file("certfile", "server.pem"),
            file("keyfile", "server.key"),
            "ssl_options.verify = verify_peer".to_owned(),
            "ssl_options.fail_if_no_peer_cert = true".to_owned(),
        ]
    }
}

/// The binary, configured for the broker's TLS port with these files.
fn by_tls(sandbox: &Sandbox, url: &str, files: &[(&str, &Path)]) -> Soloist {
    let mut soloist = configured(sandbox, url, &[]);
    for (option, file) in files {
        soloist.set(&format!("QUEUE__RABBITMQ__{option}"), file.to_str().unwrap());
    }
    soloist
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_is_used_over_tls_and_trusted_by_its_ca_alone() {
    if !rabbitmq_or_skip("a_broker_that_asks_for_a_certificate_is_used_over_tls_and_trusted_by_its_ca_alone") {
        return;
    }
    let (ours, others, port) = (Certificates::make(), Certificates::make(), free_port());
    let conf = ours.conf(port);
    let broker = Broker::start_with(&conf.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let sandbox = sandbox().await;
    let (ca, cert, key) = (ours.path("ca.pem"), ours.path("client.pem"), ours.path("client.key"));
    let (ca, cert, key): (&Path, &Path, &Path) = (&ca, &cert, &key);

    for host in ["localhost", "127.0.0.1"] {
        let url = format!("amqps://guest:guest@{host}:{port}");
        let soloist = by_tls(&sandbox, &url, &[("CA_FILE", ca), ("CERT_FILE", cert), ("KEY_FILE", key)]);
        let checked = soloist.done(&["check"]).await;
        let place = format!("broker: {host}:{port} (TLS) virtual host `/`: everything is declared");
        assert!(checked.contains(&place), "{checked}");
        let service = Member::start(soloist, "webhook,worker,control").await;
        let newest = logs_in(&sandbox, "ann");
        publish(&broker.url(), "default", "application/json", br#"{"uid":"ann"}"#).await;
        comes_down_to(&sandbox, &newest).await;
        service.stop().await;
    }

    let url = format!("amqps://guest:guest@localhost:{port}");
    let (wrong_ca, foreign, foreign_key) =
        (others.path("ca.pem"), others.path("client.pem"), others.path("client.key"));
    let plain = url.replace("amqps", "amqp");
    let (theirs, own) = (
        ("the broker's certificate is not accepted", "ca_file"),
        ("the broker does not accept our certificate, or none was given", "cert_file"),
    );
    let mixed = ("our key does not belong to our certificate", "key_file");
    for ((found, option), files) in [
        (mixed, vec![("CA_FILE", ca), ("CERT_FILE", cert), ("KEY_FILE", &foreign_key)]),
        (own, vec![("CA_FILE", ca)]),
        (own, vec![("CA_FILE", ca), ("CERT_FILE", &foreign), ("KEY_FILE", &foreign_key)]),
        (theirs, vec![("CA_FILE", &wrong_ca), ("CERT_FILE", cert), ("KEY_FILE", key)]),
        (theirs, vec![("CERT_FILE", cert), ("KEY_FILE", key)]),
    ] {
        let ended = by_tls(&sandbox, &url, &files).run(&["check"]).await;
        let (line, remedy) = about_broker(&ended);
        assert_eq!(ended.code, Some(1), "{files:?}: {ended:?}");
        assert!(says(line, found) && remedy.contains(option), "{files:?}: {ended:?}");
    }
    let ended = by_tls(&sandbox, &plain, &[]).run(&["check"]).await;
    let (line, remedy) = about_broker(&ended);
    assert!(says(line, "does not speak AMQP, or only with TLS") && remedy.contains("amqps://"), "{ended:?}");
}

/// Whether an answer is still read of a broker that has broken the connection off is a matter of luck.
fn says(line: &str, found: &str) -> bool {
    line.contains(found) || line.contains("the broker broke the connection off")
}
