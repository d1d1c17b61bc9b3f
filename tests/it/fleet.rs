//! All processes of a fleet together keep to a tenant's rate, whoever comes, crashes or cannot be heard.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use soloist::worker::fleet::{Fleet, Heartbeat, Instance, MEMBER_TIMEOUT, RISE_AFTER, Roles, Share};
use tokio::time::Instant;
use uuid::Uuid;

const WORKER: Roles = Roles { worker: true, control: false };
const CONTROL: Roles = Roles { worker: false, control: true };
const BOTH: Roles = Roles { worker: true, control: true };

fn instance(n: usize) -> Instance {
    Instance(Uuid::from_u128(n as u128))
}

fn share(numerator: u32, denominator: u32) -> Share {
    Share::of(numerator, NonZeroU32::new(denominator).unwrap())
}

/// A few processes whose heartbeats arrive at once, second by second.
struct Room {
    now: Instant,
    fleets: Vec<Fleet>,
}

impl Room {
    fn of(roles: &[Roles]) -> Self {
        let fleets = roles.iter().enumerate().map(|(n, roles)| Fleet::new(instance(n), *roles)).collect();
        Self { now: Instant::now(), fleets }
    }

    /// Lets seconds pass in which these are heard by all who are there.
    fn pass(&mut self, seconds: u64, senders: &[usize]) -> Vec<Share> {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let beats: Vec<_> = senders.iter().map(|n| self.fleets[*n].heartbeat(self.now)).collect();
            for fleet in &mut self.fleets {
                for beat in &beats {
                    fleet.heard(beat, self.now);
                }
                fleet.share(self.now);
            }
        }
        self.shares()
    }

    fn shares(&mut self) -> Vec<Share> {
        self.fleets.iter_mut().map(|fleet| fleet.share(self.now)).collect()
    }
}

#[test]
fn workers_have_nine_tenths_and_control_the_last_one() {
    let mut room = Room::of(&[WORKER, WORKER, CONTROL, BOTH]);
    let shares = room.pass(6, &[0, 1, 2, 3]);
    assert_eq!(shares, [share(9, 30), share(9, 30), share(1, 20), share(7, 20)]);
    let mut alone = Room::of(&[WORKER]);
    assert_eq!(alone.pass(6, &[0]), [share(9, 10)]);
    assert_eq!(Room::of(&[BOTH]).pass(6, &[0]), [Share::WHOLE]);
}

#[test]
fn a_newcomer_has_nothing_before_it_has_listened() {
    let mut room = Room::of(&[WORKER]);
    assert_eq!(room.shares(), [Share::NONE]);
    assert_eq!(room.pass(3, &[0]), [Share::NONE]);
    assert_eq!(room.pass(1, &[0]), [share(9, 10)]);
}

#[test]
fn a_newcomer_has_nothing_before_everybody_has_made_room() {
    let mut room = Room::of(&[WORKER]);
    let deaf = |sees| Heartbeat { instance: instance(7), roles: WORKER, sees };
    for _ in 0..20 {
        room.fleets[0].heard(&deaf(vec![instance(8)]), room.now);
        assert_eq!(room.pass(1, &[0]), [Share::NONE]);
    }
    room.fleets[0].heard(&deaf(vec![instance(8), instance(0)]), room.now);
    assert_eq!(room.shares(), [share(9, 20)]);
}

#[test]
fn a_newcomer_takes_nobody_for_gone_when_it_hears_nobody_at_all() {
    let mut room = Room::of(&[WORKER]);
    for _ in 0..6 {
        room.fleets[0].heard(&Heartbeat { instance: instance(7), roles: WORKER, sees: Vec::new() }, room.now);
        room.pass(1, &[0]);
    }
    for _ in 0..60 {
        assert_eq!(room.pass(1, &[]), [Share::NONE]);
    }
}

#[test]
fn a_share_falls_at_once_and_rises_ten_seconds_after_a_member_went() {
    let mut room = Room::of(&[WORKER, WORKER]);
    assert_eq!(room.pass(6, &[0])[0], share(9, 10));
    assert_eq!(room.pass(1, &[0, 1])[0], share(9, 20));
    room.pass(6, &[0, 1]);
    let kept = (MEMBER_TIMEOUT + RISE_AFTER).as_secs() - 1;
    assert_eq!(room.pass(kept, &[0])[0], share(9, 20));
    assert_eq!(room.pass(1, &[0])[0], share(9, 10));
}

#[test]
fn a_member_is_told_to_be_seen_only_once_it_has_its_room() {
    let mut room = Room::of(&[WORKER]);
    let newcomer = Heartbeat { instance: instance(7), roles: WORKER, sees: Vec::new() };
    let fleet = &mut room.fleets[0];
    fleet.heard(&newcomer, room.now);
    assert_eq!(fleet.heartbeat(room.now).sees, []);
    fleet.share(room.now);
    assert_eq!(fleet.heartbeat(room.now).sees, [instance(7)]);
    assert_eq!(fleet.heartbeat(room.now + MEMBER_TIMEOUT).sees, []);
}

#[test]
fn who_is_cut_off_keeps_its_share_and_takes_nobodys() {
    let mut room = Room::of(&[WORKER, WORKER]);
    assert_eq!(room.pass(10, &[0, 1]), [share(9, 20), share(9, 20)]);
    assert_eq!(room.pass(600, &[]), [share(9, 20), share(9, 20)]);
    // The other one comes back too, a little later.
    assert_eq!(room.pass(10, &[0])[0], share(9, 20));
    assert_eq!(room.pass(60, &[0, 1]), [share(9, 20), share(9, 20)]);
}

#[test]
fn a_newcomer_that_cannot_be_heard_has_nothing() {
    let mut room = Room::of(&[WORKER, WORKER]);
    room.pass(10, &[0]);
    assert_eq!(room.pass(600, &[])[1], Share::NONE);
    assert_eq!(room.pass(600, &[0])[1], Share::NONE);
}

#[test]
fn a_process_of_neither_role_takes_nothing() {
    let mut room = Room::of(&[WORKER, Roles { worker: false, control: false }]);
    assert_eq!(room.pass(10, &[0, 1]), [share(9, 10), Share::NONE]);
}

#[test]
fn a_flood_of_members_ends_somewhere_and_the_rest_is_not_told_to_be_seen() {
    let mut room = Room::of(&[WORKER]);
    for n in 1..2_000 {
        room.fleets[0].heard(&Heartbeat { instance: instance(n), roles: BOTH, sees: Vec::new() }, room.now);
    }
    room.shares();
    assert_eq!(room.fleets[0].heartbeat(room.now).sees.len(), 500);
}

#[test]
fn a_heartbeat_is_written_as_others_read_it() {
    let beat = Heartbeat { instance: instance(1), roles: WORKER, sees: vec![instance(2)] };
    let (one, two) = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002");
    let written = serde_json::json!({ "instance": one, "worker": true, "control": false, "sees": [two] });
    assert_eq!(serde_json::to_value(&beat).unwrap(), written);
    let mut newer = written;
    newer["load"] = serde_json::json!(0.5);
    assert_eq!(serde_json::from_value::<Heartbeat>(newer).unwrap(), beat);
}

/// One process, in milliseconds from the start.
#[derive(Clone, Debug)]
struct Life {
    roles: Roles,
    from: u64,
    crashes: Option<u64>,
}

#[derive(Clone, Debug)]
struct Story {
    lives: Vec<Life>,
    /// The broker is away, for everybody: from when, how long.
    outage: Option<(u64, u64)>,
    /// Of one heartbeat to one process after another, as long as it has no share. Then they take three times as long.
    delays: Vec<u64>,
}

impl Story {
    /// When nothing happens any more.
    fn quiet_from(&self) -> u64 {
        let lives = self.lives.iter().flat_map(|life| [Some(life.from), life.crashes]).flatten();
        lives.chain(self.outage.map(|(from, long)| from + long)).max().unwrap_or(0)
    }
}

fn stories() -> impl Strategy<Value = Story> {
    let roles = prop_oneof![4 => Just(WORKER), 1 => Just(CONTROL), 1 => Just(BOTH)];
    let life = (roles, 0..30_000_u64, prop::option::of(0..30_000_u64));
    let life = life.prop_map(|(roles, from, long)| Life { roles, from, crashes: long.map(|long| from + long) });
    let outage = prop::option::of((0..40_000_u64, 3_000..30_000_u64));
    let delays = prop::collection::vec(0..=1_000_u64, 1..50);
    (prop::collection::vec(life, 1..8), outage, delays).prop_map(|(lives, outage, delays)| Story {
        lives,
        outage,
        delays,
    })
}

enum Event {
    Start(usize),
    Crash(usize),
    Beat(usize),
    Arrive(usize, Heartbeat),
}

/// Runs a story and looks at all shares after everything that happens.
struct Simulation {
    story: Story,
    zero: Instant,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    delayed: usize,
    alive: BTreeMap<usize, (Fleet, Share)>,
    /// When the last heartbeat from one to another arrives: none overtakes it.
    last_arrival: BTreeMap<(usize, usize), u64>,
}

impl Simulation {
    fn of(story: Story) -> Self {
        let (events, alive, last_arrival) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut new = Self { story, zero: Instant::now(), events, scheduled: 0, delayed: 0, alive, last_arrival };
        for (n, life) in new.story.lives.clone().into_iter().enumerate() {
            new.at(life.from, Event::Start(n));
            life.crashes.into_iter().for_each(|at| new.at(at, Event::Crash(n)));
        }
        new
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((ms, self.scheduled), event);
    }

    fn run_until(&mut self, end: u64, mut look: impl FnMut(&Self, u64)) {
        while let Some(((ms, _), event)) = self.events.pop_first().filter(|((ms, _), _)| *ms <= end) {
            let now = self.zero + Duration::from_millis(ms);
            match event {
                Event::Start(n) => {
                    let fleet = Fleet::new(instance(n), self.story.lives[n].roles);
                    self.alive.insert(n, (fleet, Share::NONE));
                    self.at(ms, Event::Beat(n));
                }
                Event::Crash(n) => drop(self.alive.remove(&n)),
                Event::Beat(n) => self.beat(n, ms, now),
                Event::Arrive(n, heartbeat) => {
                    if let Some((fleet, share)) = self.alive.get_mut(&n) {
                        fleet.heard(&heartbeat, now);
                        *share = fleet.share(now);
                    }
                }
            }
            look(self, ms);
        }
    }

    fn beat(&mut self, n: usize, ms: u64, now: Instant) {
        let Some((fleet, share)) = self.alive.get_mut(&n) else { return };
        *share = fleet.share(now);
        let heartbeat = fleet.heartbeat(now);
        self.at(ms + 1_000, Event::Beat(n));
        let to: Vec<_> = self.alive.iter().map(|(to, (_, share))| (*to, if share.is_none() { 1 } else { 3 })).collect();
        for (to, times) in to {
            self.delayed += 1;
            let delay = self.story.delays[self.delayed % self.story.delays.len()];
            let arrival = (ms + times * delay).max(self.last_arrival.get(&(n, to)).copied().unwrap_or(0));
            // What is on its way when the broker goes is lost, and so is what is sent while it is away.
            if !self.story.outage.is_some_and(|(from, long)| ms < from + long && arrival >= from) {
                self.last_arrival.insert((n, to), arrival);
                self.at(arrival, Event::Arrive(to, heartbeat.clone()));
            }
        }
    }

    /// The shares of those who are alive and play these roles, together.
    fn sum(&self, roles: &[Roles]) -> f64 {
        let played = self.alive.iter().filter(|(n, _)| roles.contains(&self.story.lives[**n].roles));
        played.map(|(_, (_, share))| share.as_f64()).sum()
    }

    fn is_there(&self, roles: &[Roles]) -> bool {
        self.alive.keys().any(|n| roles.contains(&self.story.lives[*n].roles))
    }
}

/// Sums of fractions are inexact.
const EXACT: f64 = 1e-9;
/// From the last event to the last rise: a crashed member is heard for three seconds more and counted for fifteen, and
/// then comes the next heartbeat.
const SETTLED_AFTER: u64 = 19_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_part_of_the_rate_is_ever_exceeded_and_all_of_it_is_used_in_the_end(story in stories()) {
        let quiet_from = story.quiet_from();
        let mut simulation = Simulation::of(story);
        let mut excess = None;
        simulation.run_until(quiet_from + SETTLED_AFTER, |now, ms| {
            let sums = [now.sum(&[WORKER]), now.sum(&[CONTROL]), now.sum(&[WORKER, CONTROL, BOTH])];
            if sums.iter().zip([0.9, 0.1, 1.0]).any(|(sum, part)| *sum > part + EXACT) {
                excess.get_or_insert((ms, sums));
            }
        });
        prop_assert_eq!(excess, None);
        let workers = if simulation.is_there(&[WORKER, BOTH]) { 0.9 } else { 0.0 };
        let controls = if simulation.is_there(&[CONTROL, BOTH]) { 0.1 } else { 0.0 };
        let sum = simulation.sum(&[WORKER, CONTROL, BOTH]);
        prop_assert!((sum - workers - controls).abs() < EXACT, "{} instead of {} and {}", sum, workers, controls);
    }
}
