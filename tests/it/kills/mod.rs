//! A 202 is a promise: it is kept through `kill -9`, at random moments and at every step of the work.

mod broker;
mod gate;
mod load;
mod table;
mod trap;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use soloist::sandbox::{Faults, Sandbox, SandboxConfig};

use self::gate::Gate;
use self::load::{Door, Load};
use self::table::{Row, report_and_judge};
use self::trap::{Step, Trap};
use crate::support::process::{Serving, command};

/// Steps of the same kind that a process may take before the one at which it dies: it is to die in the middle of it all.
const PASSES_MAX: usize = 24;
/// The longest that a process lives which dies at random.
const LIFE_MAX: Duration = Duration::from_millis(400);
/// A process that dies at random has accepted something before.
const ACCEPTED_BEFORE: usize = 8;
/// How long the work that the last kill has left may take.
const DRAIN_PATIENCE: Duration = Duration::from_mins(3);

/// Where a process is killed.
#[derive(Clone, Copy)]
enum Moment {
    Random,
    After(Step),
}

impl Moment {
    const ALL: [Self; 5] = [
        Self::Random,
        Self::After(Step::Published),
        Self::After(Step::Listed),
        Self::After(Step::Revoked),
        Self::After(Step::LookedAgain),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Random => "at random",
            Self::After(Step::Published) => "after publish, the 202 is out",
            Self::After(Step::Listed) => "after list, a revocation begins",
            Self::After(Step::Revoked) => "after revoke, before its answer",
            Self::After(Step::LookedAgain) => "before settle, all else is done",
        }
    }
}

/// An installation of which one process is killed and started again on its folder, under load.
struct Site {
    sandbox: Arc<Sandbox>,
    trap: Arc<Trap>,
    /// Before the provider of the process that dies.
    gate: Gate,
    door: Door,
    folder: PathBuf,
    variables: Vec<(String, String)>,
    /// Of the process that dies.
    role: Option<&'static str>,
}

impl Site {
    async fn new(folder: &Path, variables: Vec<(String, String)>, role: Option<&'static str>) -> Self {
        let sandbox = Arc::new(Sandbox::start(SandboxConfig::default()).await.unwrap());
        sandbox.set_faults(Faults { latency_ms: 2, jitter_ms: 5, ..Faults::default() });
        let trap = Arc::new(Trap::default());
        let gate = Gate::before(Arc::clone(&sandbox), Arc::clone(&trap)).await;
        let (door, folder) = (Door::default(), folder.to_path_buf());
        Self { sandbox, trap, gate, door, folder, variables, role }
    }

    /// The process that dies, and what takes webhooks if that is another one.
    async fn start(&self) -> Serving {
        let serving = start(&self.folder, &self.gate.url(), &self.variables, self.role).await;
        if !serving.webhook_url.is_empty() {
            self.door.send_replace(serving.webhook_url.clone());
        }
        serving
    }

    /// Kills it so often, and lets it go on after the last time. How often it was killed, in truth, is in the row.
    async fn killed(&self, moment: Moment, kills: usize) -> (Row, Load, Serving) {
        let load = Load::start(&self.sandbox, &self.trap, &self.door);
        let mut row = Row::new(moment.name());
        for _ in 0..kills {
            let serving = self.start().await;
            let takes_webhooks = !serving.webhook_url.is_empty();
            match moment {
                Moment::Random => {
                    self.trap.arm(serving, None, 0);
                    self.lives(&load).await;
                    self.trap.spring().await;
                }
                Moment::After(step) => {
                    self.trap.arm(serving, Some(step), rand::rng().random_range(0..=PASSES_MAX));
                    self.trap.sprung().await;
                }
            }
            row.kills += 1;
            if takes_webhooks {
                self.door.send_replace(String::new());
            }
        }
        let serving = self.start().await;
        (row, load, serving)
    }

    async fn lives(&self, load: &Load) {
        let target = load.accepted() + ACCEPTED_BEFORE;
        crate::support::soon("a few logins", async {
            let mut pause = tokio::time::interval(Duration::from_millis(1));
            while load.accepted() < target {
                pause.tick().await;
            }
        })
        .await;
        let mut life = tokio::time::interval(LIFE_MAX.mul_f64(rand::random::<f64>()) + Duration::from_micros(1));
        life.tick().await;
        life.tick().await;
    }

    /// Fills in what the world says, when all work is done.
    fn judge(&self, row: &mut Row, accepted: &[soloist::sandbox::LoginMade]) {
        let report = self.sandbox.report(1);
        row.accepted = accepted.len();
        row.lost = report.over_limit.len();
        row.settled = row.accepted - row.lost;
        row.wrong = report.wrong_revocations.len() + report.emptied.len();
    }
}

async fn start(folder: &Path, api_url: &str, variables: &[(String, String)], role: Option<&str>) -> Serving {
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut command = command(folder, api_url, &variables);
    if let Some(role) = role {
        command.args(["--role", role]);
    }
    Serving::start(command, folder).await
}

/// How often a process is killed at each moment: seldom, unless the long form was asked for.
fn kills(short: usize, long: usize) -> usize {
    if std::env::var_os("SOLOIST_TEST_LONG").is_some() { long } else { short }
}

/// Waits until the queue holds nothing; how many dead letters there are.
async fn drained(serving: &Serving) -> usize {
    let drained = tokio::time::timeout(DRAIN_PATIENCE, async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while serving.queued().await.0 > 0 {
            pause.tick().await;
        }
    });
    assert!(drained.await.is_ok(), "after {DRAIN_PATIENCE:?} there wait {:?}", serving.queued().await);
    usize::try_from(serving.queued().await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_is_settled_though_the_service_is_killed_at_every_step() {
    let mut rows = Vec::new();
    for moment in Moment::ALL {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::new(folder.path(), Vec::new(), None).await;
        let (mut row, load, serving) = site.killed(moment, kills(2, 20)).await;
        let accepted = load.end().await;
        row.dead = drained(&serving).await;
        site.judge(&mut row, &accepted);
        rows.push(row);
        assert_eq!(serving.stop().await.0, 0);
    }
    report_and_judge("kill -9 of `soloist serve`, embedded queue", &rows);
}
