//! The process that decides, where the plan has a budget or clients that never give up: its file outlives it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use soloist::config::{GuardAction, GuardConfig, Revocations, WrittenPolicies};
use soloist::directives::{Control, Directive, Directives as _, Granter, Purse, Stale};
use soloist::model::UserId;
use soloist::telemetry::Metrics;
use soloist::worker::Brakes;

use super::plan::{Plan, Standing};
use super::world::{World, table};

/// How long evictions of a user pause whose devices end each other.
pub(crate) const HOLD_FOR: Duration = Duration::from_mins(20);
/// In which so many evictions make a user contended.
pub(crate) const GUARD_WINDOW: Duration = Duration::from_mins(10);

pub(crate) fn guard(evictions: u32) -> GuardConfig {
    GuardConfig { evictions, window: GUARD_WINDOW, action: GuardAction::Hold, hold_for: HOLD_FOR }
}

/// What decides: nobody, where the plan needs nobody.
pub(crate) struct Deciding {
    folder: PathBuf,
    control: Mutex<Option<Arc<Control>>>,
}

impl Deciding {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), control: Mutex::default() }
    }

    pub(crate) fn start(&self, world: &World) {
        let plan = &world.plan;
        if plan.budget.is_none() && !plan.users.contains(&Standing::Stubborn) {
            return;
        }
        let tenants = BTreeMap::from([(world.tenant.clone(), None)]);
        let written = WrittenPolicies { default: table(plan), tenants, has_budget: true, ..WrittenPolicies::default() };
        let budget = plan.budget.and_then(NonZeroU32::new).map_or(Revocations::Unlimited, Revocations::AtMost);
        let control = Control::open(&self.folder, written, budget, world.clock, Metrics::new()).unwrap();
        *self.control.lock().unwrap() = Some(Arc::new(control));
    }

    pub(crate) fn die(&self) {
        *self.control.lock().unwrap() = None;
    }

    pub(crate) fn control(&self) -> Option<Arc<Control>> {
        self.control.lock().unwrap().clone()
    }

    /// The brakes of one life of a worker.
    pub(crate) fn brakes(&self, plan: &Plan) -> Brakes {
        let control = self.control();
        let granter = control.clone().filter(|_| plan.budget.is_some());
        let purse = granter.map_or_else(Purse::unlimited, |control| Purse::of(control as Arc<dyn Granter>));
        Brakes { purse: Arc::new(purse), guard: guard(plan.guard_evictions), control }
    }

    /// Lets the tenant go on if its budget was used up. A person does that, long after.
    pub(crate) async fn resume(&self, world: &World) -> bool {
        let Some(control) = self.control() else { return false };
        control.resume(&world.tenant, "ops", "it was right").await.unwrap().is_some()
    }
}

/// What holds for a user now, as the worker is told.
pub(crate) fn directive(world: &World, control: Option<&Control>, user: &UserId) -> Result<Directive, Stale> {
    match control {
        Some(control) => control.live().current(&world.tenant, user),
        None => Ok(Directive {
            policies: Arc::clone(&world.policies),
            cap: None,
            is_braked: false,
            pins: None,
            is_contended: false,
            is_current: true,
        }),
    }
}
