//! Whether the broker can be used as it is configured.

use super::Finding;
use crate::app::{self, BrokerDuty};
use crate::cli::serve::Role;
use crate::config::Config;

const ABOUT: &str = "broker";

pub(super) async fn check(config: &Config, roles: &[Role]) -> Finding {
    let duties: Vec<BrokerDuty> = roles
        .iter()
        .map(|role| match role {
            Role::Webhook => BrokerDuty::Webhook,
            Role::Worker => BrokerDuty::Worker,
            Role::Control => BrokerDuty::Control,
        })
        .collect();
    match app::probe_broker(config, &duties).await {
        Ok(place) => Finding::ok(ABOUT, format!("{place}: everything is declared, and we have the rights we need")),
        Err(trouble) => Finding::problem(ABOUT, trouble.to_string(), trouble.remedy()),
    }
}
