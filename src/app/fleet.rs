//! This process as one of a fleet: its heartbeats, and its share of each tenant's rate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Roles;
use crate::queue::rabbitmq::Heartbeats;
use crate::worker::TenantEnforcer;
use crate::worker::fleet::{CONTROLS_PART, Fleet, HEARTBEAT_INTERVAL, Heartbeat, Instance, Roles as Sharing, Share};

pub(super) struct FleetMember {
    fleet: Mutex<Fleet>,
    enforcers: Vec<Arc<TenantEnforcer>>,
}

impl FleetMember {
    pub(super) fn new(roles: Roles, enforcers: Vec<Arc<TenantEnforcer>>) -> Self {
        let sharing = Sharing { worker: roles.worker, control: roles.control };
        let fleet = Fleet::new(Instance(uuid::Uuid::new_v4()), sharing);
        let member = Self { fleet: Mutex::new(fleet), enforcers };
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
}

impl Heartbeats for FleetMember {
    fn interval(&self) -> Duration {
        HEARTBEAT_INTERVAL
    }

    fn beat(&self) -> Vec<u8> {
        self.apply();
        let beat = self.fleet().heartbeat(Instant::now());
        // A struct of strings and flags always serialises.
        serde_json::to_vec(&beat).unwrap_or_default()
    }

    fn heard(&self, beat: &[u8]) {
        match serde_json::from_slice::<Heartbeat>(beat) {
            Ok(beat) => self.fleet().heard(&beat, Instant::now()),
            Err(error) => tracing::debug!("a heartbeat cannot be read: {error}"),
        }
        self.apply();
    }
}
