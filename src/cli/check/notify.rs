//! Whether those who are to be told could be: their names, addresses and keys. Nothing is sent.

use super::Finding;
use crate::app;
use crate::config::Config;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = app::read_notify_texts(config) {
        let remedy = "put it right: the service does not start with it";
        findings.push(Finding::problem("notices", format!("{error:#}"), remedy));
    }
    for endpoint in &config.notify {
        let about = format!("notices to {}", endpoint.name);
        findings.push(match app::look_at_endpoint(endpoint).await {
            Ok(found) => Finding::ok(&about, found),
            Err(error) => Finding::problem(
                &about,
                format!("{error:#}"),
                "check its url and keys; allow_private = true lets it be in a network of your own",
            ),
        });
    }
    findings
}
