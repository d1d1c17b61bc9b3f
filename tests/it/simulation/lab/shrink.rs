//! The smallest plan that still fails in the same way: things are left out, one group after the other, as long as the
//! same property does not hold.

use super::mutants::Mutant;
use super::plan::{Plan, What};
use super::run::run;

/// Runs that a plan is worth.
const RUNS_MAX: usize = 200;

pub(crate) fn shrunk(plan: &Plan, property: &str, mutant: Option<Mutant>) -> Plan {
    let mut shrinking = Shrinking { plan: plan.clone(), property, mutant, runs: 0 };
    loop {
        let before = shrinking.runs;
        let was = shrinking.plan.to_string();
        shrinking.leave_out(|plan| &mut plan.acts);
        shrinking.leave_out(|plan| &mut plan.crashes);
        shrinking.leave_out(|plan| &mut plan.faults);
        shrinking.leave_out(|plan| &mut plan.queue_crashes);
        shrinking.simplify();
        if shrinking.plan.to_string() == was || shrinking.runs == before || shrinking.runs >= RUNS_MAX {
            return shrinking.plan;
        }
    }
}

struct Shrinking<'a> {
    plan: Plan,
    property: &'a str,
    mutant: Option<Mutant>,
    runs: usize,
}

impl Shrinking<'_> {
    /// Keeps the smaller plan if it fails, too.
    fn accepts(&mut self, smaller: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let fails = run(&smaller, self.mutant).violations.iter().any(|violation| violation.property == self.property);
        if fails {
            self.plan = smaller;
        }
        fails
    }

    /// Leaves out halves, quarters, and so on down to single ones.
    fn leave_out<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let mut size = list(&mut self.plan).len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < list(&mut self.plan).len() {
                let mut smaller = self.plan.clone();
                let all = list(&mut smaller);
                all.drain(from..(from + size).min(all.len()));
                if !self.accepts(smaller) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    fn simplify(&mut self) {
        let simpler: [fn(&mut Plan); 12] = [
            |plan| plan.workers = 1,
            |plan| plan.requests_per_second = None,
            |plan| plan.clock_off_hours = 0,
            |plan| plan.habits.latency_ms = 1,
            |plan| plan.habits.ghosts_ms = 0,
            |plan| plan.habits.revoked_listed_ms = 0,
            |plan| plan.habits.refreshes_at_revoke = 0,
            |plan| plan.rules.bucketed = false,
            |plan| plan.rules.by_device = false,
            |plan| plan.rules.session_lifetime = "30d",
            |plan| {
                // Users are numbered: only the last ones can go.
                let used = plan.acts.iter().map(|act| act.user + 1).max().unwrap_or(1);
                plan.users.truncate(used);
                plan.faults.retain(|fault| fault.user.is_none_or(|user| user < used));
            },
            |plan| plan.is_one_process = false,
        ];
        for change in simpler {
            self.change(change);
        }
        for place in 0..self.plan.acts.len() {
            self.change(|plan| {
                if let What::Login { lag_ms, .. } = &mut plan.acts[place].what {
                    *lag_ms = 0;
                }
            });
            self.change(|plan| {
                if let What::Login { event, .. } = &mut plan.acts[place].what {
                    (event.copies, event.delay_ms) = (1, 0);
                }
            });
        }
    }

    fn change(&mut self, change: impl Fn(&mut Plan)) {
        let mut simpler = self.plan.clone();
        change(&mut simpler);
        if simpler.to_string() != self.plan.to_string() {
            self.accepts(simpler);
        }
    }
}
