//! `soloist check`: looks at everything the service needs, and says what to do about what is wrong.

mod broker;
mod clock;
mod disk;
mod meaning;
mod notify;
mod probe;
mod queue;

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use self::probe::Probe;
use super::output::{self, Tone};
use super::{Source, web};
use crate::app::{self, ProbeFailed};
use crate::cli::serve::Role;
use crate::config::{Backend, Config, CredentialsIn};
use crate::model::TenantId;

const EXAMPLES: &str = "Examples:
  soloist check --config soloist.toml
  soloist check --probe test-user           (says when to log in; asks before it touches a session)
  soloist check --probe test-user --yes --json

Probe with a user who is exempt here, or in mode observe: otherwise Soloist ends sessions meanwhile.";

/// Check configuration, credentials, queue, clock and disk, and say what to do
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// One JSON object a finding
    #[arg(long)]
    json: bool,
    /// With RabbitMQ: whose rights at the broker are tried
    #[arg(long, value_delimiter = ',', value_name = "ROLES", default_value = "webhook,worker,control")]
    role: Vec<Role>,
    /// Also measure what LoginRadius does on login, refresh, expiry and ending, with this test user, who must agree
    #[arg(long, value_name = "UID")]
    probe: Option<String>,
    /// The tenant to probe, where there are several
    #[arg(long, requires = "probe")]
    tenant: Option<String>,
    /// The test user has agreed that the session he begins is refreshed and ended
    #[arg(long, requires = "probe")]
    yes: bool,
}

/// How things stand.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Problem,
}

/// What was found, and what to do about it.
#[derive(Serialize)]
struct Finding {
    about: String,
    state: State,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(about: &str, found: impl Into<String>) -> Self {
        Self { about: about.to_owned(), state: State::Ok, found: found.into(), remedy: None }
    }

    fn warning(about: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about: about.to_owned(), state: State::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn problem(about: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Problem, ..Self::warning(about, found, remedy) }
    }
}

pub(super) async fn run(args: CheckArgs, source: Source) -> anyhow::Result<ExitCode> {
    let config = source.read()?;
    let probe = args.probe.as_deref().map(|uid| Probe::new(uid, args.tenant.as_deref(), args.yes, &config));
    let probe = probe.transpose()?;
    let mut findings = configuration(&config, app::now());
    findings.extend(credentials(&config).await);
    findings.extend(queue::check(&config).await);
    if config.queue.backend == Backend::Rabbitmq {
        findings.push(broker::check(&config, &args.role).await);
    }
    findings.extend(notify::check(&config).await);
    findings.push(clock::check(&config).await);
    findings.push(disk::check(&config.data_dir));
    report(&findings, args.json)?;
    if let Some(probe) = probe {
        let (measured, found) = probe.run(&config).await?;
        if args.json {
            output::line(json!({ "about": "probe", "measured": measured }))?;
        } else {
            output::show(&probe::table(&measured))?;
        }
        report(&found, args.json)?;
        findings.extend(found);
    }
    let is_fine = findings.iter().all(|finding| finding.state != State::Problem);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(findings: &[Finding], as_json: bool) -> anyhow::Result<()> {
    for finding in findings {
        if as_json {
            output::line(serde_json::to_string(finding)?)?;
        } else {
            show(finding)?;
        }
    }
    Ok(())
}

fn show(finding: &Finding) -> anyhow::Result<()> {
    let (word, tone) = match finding.state {
        State::Ok => ("ok", Tone::Good),
        State::Warning => ("warning", Tone::Warning),
        State::Problem => ("problem", Tone::Bad),
    };
    output::line(format_args!(
        "{}  {}: {}",
        output::painted(&format!("{word:<7}"), tone),
        finding.about,
        finding.found
    ))?;
    match &finding.remedy {
        Some(remedy) => output::line(format_args!("         {remedy}")),
        None => Ok(()),
    }
}

/// It was read, so it is valid; some of what is valid deserves a second thought.
fn configuration(config: &Config, now: Timestamp) -> Vec<Finding> {
    let about = "configuration";
    let tenants: Vec<&str> = config.tenants.keys().map(TenantId::as_str).collect();
    let mut findings = vec![Finding::ok(about, format!("valid, tenants: {}", tenants.join(", ")))];
    if !config.webhook.listen.ip().is_loopback() && config.webhook.tls_cert.is_none() {
        findings.push(Finding::warning(
            about,
            format!("webhook.listen = {} takes requests from other machines without TLS", config.webhook.listen),
            "put a proxy with TLS before it, or set webhook.tls_cert and webhook.tls_key",
        ));
    }
    if config.admin.insecure && !config.admin.listen.ip().is_loopback() {
        findings.push(Finding::warning(
            about,
            format!("admin.listen = {} sends the admin key unencrypted to other machines", config.admin.listen),
            "listen on a loopback address, or keep that network private",
        ));
    }
    for (tenant, of) in &config.tenants {
        if of.loginradius.credentials_in == CredentialsIn::Query {
            findings.push(Finding::warning(
                about,
                format!("tenant {tenant} sends its API secret in URLs, which proxies write into their logs"),
                "set loginradius.credentials_in = \"headers\", which all but old tenants accept",
            ));
        }
    }
    for key in &config.api.keys {
        if let Some(expires) = key.expires.filter(|expires| *expires <= now) {
            findings.push(Finding::warning(
                about,
                format!("the key `{}` in api.keys expired at {expires}: who asks with it gets 401", key.name),
                "remove it from the configuration, or make a new one by `soloist api-key new`",
            ));
        }
    }
    findings
}

async fn credentials(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (tenant, of) in &config.tenants {
        let about = format!("credentials of tenant {tenant}");
        findings.push(match app::probe(&of.loginradius).await {
            Ok(()) => Finding::ok(&about, format!("accepted by {}", of.loginradius.api_url)),
            Err(ProbeFailed { why, remedy }) => Finding::problem(&about, format!("{why:#}"), remedy),
        });
    }
    findings
}
