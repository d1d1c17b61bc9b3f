//! What can be asked of a running sandbox through its `/_sandbox/…` routes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::flags::read_faults;
use crate::cli::output;
use crate::sandbox::{Faults, LoginMade, Report, WebhookFate};

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args)]
struct Target {
    /// Where the sandbox listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9900")]
    url: String,
}

/// Log a user in on a running sandbox; it sends the login events
#[derive(Args)]
#[command(after_help = "Example:\n  soloist sandbox login ann --count 20 --device phone")]
pub(super) struct LoginArgs {
    /// The user, made if there is none
    uid: String,
    /// Logins, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// phone, android, tablet, laptop, desktop, linux, tv or console; without it any
    #[arg(long)]
    device: Option<String>,
    /// One JSON object a login, with its (fake) access token
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What happened in a running sandbox, measured against a limit
#[derive(Args)]
#[command(after_help = "Example:\n  soloist sandbox report --limit 1")]
pub(super) struct ReportArgs {
    /// Newest sessions of a user that were to stay
    #[arg(long, default_value_t = 1)]
    limit: usize,
    /// The whole report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Set the faults of a running sandbox; without JSON, show them
#[derive(Args)]
#[command(after_help = "Examples:
  soloist sandbox faults '{\"outage\": \"unavailable\"}'
  soloist sandbox faults '{}'    (no faults)")]
pub(super) struct FaultsArgs {
    /// The new faults; what is not named is off
    #[arg(value_parser = read_faults)]
    faults: Option<Faults>,
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Logins {
    logins: Vec<LoginMade>,
}

pub(super) async fn login(args: LoginArgs) -> anyhow::Result<ExitCode> {
    let client = client()?;
    let body = json!({ "uid": args.uid, "device": args.device });
    let mut silent = false;
    for _ in 0..args.count {
        let answer = ask(&args.target, client.post(args.target.at("/_sandbox/login")).json(&body)).await?;
        let Logins { logins } = serde_json::from_value(answer).context("the sandbox's answer cannot be read")?;
        for login in logins {
            silent |= login.webhook == WebhookFate::NotSent;
            if args.json {
                output::line(serde_json::to_string(&login)?)?;
            } else {
                output::line(format_args!("{}  session {}  {}", login.uid, login.session, login.device))?;
            }
        }
    }
    if silent {
        output::note("no login event was sent: the sandbox was started without --webhook URL");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn report(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/_sandbox/report?limit={}", args.limit);
    let answer = ask(&args.target, client()?.get(args.target.at(&path))).await?;
    if args.json {
        output::line(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report: Report = serde_json::from_value(answer).context("the sandbox's answer cannot be read")?;
    let revoked = report.sessions_by_state.get("revoked").copied().unwrap_or(0);
    let mut table = output::table([&format!("with a limit of {}", report.limit), ""]);
    for (what, count) in [
        ("users", report.users),
        ("live sessions", report.live_sessions),
        ("users over the limit", report.over_limit.len()),
        ("users with none left by mistake", report.emptied.len()),
        ("sessions revoked", revoked),
        ("sessions revoked wrongly", report.wrong_revocations.len()),
        ("of these because a dead session was listed", report.misled_revocations.len()),
        ("revoked sessions that can be refreshed", report.refreshable_after_revocation),
        ("most API calls within a second", report.most_calls_in_a_second),
    ] {
        table.add_row([what.to_owned(), count.to_string()]);
    }
    for (answer, count) in &report.answers {
        table.add_row([format!("API calls: {answer}"), count.to_string()]);
    }
    output::show(&table)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn faults(args: FaultsArgs) -> anyhow::Result<ExitCode> {
    let (client, url) = (client()?, args.target.at("/_sandbox/faults"));
    let request = args.faults.map_or_else(|| client.get(&url), |faults| client.put(&url).json(&faults));
    output::line(serde_json::to_string_pretty(&ask(&args.target, request).await?)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Target {
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }
}

fn client() -> anyhow::Result<Client> {
    let client = Client::builder().tls_certs_only([]).no_proxy().timeout(TIMEOUT).build();
    client.context("cannot set up an HTTP client")
}

async fn ask(target: &Target, request: RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await.map_err(reqwest::Error::without_url).with_context(|| {
        format!("no sandbox answers on {}: start one with `soloist sandbox`, or give --url", target.url)
    })?;
    let status = answer.status();
    let text = answer.text().await.map_err(reqwest::Error::without_url)?;
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(body);
    }
    match body.get("error").and_then(Value::as_str) {
        Some(error) => bail!("the sandbox refused: {error}"),
        None => bail!("{} answered {status}: is it a sandbox?", target.url),
    }
}
