//! `soloist demo`: the whole job in one process, on a temporary folder, told live and proved at the end.

mod ending;
mod faults;
mod figures;
mod screen;
mod show;
mod stage;
mod story;

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use self::ending::Ending;
use self::screen::{Ink, Screen};
use self::show::Show;
use self::stage::Stage;
use self::story::Cast;
use crate::telemetry;

/// See it work: users log in on several devices and come down to one session each
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  soloist demo\n  soloist demo --faults\n  soloist demo --users 1000 --logins 3")]
pub struct DemoArgs {
    /// How many users log in
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub users: u16,
    /// How often each of them logs in
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub logins: u16,
    /// Afterwards, show what happens while LoginRadius is slow, failing, throttling, down, or refusing the secret
    #[arg(long)]
    pub faults: bool,
    /// Keep the folder with queue, ledger and log, and print where it is
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo. Exit code 0 only if every user came down to one session and nobody to none.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::standard_output();
    let folder =
        tempfile::Builder::new().prefix("soloist-demo-").tempdir().context("cannot make a temporary folder")?;
    if args.keep {
        let log = File::create(folder.path().join("soloist.log")).context("cannot make the log file")?;
        // Where the caller has set up logs already, they go there.
        telemetry::set_up_log_file(log).ok();
    }
    let shown = tokio::select! {
        shown = perform(&args, folder.path(), &mut screen) => shown.map(Some),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and(Ok(None)),
    };
    screen.end_progress();
    if matches!(shown, Ok(None)) {
        screen.text("\nStopped before the end.").ok();
    }
    if args.keep {
        let kept = folder.keep();
        // Whoever closed the pipe does not want to know.
        screen.text(&format!("\nQueue, ledger and log are kept in {}", kept.display())).ok();
    }
    match shown {
        Ok(Some(true)) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

/// The reader went away, as `head` does: nobody is left to be told anything.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn perform(args: &DemoArgs, folder: &Path, screen: &mut Screen) -> anyhow::Result<bool> {
    let cast = Cast::new(args.users.into(), args.logins.into());
    let planned = cast.logins_in_all() + if args.faults { faults::logins(&cast) } else { 0 };
    opening(screen, &cast)?;
    let mut stage = Stage::start(folder, planned).await?;
    screen.begin_progress(u64::try_from(planned)?);
    let mut show = Show::new(&mut stage, screen, cast.told(), cast.is_told_in_full());
    show.planned = u64::try_from(planned)?;
    story::play(&mut show, &cast).await?;
    let calm_until = show.stage.sandbox.now();
    if args.faults {
        faults::play(&mut show, &cast).await?;
    }
    let an_end = show.an_end().cloned();
    screen.end_progress();
    let ending = Ending::of(&stage, &cast, calm_until).await?;
    stage.stop().await?;
    if let Some(end) = &an_end {
        ending::record(screen, end)?;
    }
    ending.table(screen, &cast)?;
    ending.totals(screen, &cast)?;
    let failures = ending.failures();
    screen.blank()?;
    if failures.is_empty() {
        let words = "Every user came down to one session. Nobody was logged out by mistake.";
        screen.line(&[(Ink::Good, words)])?;
        next(screen, args)?;
    } else {
        screen.line(&[(Ink::Bad, "This did not go as it should:")])?;
        failures.iter().try_for_each(|failure| screen.line(&[(Ink::Bad, &format!("  {failure}"))]))?;
    }
    Ok(failures.is_empty())
}

fn opening(screen: &mut Screen, cast: &Cast) -> io::Result<()> {
    screen.line(&[(Ink::Title, "Soloist keeps each account on one device")])?;
    screen.blank()?;
    let who = match cast.users.len() {
        1 => "One user logs in".to_owned(),
        users => format!("{users} users log in"),
    };
    let how_often = match (cast.logins, cast.users.len()) {
        (1, _) => "once".to_owned(),
        (logins, 1) => format!("{logins} times"),
        (logins, _) => format!("{logins} times each"),
    };
    screen.text(&format!(
        "{who} {how_often}, on several devices, against a pretend\n\
         LoginRadius (the sandbox). The whole real service runs in this process:\n\
         webhook in, made durable in a queue, sessions listed, all but the newest ended.\n\n\
         + is a login, - is a session that Soloist ended: on which device, its id,\n\
         how long after the newer login, and why.",
    ))?;
    if !cast.is_told_in_full() {
        screen.text(&format!("Of so many, only {} are shown one by one.", cast.told().join(", ")))?;
    }
    Ok(())
}

fn next(screen: &mut Screen, args: &DemoArgs) -> io::Result<()> {
    screen.blank()?;
    screen.line(&[(Ink::Title, "Try next")])?;
    if !args.faults {
        screen.text("  soloist demo --faults     the same while LoginRadius misbehaves")?;
    }
    screen.text(
        "  soloist sandbox           a pretend LoginRadius to play with\n  \
           soloist serve             the service itself\n  \
           soloist sessions UID      a user's sessions, through the running service\n  \
           soloist --help            everything else",
    )
}
