//! This process as one of a fleet: its heartbeats, its share of each tenant's rate, and what it asks of the control
//! process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Roles;
use crate::directives::{Heard, Questions};
use crate::queue::rabbitmq::Announcements;
use crate::worker::TenantEnforcer;
use crate::worker::fleet::{CONTROLS_PART, Fleet, HEARTBEAT_INTERVAL, Heartbeat, Instance, Roles as Sharing, Share};

pub(super) struct FleetMember {
    fleet: Mutex<Fleet>,
    enforcers: Vec<Arc<TenantEnforcer>>,
    sending: tokio::sync::Mutex<Sending>,
    has_warned: AtomicBool,
    /// What others ask of a process that decides.
    asked: Option<mpsc::Sender<Vec<u8>>>,
}

struct Sending {
    tick: tokio::time::Interval,
    /// What this process asks of the one that decides.
    questions: Option<(Arc<Heard>, Questions)>,
    next: Option<Vec<u8>>,
}

impl FleetMember {
    pub(super) fn new(
        roles: Roles,
        enforcers: Vec<Arc<TenantEnforcer>>,
        questions: Option<(Arc<Heard>, Questions)>,
        asked: Option<mpsc::Sender<Vec<u8>>>,
    ) -> Self {
        let sharing = Sharing { worker: roles.worker, control: roles.control };
        let fleet = Fleet::new(Instance(uuid::Uuid::new_v4()), sharing);
        let mut tick = tokio::time::interval(HEARTBEAT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sending = tokio::sync::Mutex::new(Sending { tick, questions, next: None });
        let has_warned = AtomicBool::new(false);
        let member = Self { fleet: Mutex::new(fleet), enforcers, sending, has_warned, asked };
        // Until the first heartbeat nobody can be counted. Operators ask all the same, also while the broker is away,
        // and there is one control process as a rule: it has the tenth that is set aside for them.
        member.give(if roles.control { Share::of(1, CONTROLS_PART) } else { Share::NONE });
        member
    }

    /// Gives every tenant's gate the share that holds now.
    fn apply(&self) {
        let share = self.fleet().share(Instant::now());
        self.give(share);
    }

    fn give(&self, share: Share) {
        for enforcer in &self.enforcers {
            enforcer.set_share(share);
        }
    }

    fn fleet(&self) -> std::sync::MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) -> Vec<u8> {
        self.apply();
        let beat = self.fleet().heartbeat(Instant::now());
        // A struct of strings and flags always serialises.
        serde_json::to_vec(&beat).unwrap_or_default()
    }
}

#[async_trait]
impl Announcements for FleetMember {
    async fn next(&self) -> Vec<u8> {
        let mut sending = self.sending.lock().await;
        let Sending { tick, questions, next } = &mut *sending;
        if let Some(next) = next.take() {
            return next;
        }
        let Some((heard, questions)) = questions else {
            tick.tick().await;
            return self.beat();
        };
        tokio::select! {
            Some(question) = questions.next() => question,
            _ = tick.tick() => {
                *next = heard.question();
                self.beat()
            }
        }
    }

    fn heard(&self, announcement: &[u8]) {
        match (serde_json::from_slice::<Heartbeat>(announcement), &self.asked) {
            (Ok(beat), _) => {
                let is_another = self.fleet().heard_another_control(&beat);
                if is_another && !self.has_warned.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        alarm = "two_controls",
                        "another process runs with --role control, too: each decides from a file of its own, and each \
                         grants the whole budget. Stop one of them"
                    );
                }
                self.fleet().heard(&beat, Instant::now());
            }
            // Whoever asks in vain asks again.
            (Err(_), Some(asked)) => drop(asked.try_send(announcement.to_vec())),
            (Err(_), None) => {}
        }
        self.apply();
    }
}
