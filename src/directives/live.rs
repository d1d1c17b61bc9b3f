//! What holds now: the written policies with everything laid over them that was decided at run time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::entry::{BadEntry, Entry, What};
use super::{Directive, Directives, Stale};
use crate::clock::Clock;
use crate::config::WrittenPolicies;
use crate::model::{SessionId, TenantId, UserId};
use crate::policy::{Mode, TenantPolicies, written};

/// Directives of all tenants, replaced as a whole or entry by entry. A step that has begun goes on with what it has.
pub struct LiveDirectives {
    state: RwLock<State>,
    clock: Clock,
}

struct State {
    written: WrittenPolicies,
    entries: BTreeMap<String, Entry>,
    tenants: HashMap<TenantId, Compiled>,
    freshness: Freshness,
}

/// Whether what we hold is what holds.
#[derive(Clone, Copy)]
enum Freshness {
    /// The entries are decided here.
    Own,
    /// They are decided elsewhere, and were heard last at that moment, if ever.
    Heard { at: Option<Instant>, max_age: Duration },
}

/// What holds for one tenant until something changes or expires.
struct Compiled {
    policies: Arc<TenantPolicies>,
    cap: Option<Mode>,
    is_braked: bool,
    pins: HashMap<UserId, Arc<HashSet<SessionId>>>,
    contended: HashSet<UserId>,
    until: Option<Timestamp>,
    /// What was decided does not go with what is written here: nobody is to be ended by a guess.
    is_broken: bool,
}

impl LiveDirectives {
    /// Directives that are decided in this process.
    ///
    /// # Errors
    /// When the written policies cannot be read; none for a configuration that was loaded.
    pub fn own(written: WrittenPolicies, entries: Vec<Entry>, clock: Clock) -> Result<Self, BadEntry> {
        Self::new(written, entries, clock, Freshness::Own)
    }

    /// Directives that are decided elsewhere. Until they are heard, or for longer than `max_age` without, they are stale.
    ///
    /// # Errors
    /// As for [`LiveDirectives::own`].
    pub fn heard(written: WrittenPolicies, max_age: Duration, clock: Clock) -> Result<Self, BadEntry> {
        Self::new(written, Vec::new(), clock, Freshness::Heard { at: None, max_age })
    }

    fn new(
        written: WrittenPolicies,
        entries: Vec<Entry>,
        clock: Clock,
        freshness: Freshness,
    ) -> Result<Self, BadEntry> {
        let entries = by_key(entries);
        let mut state = State { written, entries: BTreeMap::new(), tenants: HashMap::new(), freshness };
        state.compile_all(clock.now())?;
        state.entries = entries;
        state.compile_or_break_all(clock.now());
        Ok(Self { state: RwLock::new(state), clock })
    }

    /// From now on these policies are what is written; a tenant that is not among them keeps its own.
    ///
    /// # Errors
    /// When what was decided does not go with them. Then nothing has changed.
    pub fn rewrite(&self, written: WrittenPolicies) -> Result<(), BadEntry> {
        let mut state = self.write();
        // One that is gone from the configuration stays as it is, with the default it was laid over.
        let mut written = written;
        let default = state.written.default.clone();
        for (tenant, own) in &state.written.tenants {
            if !written.tenants.contains_key(tenant) {
                written.tenants.insert(tenant.clone(), own.clone());
                written.defaults.entry(tenant.clone()).or_insert_with(|| default.clone());
            }
        }
        // The budget itself is not read again, so neither is whether there is one.
        written.has_budget = state.written.has_budget;
        let kept = std::mem::take(&mut state.written.defaults);
        for (tenant, default) in &kept {
            if written.defaults.contains_key(tenant) {
                written.defaults.insert(tenant.clone(), default.clone());
            }
        }
        let before = std::mem::replace(&mut state.written, written);
        let compiled = state.compile_all(self.clock.now());
        if compiled.is_err() {
            state.written = WrittenPolicies { defaults: kept, ..before };
        }
        compiled
    }

    /// Whether an entry could be put in force.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, entry: &Entry) -> Result<(), BadEntry> {
        let state = self.read();
        let mut entries = state.entries.clone();
        entries.insert(entry.key(), entry.clone());
        if !state.written.tenants.contains_key(&entry.tenant) {
            return Err(BadEntry(format!("there is no tenant `{}`", entry.tenant)));
        }
        compile(&state.written, &entry.tenant, &entries, self.clock.now()).map(drop)
    }

    /// Puts an entry in force that was checked, in the place of the one before it. Where it does not go with what is
    /// written any more, nobody of the tenant is ended.
    pub fn put(&self, entry: Entry) {
        let mut state = self.write();
        let tenant = entry.tenant.clone();
        state.entries.insert(entry.key(), entry);
        state.compile_or_break(&tenant, self.clock.now());
    }

    /// Takes an entry out of force; `None` where there was none of that name.
    pub fn remove(&self, key: &str) -> Option<Entry> {
        let mut state = self.write();
        let removed = state.entries.remove(key)?;
        state.compile_or_break(&removed.tenant, self.clock.now());
        Some(removed)
    }

    /// Takes over everything that is decided elsewhere, as of `age` ago.
    pub fn replace(&self, entries: Vec<Entry>, age: Duration) {
        let mut state = self.write();
        if let Freshness::Heard { at, .. } = &mut state.freshness {
            *at = Instant::now().checked_sub(age);
        }
        let entries = by_key(entries);
        if entries != state.entries {
            state.entries = entries;
            state.compile_or_break_all(self.clock.now());
        }
    }

    /// All entries, also those that have expired but were not removed yet.
    pub fn entries(&self) -> Vec<Entry> {
        self.read().entries.values().cloned().collect()
    }

    pub fn entry(&self, key: &str) -> Option<Entry> {
        self.read().entries.get(key).cloned()
    }

    /// Mode and canary, in percent, of a tenant's policy as they hold now.
    pub fn base(&self, tenant: &TenantId) -> Option<(Mode, f64)> {
        self.refresh(tenant, self.clock.now());
        let state = self.read();
        let policy = &state.tenants.get(tenant)?.policies.base().policy;
        Some((policy.mode, policy.canary.percent()))
    }

    /// Those that have expired and were not removed yet.
    pub fn expired(&self, now: Timestamp) -> Vec<Entry> {
        self.read().entries.values().filter(|entry| !entry.holds(now)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn tenants(&self) -> Vec<TenantId> {
        self.read().written.tenants.keys().cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles a tenant anew whose next entry has expired.
    fn refresh(&self, tenant: &TenantId, now: Timestamp) {
        let has_expired = |state: &State| {
            state.tenants.get(tenant).and_then(|compiled| compiled.until).is_some_and(|until| until <= now)
        };
        if !has_expired(&self.read()) {
            return;
        }
        let mut state = self.write();
        // Others may have seen it, too.
        if has_expired(&state) {
            state.compile_or_break(tenant, now);
        }
    }
}

impl Directives for LiveDirectives {
    fn current(&self, tenant: &TenantId, user: &UserId) -> Result<Directive, Stale> {
        self.refresh(tenant, self.clock.now());
        let state = self.read();
        let compiled = state.tenants.get(tenant).ok_or(Stale)?;
        Ok(Directive {
            policies: Arc::clone(&compiled.policies),
            cap: compiled.cap,
            is_braked: compiled.is_braked,
            pins: compiled.pins.get(user).cloned(),
            is_contended: compiled.contended.contains(user),
            is_current: state.freshness.is_fresh() && !compiled.is_broken,
        })
    }
}

impl Freshness {
    fn is_fresh(self) -> bool {
        match self {
            Self::Own => true,
            Self::Heard { at, max_age } => at.is_some_and(|at| at.elapsed() < max_age),
        }
    }
}

impl State {
    fn compile_all(&mut self, now: Timestamp) -> Result<(), BadEntry> {
        let tenants: Result<HashMap<_, _>, _> = self
            .written
            .tenants
            .keys()
            .map(|tenant| Ok((tenant.clone(), compile(&self.written, tenant, &self.entries, now)?)))
            .collect();
        self.tenants = tenants?;
        Ok(())
    }

    fn compile_or_break_all(&mut self, now: Timestamp) {
        let tenants: Vec<TenantId> = self.written.tenants.keys().cloned().collect();
        for tenant in tenants {
            self.compile_or_break(&tenant, now);
        }
    }

    /// A tenant whose entries do not go with what is written keeps what it has, and ends nobody.
    fn compile_or_break(&mut self, tenant: &TenantId, now: Timestamp) {
        if !self.written.tenants.contains_key(tenant) {
            return;
        }
        match compile(&self.written, tenant, &self.entries, now) {
            Ok(compiled) => drop(self.tenants.insert(tenant.clone(), compiled)),
            Err(bad) => {
                if let Some(kept) = self.tenants.get_mut(tenant) {
                    kept.is_broken = true;
                    kept.until = None;
                }
                tracing::error!(
                    alarm = "directives_broken",
                    tenant = %tenant,
                    "what was decided at run time does not go with the configuration of tenant `{tenant}`, so nobody is \
                     ended: {bad}"
                );
            }
        }
    }
}

fn by_key(entries: Vec<Entry>) -> BTreeMap<String, Entry> {
    entries.into_iter().map(|entry| (entry.key(), entry)).collect()
}

fn compile(
    written: &WrittenPolicies,
    tenant: &TenantId,
    entries: &BTreeMap<String, Entry>,
    now: Timestamp,
) -> Result<Compiled, BadEntry> {
    let of_tenant = || entries.values().filter(|entry| entry.tenant == *tenant && entry.holds(now));
    let mut compiled = Compiled {
        policies: Arc::new(policies(written, tenant, of_tenant())?),
        cap: None,
        is_braked: false,
        pins: HashMap::new(),
        contended: HashSet::new(),
        until: of_tenant().filter_map(|entry| entry.expires).min(),
        is_broken: false,
    };
    let mut pins: HashMap<UserId, HashSet<SessionId>> = HashMap::new();
    for entry in of_tenant() {
        match &entry.what {
            What::Mode(mode) => compiled.cap = Some(*mode),
            What::Brake => compiled.is_braked = true,
            What::Pin { user, session } => {
                pins.entry(user.clone()).or_default().insert(*session);
            }
            What::Contended { user } => {
                compiled.contended.insert(user.clone());
            }
            What::Canary(_) | What::Override { .. } | What::Exemption { .. } => {}
        }
    }
    compiled.pins = pins.into_iter().map(|(user, sessions)| (user, Arc::new(sessions))).collect();
    Ok(compiled)
}

/// The written tables with the entries written into them, so that both are read by the same rules.
fn policies<'a>(
    written: &WrittenPolicies,
    tenant: &TenantId,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<TenantPolicies, BadEntry> {
    let mut default = written.defaults.get(tenant).unwrap_or(&written.default).clone();
    let mut own = written.tenants.get(tenant).cloned().flatten();
    let (mut overrides, mut exemptions) = (Vec::new(), Vec::new());
    let mut keys = Vec::new();
    for entry in entries {
        match &entry.what {
            What::Mode(mode) => keys.push(("mode", Value::from(mode.as_str()))),
            What::Canary(percent) => keys.push(("canary_percent", percent.clone())),
            What::Override { user, policy } => {
                let mut table = policy.clone();
                table.insert("uid".to_owned(), user.as_str().into());
                overrides.push(Value::Object(table));
            }
            What::Exemption { who } => {
                let mut table = who.clone();
                let signed = [("reason", &entry.reason), ("owner", &entry.owner)];
                table.extend(signed.map(|(key, text)| (key.to_owned(), json!(text))));
                table.insert("expires".to_owned(), json!(entry.expires.unwrap_or(Timestamp::MAX).to_string()));
                exemptions.push(Value::Object(table));
            }
            What::Pin { .. } | What::Contended { .. } | What::Brake => {}
        }
    }
    let list = |name: &str| {
        let written = own.as_ref().and_then(|own| own.get(name)).or_else(|| default.get(name));
        written.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let is_replaced = |written: &Value| overrides.iter().any(|entry| entry.get("uid") == written.get("uid"));
    if !overrides.is_empty() {
        let others = list("overrides").into_iter().filter(|written| !is_replaced(written));
        keys.push(("overrides", others.chain(overrides.iter().cloned()).collect()));
    }
    if !exemptions.is_empty() {
        let others = list("exemptions");
        keys.push(("exemptions", exemptions.into_iter().chain(others).collect()));
    }
    let table = own.as_mut().unwrap_or(&mut default);
    if table.is_null() {
        *table = json!({});
    }
    if let Some(table) = table.as_object_mut() {
        table.extend(keys.into_iter().map(|(key, value)| (key.to_owned(), value)));
    }
    let own = own.as_ref().map(|own| (tenant, own, "policy"));
    let policies = written::tenant_policies(&default, "policy", own)
        .map_err(|mistakes| BadEntry(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    if !written.has_budget && policies.all().any(|policy| policy.policy.locks_people_out()) {
        return Err(BadEntry("enforcing reject_newest needs budget.revocations to be a number".to_owned()));
    }
    Ok(policies)
}
