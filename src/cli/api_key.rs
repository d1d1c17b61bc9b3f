//! `soloist api-key new`: a key for an app server, shown once; the configuration gets its hash alone.
//! `soloist openapi`: the descriptions of both APIs.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Usage, output};
use crate::app;
use crate::config::AppKey;

/// Keys of apps that may use the session API
#[derive(Args)]
#[command(after_help = "Example:\n  soloist api-key new shop --scope checkpoint")]
pub(super) struct ApiKeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    New(NewArgs),
}

/// Make a key: it is shown once, and nothing is written anywhere
#[derive(Args)]
#[command(after_help = "Example:\n  soloist api-key new shop --scope checkpoint --scope verdict")]
struct NewArgs {
    /// What the key is called in the configuration: letters, digits, '-' and '_'
    name: String,
    /// What it may be used for: checkpoint, verdict
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = ["checkpoint", "verdict"])]
    scopes: Vec<String>,
    /// The tenant whose users it may ask about; without it all
    #[arg(long)]
    tenant: Option<String>,
    /// When it ends, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Write the OpenAPI 3.1 description of the session API
#[derive(Args)]
#[command(after_help = "Example:\n  soloist openapi > openapi.json")]
pub(super) struct OpenapiArgs {
    /// That of the private listener's admin API instead
    #[arg(long)]
    admin: bool,
}

pub(super) fn run(args: &ApiKeyArgs) -> anyhow::Result<ExitCode> {
    let Action::New(args) = &args.action;
    if !AppKey::is_name(&args.name) {
        return Err(Usage("a key's name is 1 to 64 letters, digits, '-' and '_'".to_owned()).into());
    }
    let (key, sha256) = app::new_api_key();
    if args.json {
        output::line(json!({ "key": key, "sha256": sha256 }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |text: &str| json!(text).to_string();
    output::line(format_args!("{key}\n"))?;
    output::line("This is shown once: keep it where the app's server finds it. The configuration gets its hash:\n")?;
    output::line("[[api.keys]]")?;
    output::line(format_args!(
        "name = {}\nsha256 = {}\nscopes = {}",
        text(&args.name),
        text(&sha256),
        json!(args.scopes)
    ))?;
    if let Some(tenant) = &args.tenant {
        output::line(format_args!("tenant = {}", text(tenant)))?;
    }
    if let Some(expires) = &args.expires {
        output::line(format_args!("expires = {}", text(&expires.to_string())))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn openapi(args: &OpenapiArgs) -> anyhow::Result<ExitCode> {
    output::line(app::openapi(args.admin)?)?;
    Ok(ExitCode::SUCCESS)
}
