//! What people are shown: the README's receiver, run as it stands there, and `soloist check`.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::receiver::{Receiver, SECRET};
use super::{eviction, metric, service};
use crate::cli::Soloist;
use crate::rabbitmq_users::clients::installed;
use crate::support::soon;

#[tokio::test]
async fn the_python_receiver_of_the_readme_verifies_what_we_send() {
    let Some(library) = installed("the_python_receiver_of_the_readme_verifies_what_we_send", "receiver") else {
        return;
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/receivers/receiver.py");
    let mut command = Command::new("python3");
    command.arg(file).arg("0").env("PYTHONPATH", library).env("NOTIFY_SECRET", SECRET);
    let mut python = command.stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let first = soon("the receiver to listen", lines.next_line()).await.unwrap().unwrap();
    let port = first.rsplit(' ').next().unwrap();
    let endpoint = |name: &str, secret: &str| {
        format!(
            "{{ name = \"{name}\", url = \"http://127.0.0.1:{port}\", secret = \"{secret}\", allow_private = true }}"
        )
    };
    let other = SECRET.replace("MfKQ", "MfKR");
    let service = service(&[endpoint("app", SECRET), endpoint("other", &other)], &[]).await;
    eviction(&service, "ann").await;
    let told = soon("a notice", lines.next_line()).await.unwrap().unwrap();
    assert!(told.starts_with("msg_") && told.contains(" session.revoked You were logged out because"), "{told}");
    service.until("the answer", async |service| metric(service, "delivered_total") == 1).await;
    let refused = "soloist_notices_failed_total{endpoint=\"other\"}";
    service.until("the refusal of a wrong signature", async |service| service.metric(refused) >= 1).await;
    service.stop().await;
}

#[tokio::test]
async fn check_says_where_each_endpoint_leads_and_sends_nothing() {
    let receiver = Receiver::start(200).await;
    let mut soloist = Soloist::for_api("http://127.0.0.1:9");
    let key = format!(
        "{{ name = \"siem\", format = \"caep\", url = \"http://127.0.0.1:9\", allow_private = true, issuer = \"i\", \
         audience = \"a\", signing_key_file = \"{}\" }}",
        soloist.data_dir().join("none.key").display()
    );
    let inside = receiver.endpoint("").replace("allow_private = true", "").replace("http://", "https://");
    let inside = inside.replace("app", "inside");
    soloist.set("NOTIFY", &format!("[{}, {inside}, {key}]", receiver.endpoint("")));
    soloist.set("NOTIFY_TEXTS", soloist.data_dir().join("none.toml").display().to_string().as_str());
    let checked = soloist.run(&["check"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for expected in [
        "ok       notices to app: 127.0.0.1 is 127.0.0.1\n",
        "problem  notices to inside: the address 127.0.0.1 is of a private network or of this machine",
        "problem  notices to siem: the endpoint `siem` of [[notify]] cannot be used: cannot read the signing key",
        "problem  notices: cannot read notify_texts",
    ] {
        assert!(checked.out.contains(expected), "{expected}: {}", checked.out);
    }
    assert!(!checked.out.contains("planted-path") && !checked.err.contains("planted-path"));
    assert_eq!(receiver.got().len(), 0);
}
