//! What the session API takes: a verdict from memory against a handler that answers a constant, what a checkpoint adds to
//! the provider's own time, the memory of 10,000 open streams, and how soon all tabs of an ended session hear of it.
//! `cargo bench --bench api -- verdicts checkpoints streams` measures those parts of it that are named.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use soloist::http::connections_that_fit;
use soloist::sandbox::{Faults, Sandbox, SandboxConfig};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use support::decisions::{self, DECISIONS, LAST};
use support::disk::Fsyncs;
use support::enforcement::LATENCY;
use support::load::{self, Run, Side};
use support::tabs::{TABS_A_SESSION, Tabs};
use support::verdicts::{Questions, request};
use support::wire::Wire;
use support::{Goal, RUNS, Spread, quantile, session_api, verdict};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is measured; all of it where no part is named.
const PARTS: [&str; 3] = ["verdicts", "checkpoints", "streams"];

const CONNECTIONS: usize = 64;
/// Verdicts of a run that asks as fast as it is answered, and of one at half that load.
const VERDICTS: usize = 60_000;
const VERDICTS_AT_HALF_LOAD: usize = 30_000;
/// Decisions whose ends are in memory: the last ones, each with two, up to the million that there is room for.
const IN_MEMORY: i64 = 500_000;
/// How long a start may take until they all are.
const TAKE_IN_MAX: Duration = Duration::from_mins(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// No service listens there: a verdict asks no provider.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Callers that ask at the same time, each for another user, and how often each asks in a run.
const LANES: usize = 8;
const ASKED_A_LANE: usize = 75;
/// They pause for up to so long before each question: callers are not in step with each other.
const PAUSE_MAX: Duration = Duration::from_millis(50);

const STREAMS: usize = 10_000;
/// Longer than an open stream is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(17);
/// Sessions that are ended in a run.
const EVICTIONS: usize = 20;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.as_slice() {
        [_, "serve", folder, api_url] => runtime.block_on(session_api::serve(folder, api_url)),
        [_, "bare", answer] => runtime.block_on(session_api::bare(answer)),
        [_, parts @ ..] if support::is_wanted() => {
            if let Some(unknown) = parts.iter().find(|part| !part.starts_with('-') && !PARTS.contains(part)) {
                anyhow::bail!("there is no part {unknown}: name {}", PARTS.join(", "));
            }
            let is_asked = |part| !PARTS.iter().any(|part| parts.contains(part)) || parts.contains(&part);
            if is_asked("verdicts") {
                verdicts()?;
            }
            if is_asked("checkpoints") {
                runtime.block_on(checkpoints())?;
            }
            if is_asked("streams") {
                runtime.block_on(tabs())?;
            }
            Ok(())
        }
        _ => {
            println!("api: measures nothing here, run `cargo bench --bench api`");
            Ok(())
        }
    }
}

fn path(folder: &TempDir) -> anyhow::Result<&str> {
    folder.path().to_str().context("the folder's name is not text")
}

/// One thread asks, so that the service has the rest of the machine.
#[tokio::main(flavor = "current_thread")]
async fn verdicts() -> anyhow::Result<()> {
    let folder = support::scratch()?;
    let from = Instant::now();
    decisions::fill(folder.path()).await?;
    let filled = from.elapsed();
    let from = Instant::now();
    let mut ours = Side::start(&["serve", path(&folder)?, NOWHERE])?;
    let opened = from.elapsed();
    let answer = known_ends(ours.addr).await?;
    let taken_in = from.elapsed();
    let memory_mib: f64 = ours.service.ask("memory")?.parse()?;
    let mut sides = [ours, Side::start(&["bare", &answer])?];
    let all = Questions::new(questions(VERDICTS), CONNECTIONS);
    let half = Questions::new(questions(VERDICTS_AT_HALF_LOAD), CONNECTIONS);
    for side in &sides {
        all.at_once(side).await?;
    }
    let mut at_half: [Vec<Run>; 2] = Default::default();
    for _ in 0..RUNS {
        for side in &mut sides {
            let run = all.at_once(side).await?;
            side.runs.push(run);
        }
        let [ours, _] = &sides;
        let rate = ours.runs.last().context("no run")?.per_second / 2.0;
        for (side, runs) in sides.iter().zip(&mut at_half) {
            runs.push(half.at_rate(side, rate).await?);
        }
    }
    println!(
        "\napi, verdicts: a ledger of {DECISIONS} decisions, filled in {:.0} s, opened in {:.1} s, and the ends of the last \
         {IN_MEMORY} of them\nin memory after {:.0} s ({memory_mib:.0} MiB in all); {CONNECTIONS} connections, every question \
         about another end, {VERDICTS} a run,\n{RUNS} runs in turn; median (min–max). `constant` checks key, limit and \
         body, and has no index. At half load the\nquestions come at an even pace.\n",
        filled.as_secs_f64(),
        opened.as_secs_f64(),
        taken_in.as_secs_f64(),
    );
    load::print_table(["verdict", "constant"], &sides);
    let at_half = at_half.map(|runs| of_runs(&runs, |run| run.p99_ms));
    let [p99, bare_p99] = &at_half;
    let [ours, bare] = [p99, bare_p99].map(|p99| Spread::of(p99).to_string());
    println!("{:<28}{ours:>26}{bare:>26}\n", "p99 at half load, ms");
    let ratio = Spread::of_ratios(&sides[0].rates(), &sides[1].rates());
    println!("{}", verdict("verdicts over constants, a second", "", ratio, Goal::AtLeast(0.8)));
    println!("{}", verdict("a verdict at half load, p99", " ms", Spread::of(p99), Goal::AtMost(2.0)));
    for side in sides {
        side.service.end()?;
    }
    Ok(())
}

fn of_runs(runs: &[Run], value: fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(value).collect()
}

/// Questions about ended sessions, scattered over all that are in memory.
fn questions(count: usize) -> Vec<Vec<u8>> {
    let numbers = (0..IN_MEMORY).cycle().map(|n| LAST - n * 7_919 % IN_MEMORY);
    let ended = numbers.flat_map(decisions::ended);
    ended.take(count).map(|session| request("/v1/verdict", &json!({ "session": session }))).collect()
}

/// An answer, once the last and the first of them are in memory.
async fn known_ends(addr: SocketAddr) -> anyhow::Result<String> {
    let mut wire = Wire::open(addr).await?;
    let until = Instant::now() + TAKE_IN_MAX;
    let mut answer = String::new();
    for session in [LAST, LAST - IN_MEMORY + 1].into_iter().flat_map(decisions::ended) {
        let question = request("/v1/verdict", &json!({ "session": session }));
        answer = String::from_utf8(wire.ask(&question, "200").await?.to_vec())?;
        while !answer.contains("\"evicted\"") {
            anyhow::ensure!(Instant::now() < until, "an end is not in memory: {answer}");
            sleep(LOOK_EVERY).await;
            answer = String::from_utf8(wire.ask(&question, "200").await?.to_vec())?;
        }
    }
    Ok(answer)
}

/// A sandbox whose calls take their time, and the service on an empty folder.
async fn with_provider(folder: &TempDir) -> anyhow::Result<(Arc<Sandbox>, Side)> {
    let latency_ms = u64::try_from(LATENCY.as_millis())?;
    let faults = Faults { latency_ms, ..Faults::default() };
    let sandbox = Sandbox::start(SandboxConfig { faults, ..SandboxConfig::default() }).await?;
    let service = Side::start(&["serve", path(folder)?, &sandbox.url()])?;
    sandbox.set_webhook_url(Some(&format!("http://{}/webhooks/loginradius", service.addr)))?;
    Ok((Arc::new(sandbox), service))
}

/// Milliseconds of each run: of what was asked, and of the provider's listing alone.
#[derive(Default)]
struct Series {
    checkpoint: Vec<f64>,
    listing: Vec<f64>,
}

impl Series {
    fn push(&mut self, checkpoint_ms: &[f64], listing_ms: &[f64], share: f64) {
        self.checkpoint.push(quantile(checkpoint_ms, share));
        self.listing.push(quantile(listing_ms, share));
    }

    fn added(&self) -> Spread {
        let added: Vec<f64> = self.checkpoint.iter().zip(&self.listing).map(|(ours, listing)| ours - listing).collect();
        Spread::of(&added)
    }
}

/// Checkpoints of users who have so many sessions.
struct Kind {
    name: &'static str,
    sessions: usize,
    p50: Series,
    p99: Series,
}

impl Kind {
    fn new(name: &'static str, sessions: usize) -> Self {
        Self { name, sessions, p50: Series::default(), p99: Series::default() }
    }

    async fn measure(&mut self, sandbox: &Sandbox, service: SocketAddr, run: usize) -> anyhow::Result<()> {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let users: Vec<String> = (0..ASKED_A_LANE).map(|n| format!("{run}-{}-{lane}-{n}", self.sessions)).collect();
            for user in &users {
                for device in ["phone", "laptop"].into_iter().take(self.sessions) {
                    sandbox.login_in_silence(user, Some(device))?;
                }
            }
            lanes.spawn(ask_and_list(service, sandbox.addr(), users));
        }
        let (mut checkpoint_ms, mut listing_ms) = (Vec::new(), Vec::new());
        while let Some(lane) = lanes.join_next().await {
            let (asked, listed) = lane??;
            checkpoint_ms.extend(asked);
            listing_ms.extend(listed);
        }
        // The first run opens connections and fills caches.
        if run > 0 {
            for all in [&mut checkpoint_ms, &mut listing_ms] {
                all.sort_by(f64::total_cmp);
            }
            self.p50.push(&checkpoint_ms, &listing_ms, 0.5);
            self.p99.push(&checkpoint_ms, &listing_ms, 0.99);
        }
        Ok(())
    }
}

/// Milliseconds of a checkpoint for each of these users, and of their listing.
async fn ask_and_list(
    service: SocketAddr,
    provider: SocketAddr,
    users: Vec<String>,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut service, mut provider) = (Wire::open(service).await?, Wire::open(provider).await?);
    let (mut asked, mut listed) = (Vec::new(), Vec::new());
    for user in users {
        sleep(PAUSE_MAX.mul_f64(rand::random())).await;
        let checkpoint = request("/v1/checkpoint", &json!({ "uid": user }));
        let from = Instant::now();
        service.ask(&checkpoint, "200").await?;
        asked.push(from.elapsed().as_secs_f64() * 1_000.0);
        let list = format!(
            "GET /api/v2/access_token/activesession?accountid={user} HTTP/1.1\r\nHost: provider\r\n\
             X-LoginRadius-ApiKey: sandbox-key\r\nX-LoginRadius-ApiSecret: sandbox-secret\r\n\r\n"
        );
        let from = Instant::now();
        provider.ask(list.as_bytes(), "200").await?;
        listed.push(from.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok((asked, listed))
}

async fn checkpoints() -> anyhow::Result<()> {
    let folder = support::scratch()?;
    let (sandbox, service) = with_provider(&folder).await?;
    let mut kinds = [Kind::new("within the limit", 1), Kind::new("that displaces", 2)];
    let mut fsyncs = Fsyncs::default();
    for run in 0..=RUNS {
        for kind in &mut kinds {
            kind.measure(&sandbox, service.addr, run).await?;
        }
        fsyncs.probe(folder.path())?;
    }
    println!(
        "\napi, checkpoints: {} ms a provider call, {LANES} callers that ask and list in turn, with pauses at random, {} of \
         each a\nrun, {RUNS} runs; median (min–max). `listing` is the provider's call alone, by the same client. One that \
         displaces is\nanswered once the look that follows is durable.\n",
        LATENCY.as_millis(),
        LANES * ASKED_A_LANE,
    );
    println!("{:<28}{:>22}{:>22}{:>22}", "ms", "checkpoint", "listing", "added");
    for kind in &kinds {
        for (share, series) in [("p50", &kind.p50), ("p99", &kind.p99)] {
            let spreads = [Spread::of(&series.checkpoint), Spread::of(&series.listing), series.added()];
            let [ours, listing, added] = spreads.map(|spread| spread.to_string());
            println!("{:<28}{ours:>22}{listing:>22}{added:>22}", format!("{}, {share}", kind.name));
        }
    }
    println!("{}\n", fsyncs.report());
    for kind in &kinds {
        let what = format!("a checkpoint {} adds to the provider's p99", kind.name);
        println!("{}", verdict(&what, " ms", kind.p99.added(), Goal::AtMost(2.0)));
    }
    service.service.end()
}

/// What the runs with open streams showed.
#[derive(Default)]
struct Streams {
    opened_s: Vec<f64>,
    before_mib: Vec<f64>,
    more_mib: Vec<f64>,
    p50_ms: Vec<f64>,
    max_ms: Vec<f64>,
    from_login_ms: Vec<f64>,
}

impl Streams {
    /// A new service, so that nothing it took before hides what the streams take.
    async fn measure(&mut self) -> anyhow::Result<()> {
        let folder = support::scratch()?;
        let (sandbox, mut service) = with_provider(&folder).await?;
        let mut tokens = Vec::new();
        for number in 0..STREAMS / TABS_A_SESSION {
            tokens.push(sandbox.login_in_silence(&user(number), Some("phone"))?.access_token);
        }
        let mut memory_mib = || anyhow::Ok(service.service.ask("memory")?.parse::<f64>()?);
        let before = memory_mib()?;
        let from = Instant::now();
        let mut tabs = Tabs::open(service.addr, &tokens, &sandbox).await?;
        self.opened_s.push(from.elapsed().as_secs_f64());
        sleep(KEEP_ALIVE).await;
        anyhow::ensure!(tabs.count() == STREAMS, "only {} streams are open", tabs.count());
        self.before_mib.push(before);
        self.more_mib.push(memory_mib()? - before);
        let (mut took_ms, mut from_login_ms) = (Vec::new(), Vec::new());
        for number in (0..tokens.len()).step_by(tokens.len() / EVICTIONS).take(EVICTIONS) {
            let login_at = sandbox.login(&user(number), Some("laptop"))?.login_at;
            let heard_at = tabs.last_of(number).await?;
            let ended_at = sandbox.sessions_ever(&user(number)).iter().find_map(|session| session.ended_at);
            let ms_since = |from| heard_at.duration_since(from).as_secs_f64() * 1_000.0;
            took_ms.push(ms_since(ended_at.context("no session was ended")?));
            from_login_ms.push(ms_since(login_at));
        }
        let (took, from_login) = (Spread::of(&took_ms), Spread::of(&from_login_ms));
        self.p50_ms.push(took.median);
        self.max_ms.push(took.max);
        self.from_login_ms.push(from_login.max);
        service.service.end()
    }
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

async fn tabs() -> anyhow::Result<()> {
    anyhow::ensure!(
        connections_that_fit(STREAMS) == STREAMS,
        "the limit of open files leaves no room for {STREAMS} streams: raise it (ulimit -n)"
    );
    let mut streams = Streams::default();
    for _ in 0..RUNS {
        streams.measure().await?;
    }
    println!(
        "\napi, streams: {STREAMS} tabs of {} sessions, {EVICTIONS} of which are ended by a new login, {} ms a provider \
         call, {RUNS}\nruns, each with a new service; median (min–max)\n\n\
         {:<52}{}\n{:<52}{}\n{:<52}{}\n{:<52}{}\n",
        STREAMS / TABS_A_SESSION,
        LATENCY.as_millis(),
        "to open them, s",
        Spread::of(&streams.opened_s),
        "memory of the service before, MiB",
        Spread::of(&streams.before_mib),
        "revoked → heard by the last tab, p50, ms",
        Spread::of(&streams.p50_ms),
        "login → heard by the last tab of the other, max, ms",
        Spread::of(&streams.from_login_ms),
    );
    let what = format!("memory for {STREAMS} streams");
    println!("{}", verdict(&what, " MiB", Spread::of(&streams.more_mib), Goal::AtMost(200.0)));
    let max = Spread::of(&streams.max_ms);
    println!("{}", verdict("revoked → heard by the last tab, max", " ms", max, Goal::AtMost(1_000.0)));
    Ok(())
}
