//! One run: everything that the plan wants, then quiet, then the sweep; and what was wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use soloist::model::{EventId, LoginEvent, Reason};
use soloist::queue::{DeadLetter, DeadLetters as _, Queue as _, Selection};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::brakes::{Deciding, GUARD_WINDOW, HOLD_FOR};
use super::counts::{Counts, Violation};
use super::dice::{self, Dice};
use super::mutants::Mutant;
use super::paused::wait;
use super::plan::{Act, Event, Fault, FaultKind, Plan, Standing, What};
use super::processes::{QueueProcess, live};
use super::world::{BEGIN, World, uid, user_of};

/// After the last act, fault and lag: the re-checks' ladder, and some.
const QUIET: Duration = Duration::from_secs(400);
/// A client that was kicked is back after so long, and for so long.
const RETURNS_AFTER: Duration = Duration::from_secs(2);
const GIVES_UP_AFTER: Duration = Duration::from_mins(5);
/// How long a part of the budget may be spent.
const GRANT_LIFE: Duration = Duration::from_secs(61);
/// By then everything is settled, the longest waits between attempts included.
const SETTLED_WITHIN: Duration = Duration::from_hours(20);
/// A call that began an outage may still be told by what succeeded in the minute before it.
const OUTAGE_BEGINS: Duration = Duration::from_secs(61);

pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
}

/// Runs a plan, with the real program or with one that has a fault planted.
pub(crate) fn run(plan: &Plan, mutant: Option<Mutant>) -> Outcome {
    dice::seed_workers(plan.seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let folder = tempfile::Builder::new().prefix("soloist-sim").tempdir_in(memory()).unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(plan));
        let queue = Arc::new(QueueProcess::new(folder.path(), world.clock));
        let deciding = Arc::new(Deciding::new(folder.path()));
        deciding.start(&world);
        queue.start().await;
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for worker in 0..plan.workers {
            let (queue, deciding) = (Arc::clone(&queue), Arc::clone(&deciding));
            workers.spawn(live(Arc::clone(&world), worker, queue, deciding, mutant, stop.clone()));
        }
        happen(&world, &queue, mutant).await;
        wait(QUIET).await;
        world.lock().is_quiet = true;
        settle(&world, &queue, "before the sweep").await;
        excuse_dead_letters(&world, &queue).await;
        world.judge_end(false);
        judge_brakes(&world);
        // Whoever is held for a game of ping-pong is let go first.
        wait(HOLD_FOR).await;
        if mutant != Some(Mutant::NoSweep) {
            sweep(&world, &queue).await;
        }
        settle(&world, &queue, "after the sweep").await;
        while deciding.resume(&world).await {
            judge_brakes(&world);
            world.lock().revoked.clear();
            wait(GRANT_LIFE).await;
            sweep(&world, &queue).await;
            settle(&world, &queue, "after the budget was resumed").await;
        }
        judge_brakes(&world);
        world.judge_end(true);
        judge_dead_letters(&world, &queue).await;
        judge_rate(&world);
        stop.cancel();
        workers.shutdown().await;
        queue.die().await;
        let mut state = world.lock();
        Outcome { counts: state.counts, violations: std::mem::take(&mut state.violations) }
    })
}

/// Where files cost no disk.
fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// What people, webhooks and the queue's process do, each at its time; returns when the last is done.
async fn happen(world: &Arc<World>, queue: &Arc<QueueProcess>, mutant: Option<Mutant>) {
    let mut tasks = JoinSet::new();
    for act in world.plan.acts.clone() {
        let (world, queue) = (Arc::clone(world), Arc::clone(queue));
        tasks.spawn(async move {
            sleep_until(world.at(act.at_ms)).await;
            let event = world.act(&act);
            if let (Some(event), Act { what: What::Login { event: sent, .. }, .. }) = (event, act) {
                tell(&world, &queue, event, sent, mutant).await;
            }
        });
    }
    for user in (0..world.plan.users.len()).filter(|user| world.plan.users[*user] == Standing::Stubborn) {
        let (world, queue) = (Arc::clone(world), Arc::clone(queue));
        tasks.spawn(async move { never_give_up(&world, &queue, user, mutant).await });
    }
    for (at, down) in world.plan.queue_crashes.clone() {
        let (world, queue) = (Arc::clone(world), Arc::clone(queue));
        tasks.spawn(async move {
            sleep_until(world.at(at)).await;
            world.lock().counts.crashes += 1;
            queue.die().await;
            wait(Duration::from_millis(down)).await;
            queue.start().await;
        });
    }
    let last = world.plan.faults.iter().map(|fault| fault.to_ms).max();
    tasks.join_all().await;
    sleep_until(world.at(last.unwrap_or(0))).await;
}

/// Clients that log in again whenever they are kicked.
async fn never_give_up(world: &World, queue: &QueueProcess, user: usize, mutant: Option<Mutant>) {
    let sent = Event { delay_ms: 0, copies: 1, is_lost: false };
    for _ in 0..GIVES_UP_AFTER.as_secs() / RETURNS_AFTER.as_secs() {
        wait(RETURNS_AFTER).await;
        if let Some(event) = world.login_again(user) {
            tell(world, queue, event, sent, mutant).await;
        }
    }
}

/// The webhooks of a login: late, twice, out of order, or none. LoginRadius does not try again.
async fn tell(world: &World, queue: &QueueProcess, event: LoginEvent, sent: Event, mutant: Option<Mutant>) {
    if sent.is_lost {
        return;
    }
    let mut dice = Dice::of(sent.delay_ms ^ event.at.map_or(0, |at| at.as_second().unsigned_abs()));
    for copy in 0..sent.copies {
        wait(Duration::from_millis(dice.between(0, sent.delay_ms))).await;
        let mut event = event.clone();
        if copy == 2 {
            event.id = EventId::parse(&format!("{}-again", event.id)).unwrap();
        }
        if mutant == Some(Mutant::AcceptsTooEarly) {
            world.accepted(&event);
        }
        let Some(handle) = queue.handle() else { continue };
        if handle.publish(std::slice::from_ref(&event)).await.is_ok() {
            world.accepted(&event);
        }
    }
}

/// One sweep: a look at every user whom the ledger knows.
async fn sweep(world: &World, queue: &QueueProcess) {
    let known: Vec<usize> = {
        let mut state = world.lock();
        state.sweeping_since = Some(Instant::now());
        (0..state.users.len()).filter(|user| state.users[*user].is_seen).collect()
    };
    let events = known.into_iter().map(|user| LoginEvent {
        tenant: world.tenant.clone(),
        user: uid(user),
        id: EventId::parse(&format!("sweep-{user}")).unwrap(),
        at: None,
        login_at: None,
        reason: Reason::Sweep,
        accepted_at: None,
    });
    queue.handle().unwrap().publish(&events.collect::<Vec<_>>()).await.unwrap();
}

/// No hour has more revocations than the budget; and clients that never give up are left alone in time.
fn judge_brakes(world: &World) {
    let plan = &world.plan;
    let mut state = world.lock();
    let most_within = |revoked: &[Instant], window: Duration| {
        let from =
            |first: usize| revoked[first..].iter().take_while(move |at| at.duration_since(revoked[first]) < window);
        (0..revoked.len()).map(|first| from(first).count() as u64).max().unwrap_or(0)
    };
    let all: Vec<Instant> = state.revoked.iter().map(|(at, _)| *at).collect();
    let within_hour = most_within(&all, Duration::from_hours(1));
    if let Some(budget) = plan.budget.filter(|budget| within_hour > u64::from(*budget)) {
        state.violated("P18 budget", format!("{within_hour} revocations within an hour, and the budget is {budget}"));
    }
    // Who is turned away has not been kicked by anybody who came; and what happens within one look counts once.
    let is_slow = |fault: &Fault| matches!(fault.kind, FaultKind::Timeout | FaultKind::Throttled);
    let is_quick =
        plan.habits.latency_ms <= 50 && plan.requests_per_second.is_none() && !plan.faults.iter().any(is_slow);
    let is_guarded = is_quick && plan.rules.strategy == "evict_oldest";
    let is_stubborn = |user: &usize| is_guarded && plan.users[*user] == Standing::Stubborn;
    for user in (0..plan.users.len()).filter(is_stubborn) {
        let of_user: Vec<Instant> = state.revoked.iter().filter(|(_, of)| *of == user).map(|(at, _)| *at).collect();
        let evictions = most_within(&of_user, GUARD_WINDOW);
        // Each life of a worker counts for itself.
        let most = u64::from(plan.guard_evictions) * (plan.workers as u64 + state.counts.crashes);
        if evictions > most {
            let text = format!("{evictions} evictions of user-{user} within 10 min, and {most} would be in order");
            state.violated("P19 ping-pong", text);
        }
    }
}

/// Waits until nothing is left to do; what is never settled is lost.
async fn settle(world: &World, queue: &QueueProcess, when: &str) {
    let until = Instant::now() + SETTLED_WITHIN;
    let mut pause = Duration::from_secs(1);
    loop {
        wait(pause).await;
        pause = (pause * 2).min(Duration::from_mins(5));
        let waiting = match queue.handle() {
            Some(handle) => {
                let lanes = handle.stats().await.unwrap_or_default();
                lanes.iter().map(|lane| lane.ready + lane.unsettled.unwrap_or(0) + lane.delayed.unwrap_or(0)).sum()
            }
            None => u64::MAX,
        };
        if waiting == 0 {
            return;
        }
        if Instant::now() > until {
            return world.lock().violated("P22 settled", format!("{waiting} messages are never settled {when}"));
        }
    }
}

async fn dead_letters(queue: &QueueProcess) -> Vec<DeadLetter> {
    queue.handle().unwrap().list(&Selection::All, 0, 1_000).await.unwrap()
}

/// Whose message was given up waits for the sweep. Whether it might be given up is judged for itself.
async fn excuse_dead_letters(world: &World, queue: &QueueProcess) {
    let dead = dead_letters(queue).await;
    let mut state = world.lock();
    for event in dead.iter().filter_map(|letter| letter.event.as_ref()) {
        state.users[user_of(&event.user)].excuses.push("a dead letter");
    }
}

/// A dead letter is for what can never work, and for a user whose calls fail while those of others do not.
async fn judge_dead_letters(world: &World, queue: &QueueProcess) {
    let dead = dead_letters(queue).await;
    let mut state = world.lock();
    for letter in dead {
        let died = world.began + Duration::try_from(letter.died_at.duration_since(BEGIN)).unwrap_or_default();
        // "This user is unknown" is an answer, and so is half a list.
        let is_answered = world.plan.faults.iter().any(|fault| {
            let is_near = world.at(fault.from_ms) <= died && died < world.at(fault.to_ms) + OUTAGE_BEGINS;
            matches!(fault.kind, FaultKind::UserUnknown | FaultKind::IncompleteList) && is_near
        });
        let is_out = |fault: &Fault| {
            let from = world.at(fault.from_ms) + OUTAGE_BEGINS;
            let all = fault.user.is_none() && fault.percent == 100 && fault.kind.is_outage();
            all && from <= died && died < world.at(fault.to_ms)
        };
        let may_be_refused = world.plan.faults.iter().any(|fault| fault.kind == FaultKind::Refused);
        let is_wrong = match letter.why.as_str() {
            "refused" => !may_be_refused,
            "attempts_exhausted" => !is_answered && world.plan.faults.iter().any(is_out),
            _ => true,
        };
        if is_wrong {
            state.violated("P22 no dead letters in an outage", format!("{letter:?}"));
        }
    }
}

/// No second has more calls than the rate and the bursts that it allows; every life of a worker begins with one.
fn judge_rate(world: &World) {
    let Some(rate) = world.plan.requests_per_second.map(u64::from) else { return };
    let mut state = world.lock();
    let lives = state.counts.crashes + world.plan.workers as u64 + 1;
    let most = rate + (rate / 10).max(1) * lives + lives;
    let second = Duration::from_secs(1);
    let in_a_second = |(first, at): (usize, &Instant)| {
        state.calls[first..].iter().take_while(|call| call.duration_since(*at) < second).count() as u64
    };
    let worst = state.calls.iter().enumerate().map(in_a_second).max().unwrap_or(0);
    if worst > most {
        state.violated("P20 rate", format!("{worst} calls within a second, at {rate}/s; {most} would be in order"));
    }
}
