//! The command line: one file a command, and one place that writes to the terminal.

mod admin;
mod api_key;
mod changes;
mod check;
mod config;
mod dead_letters;
mod decide;
pub mod demo;
mod directives;
mod healthcheck;
mod known;
mod ledger;
mod output;
mod policy;
mod sandbox;
mod send;
mod serve;
mod simulate;
mod spool;
mod users;
mod web;
mod why;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use self::output::PipeClosed;
use crate::config::{Config, ConfigError};

/// The command line was used in a wrong way, or the configuration is wrong (`EX_USAGE`).
const USAGE: u8 = 64;

const EXAMPLES: &str = "Examples:
  soloist demo                          see it work, nothing needed
  soloist serve --config soloist.toml   run the service
  soloist sessions 793fb102948e48c0     one user's sessions

Exit codes: 0 done, 1 failed, 64 wrong usage or configuration.";

/// Keeps every account on as many devices as its plan allows.
#[derive(Parser)]
#[command(name = "soloist", version, about, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// The configuration file; without it SOLOIST_CONFIG, then ./soloist.toml if there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Sandbox(Box<sandbox::SandboxArgs>),
    Check(check::CheckArgs),
    Sessions(users::SessionsArgs),
    Enforce(users::EnforceArgs),
    Revoke(users::RevokeArgs),
    Decisions(users::DecisionsArgs),
    Users(known::UsersArgs),
    Why(why::WhyArgs),
    Ledger(ledger::LedgerArgs),
    Simulate(simulate::SimulateArgs),
    Policy(policy::PolicyArgs),
    Send(send::SendArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Spool(spool::SpoolArgs),
    Mode(directives::ModeArgs),
    Canary(directives::CanaryArgs),
    Override(directives::OverrideArgs),
    Exempt(directives::ExemptArgs),
    Pin(directives::PinArgs),
    Release(directives::ReleaseArgs),
    Resume(directives::ResumeArgs),
    Directives(directives::DirectivesArgs),
    Changes(changes::ChangesArgs),
    Decide(decide::DecideArgs),
    ApiKey(api_key::ApiKeyArgs),
    Openapi(api_key::OpenapiArgs),
    Config(config::ConfigArgs),
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// Somebody asked for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Where the configuration comes from; read only by commands that need it.
struct Source(Option<PathBuf>);

impl Source {
    fn read(&self) -> Result<Config, ConfigError> {
        Config::from_process(self.0.clone())
    }

    /// The same for reading again: the file that was read, if any, must be there then. Without it defaults would hold.
    fn again(self, read: &Config) -> Self {
        Self(read.file.clone().or(self.0))
    }
}

/// Reads the command line and does what it says.
///
/// # Errors
/// When the command failed; [`failed`] reports it.
pub fn run() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => {
            let asked =
                matches!(wrong.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
            // A closed pipe is nobody's mistake.
            wrong.print().ok();
            return Ok(if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) });
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(dispatch(cli));
    // What still runs after a second signal is not waited for.
    runtime.shutdown_background();
    result
}

/// Reports a failed command on standard error and gives its exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    let pipe_closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if error.is::<PipeClosed>() || error.downcast_ref().is_some_and(pipe_closed) {
        return ExitCode::SUCCESS;
    }
    output::error(error);
    if error.is::<Usage>() || error.is::<ConfigError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let source = Source(cli.config);
    match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Serve(args) => serve::run(args, source).await,
        Command::Sandbox(args) => sandbox::run(*args).await,
        Command::Check(args) => check::run(args, source).await,
        Command::Sessions(args) => users::sessions(args, source).await,
        Command::Enforce(args) => users::enforce(args, source).await,
        Command::Revoke(args) => users::revoke(args, source).await,
        Command::Decisions(args) => users::decisions(args, source).await,
        Command::Users(args) => known::run(args, source).await,
        Command::Why(args) => why::run(args, source).await,
        Command::Ledger(args) => ledger::run(args, source).await,
        Command::Simulate(args) => simulate::run(args, source).await,
        Command::Policy(args) => policy::run(args, source).await,
        Command::Send(args) => send::run(args, source).await,
        Command::DeadLetters(args) => dead_letters::run(args, source).await,
        Command::Spool(args) => spool::run(args, source).await,
        Command::Mode(args) => directives::mode(args, source).await,
        Command::Canary(args) => directives::canary(args, source).await,
        Command::Override(args) => directives::override_(args, source).await,
        Command::Exempt(args) => directives::exempt(args, source).await,
        Command::Pin(args) => directives::pin(args, source).await,
        Command::Release(args) => directives::release(args, source).await,
        Command::Resume(args) => directives::resume(args, source).await,
        Command::Directives(args) => directives::directives(args, source).await,
        Command::Changes(args) => changes::run(args, source).await,
        Command::Decide(args) => decide::run(args),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Openapi(args) => api_key::openapi(&args),
        Command::Config(args) => config::run(&args, &source),
        Command::Healthcheck(args) => healthcheck::run(args, source).await,
    }
}
