//! Whether the queue can be used, and what waits in it.

use http::Method;
use serde_json::Value;

use super::Finding;
use crate::cli::admin::{Access, AdminClient, Ask};
use crate::cli::output::{counted, list, number, text};
use crate::config::Config;

const ABOUT: &str = "queue";
/// What to do where LoginRadius' Restrict Login Sharing is on.
pub(super) const LIMITERS: &str = "it refuses new logins where Soloist ends old ones: turn Restrict Login Sharing off there, or set mode = \"off\" here";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match status(config).await {
        Ok((whose, status)) => findings(whose, &status),
        Err(error) => {
            vec![Finding::problem(ABOUT, format!("{error:#}"), "do what the message says, then check again")]
        }
    }
}

async fn status(config: &Config) -> anyhow::Result<(&'static str, Value)> {
    let admin = AdminClient::open(config, Access::Read).await?;
    let whose = match &admin {
        AdminClient::Running { .. } => "of the running instance",
        AdminClient::Local { empty: Some(_), .. } => "not made yet, nothing has run in this data_dir",
        AdminClient::Local { .. } => "free, no instance runs",
    };
    let status = admin.ask(Ask::new(Method::GET, ["status"])).await;
    admin.close().await?;
    Ok((whose, status?))
}

fn findings(whose: &str, status: &Value) -> Vec<Finding> {
    let sum = |state: &str| -> u64 { list(status, "queue").iter().map(|lane| number(lane, state)).sum() };
    let waiting = counted(sum("ready") + sum("unsettled") + sum("delayed"), "message");
    let mut findings = vec![Finding::ok(ABOUT, format!("{whose}; {waiting} waiting"))];
    if sum("dead") > 0 {
        let remedy = "see why with `soloist dead-letters ls`, then redrive or drop them";
        findings.push(Finding::warning(ABOUT, counted(sum("dead"), "dead letter"), remedy));
    }
    let limited = list(status, "tenants").iter().filter(|tenant| !text(tenant, "vendor_limiter").is_empty());
    findings.extend(limited.map(|tenant| {
        let (tenant, sign) = (text(tenant, "tenant"), text(tenant, "vendor_limiter"));
        Finding::warning(
            "vendor limiter",
            format!("tenant {tenant}: LoginRadius limits sessions, too ({sign})"),
            LIMITERS,
        )
    }));
    let paused = list(status, "tenants").iter().filter(|tenant| !["", "running"].contains(&text(tenant, "state")));
    findings.extend(paused.map(|tenant| {
        let found = format!("tenant {} is paused: {}", text(tenant, "tenant"), text(tenant, "state"));
        Finding::warning(ABOUT, found, "see its credentials above; it goes on by itself when LoginRadius answers")
    }));
    findings
}
