//! `soloist healthcheck`: for containers, which have no other program to ask with.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{Source, output, web};

/// Less than the 5 s after which most orchestrators lose patience.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Ask the running service whether it is ready: exit code 0 if so, else 1
#[derive(Args)]
#[command(after_help = "Example:\n  soloist healthcheck --url http://127.0.0.1:8080")]
pub(super) struct HealthcheckArgs {
    /// The public listener; without it the configured one
    #[arg(long)]
    url: Option<String>,
}

pub(super) async fn run(args: HealthcheckArgs, source: Source) -> anyhow::Result<ExitCode> {
    let (mut url, trust) = web::public_url(args.url.as_deref(), || Ok(source.read()?))?;
    if url.path() == "/" {
        url.set_path("/readyz");
    }
    let request = web::client(&url, trust, TIMEOUT)?.get(url.clone());
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    let status = answer.with_context(|| format!("{url} does not answer"))?.status();
    if !status.is_success() {
        bail!("{url} answers {status}: not ready");
    }
    output::line("ready")?;
    Ok(ExitCode::SUCCESS)
}
