//! Whether the queue can be used, and what waits in it.

use http::Method;
use serde_json::Value;

use super::Finding;
use crate::cli::admin::{Access, AdminClient, Ask};
use crate::cli::output::{counted, list, number, text};
use crate::config::Config;

const ABOUT: &str = "queue";
/// A budget is so many times the busiest hour on record, and at least so many sessions.
const BUDGET_ROOM: u64 = 3;
const BUDGET_MIN: u64 = 100;
/// What to do where LoginRadius' Restrict Login Sharing is on.
pub(super) const LIMITERS: &str = "it refuses new logins where Soloist ends old ones: turn Restrict Login Sharing off there, or set mode = \"off\" here";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match status(config).await {
        Ok((whose, status, budget)) => {
            let mut findings = findings(whose, &status);
            findings.extend(list(&budget, "budget").iter().filter_map(of_budget));
            findings
        }
        Err(error) => {
            vec![Finding::problem(ABOUT, format!("{error:#}"), "do what the message says, then check again")]
        }
    }
}

async fn status(config: &Config) -> anyhow::Result<(&'static str, Value, Value)> {
    let admin = AdminClient::open(config, Access::Read).await?;
    let whose = match &admin {
        AdminClient::Running { .. } => "of the running instance",
        AdminClient::Local { empty: Some(_), .. } => "not made yet, nothing has run in this data_dir",
        AdminClient::Local { .. } => "free, no instance runs",
    };
    let status = admin.ask(Ask::new(Method::GET, ["status"])).await;
    // A process that does not decide knows of no budget.
    let budget = admin.ask(Ask::new(Method::GET, ["budget"])).await.unwrap_or_default();
    admin.close().await?;
    Ok((whose, status?, budget))
}

/// Whether a mistake would be stopped, and by which number.
fn of_budget(budget: &Value) -> Option<Finding> {
    const ABOUT: &str = "budget";
    let (tenant, busiest) = (text(budget, "tenant"), number(budget, "busiest_hour"));
    let proposed = busiest.saturating_mul(BUDGET_ROOM).max(BUDGET_MIN);
    if budget.get("stopped").and_then(Value::as_bool) == Some(true) {
        let remedy = "see `soloist why` whether the evictions were right, then run `soloist resume`";
        return Some(Finding::problem(ABOUT, format!("of tenant {tenant} is used up: it is only observed"), remedy));
    }
    match budget.get("revocations").and_then(Value::as_u64) {
        None => Some(Finding::warning(
            ABOUT,
            format!(
                "none: nothing stops tenant {tenant} from ending any number of sessions; the busiest hour on record had {busiest}"
            ),
            format!("set budget.revocations = {proposed}, or what your busiest hour needs"),
        )),
        Some(limit) if limit < busiest => Some(Finding::warning(
            ABOUT,
            format!("{limit} an hour is less than tenant {tenant} once needed ({busiest})"),
            format!("set budget.revocations = {proposed}, unless that hour was a mistake"),
        )),
        Some(_) => None,
    }
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
