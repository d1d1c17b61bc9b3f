//! `soloist send`: signed login webhooks in LoginRadius' shape, for trying out a running service.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use hmac::{Hmac, KeyInit as _, Mac as _};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::output::{self, Tone};
use super::{Source, Usage, web};
use crate::app;
use crate::config::Config;
use crate::model::{TenantId, UserId};

/// Requests that are open at the same time.
const OPEN_MAX: usize = 64;
/// More than the service's own deadlines, so that its answer is seen.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Sign and post login events, as LoginRadius does
#[derive(Args)]
#[command(after_help = "Example:\n  soloist send ann --count 100 --rate 20")]
pub(super) struct SendArgs {
    /// The user: the Uid at LoginRadius
    uid: String,
    /// The public listener, or the whole address of the webhook; without it the configured one
    #[arg(long)]
    url: Option<String>,
    /// Login events, each with an id of its own
    #[arg(long, default_value_t = NonZeroU32::MIN)]
    count: NonZeroU32,
    /// Events a second at most
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<NonZeroU32>,
    /// The tenant, whose secret signs
    #[arg(long)]
    tenant: Option<String>,
}

pub(super) async fn run(args: SendArgs, source: Source) -> anyhow::Result<ExitCode> {
    let user = UserId::parse(&args.uid).map_err(|error| Usage(error.to_string()))?;
    let config = source.read()?;
    let (tenant, secret) = signer(&config, args.tenant.as_deref())?;
    let (mut url, trust) = web::public_url(args.url.as_deref(), || Ok(config.clone()))?;
    if url.path() == "/" {
        let default = tenant == TenantId::default_tenant();
        let path = if default { String::new() } else { format!("/{tenant}") };
        url.set_path(&format!("/webhooks/loginradius{path}"));
    }
    let sender = Sender { client: web::client(&url, trust, TIMEOUT)?, url, user, secret };
    let answers = send_all(sender, args.count, args.rate).await?;
    let accepted: u32 = answers.iter().filter(|(answer, _)| answer.starts_with('2')).map(|(_, count)| count).sum();
    let mut table = output::table(["answer", "events"]);
    for (answer, count) in &answers {
        let tone = if answer.starts_with('2') { Tone::Good } else { Tone::Bad };
        table.add_row([output::cell(answer.as_str(), tone), output::cell(count.to_string(), Tone::Plain)]);
    }
    output::show(&table)?;
    Ok(if accepted == args.count.get() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tenant of the events, and the first secret that may sign for it.
fn signer(config: &Config, named: Option<&str>) -> anyhow::Result<(TenantId, SecretString)> {
    let id = match named {
        Some(named) => Some(TenantId::parse(named).map_err(|error| Usage(error.to_string()))?),
        None if config.tenants.len() == 1 => config.tenants.keys().next().cloned(),
        None => Some(TenantId::default_tenant()),
    };
    let found = id.and_then(|id| config.tenants.get_key_value(&id));
    let names = || config.tenants.keys().map(TenantId::as_str).collect::<Vec<_>>().join(", ");
    let (id, tenant) = found.ok_or_else(|| Usage(format!("name a tenant with --tenant: {}", names())))?;
    let secret = tenant.loginradius.webhook_secrets.first().cloned();
    Ok((id.clone(), secret.ok_or_else(|| anyhow!("the tenant has no webhook secret"))?))
}

#[derive(Clone)]
struct Sender {
    client: Client,
    url: Url,
    user: UserId,
    secret: SecretString,
}

impl Sender {
    /// One event; what came of it in a few words.
    async fn send(self) -> anyhow::Result<String> {
        let body = login_event(&self.user, &uuid::Uuid::new_v4().to_string(), app::now());
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose_secret().as_bytes())?;
        mac.update(body.as_bytes());
        let signature = hex::encode_upper(mac.finalize().into_bytes());
        let request = self.client.post(self.url).header("signature", signature);
        let request = request.header("content-type", "application/json; charset=utf-8").body(body);
        Ok(match request.send().await {
            Ok(answer) => answer.status().to_string(),
            Err(error) if error.is_timeout() => "no answer in time".to_owned(),
            Err(error) if error.is_connect() => "cannot connect".to_owned(),
            Err(_) => "connection lost".to_owned(),
        })
    }
}

/// The parts of LoginRadius' payload that say which login it is.
fn login_event(user: &UserId, hook_id: &str, now: Timestamp) -> String {
    json!({
        "HookName": "login",
        "Time": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "HookId": hook_id,
        "Data": { "Uid": user.as_str(), "Provider": "Email", "LastLoginDate": now.to_string() },
    })
    .to_string()
}

/// Sends them all; how often each answer came.
async fn send_all(
    sender: Sender,
    count: NonZeroU32,
    rate: Option<NonZeroU32>,
) -> anyhow::Result<BTreeMap<String, u32>> {
    let progress = progress(count);
    let mut pace = rate.map(pace);
    let (mut open, mut answers) = (JoinSet::new(), BTreeMap::new());
    let mut left = count.get();
    while left > 0 || !open.is_empty() {
        if left > 0 && open.len() < OPEN_MAX {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            open.spawn(sender.clone().send());
            left -= 1;
        } else if let Some(answer) = open.join_next().await {
            *answers.entry(answer.context("a request failed")??).or_default() += 1;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(answers)
}

fn pace(rate: NonZeroU32) -> Interval {
    let mut pace = interval(Duration::from_secs(1) / rate.get());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Only on a terminal, and only where there is something to wait for.
fn progress(count: NonZeroU32) -> ProgressBar {
    if count.get() == 1 || !std::io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events, {eta} left");
    ProgressBar::new(count.get().into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
