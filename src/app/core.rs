//! Everything that touches data, without listeners: queue, ledger, directives, one worker a tenant.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::bulletin::{self, Bulletin, Ear};
use super::deciding::{self, Deciding};
use super::fleet::FleetMember;
use super::keeper::Keeper;
use super::records::{BrokerCourier, LedgerRecords, Watch};
use super::{Roles, loginradius};
use crate::api::admin::{self, Admin};
use crate::api::{self, Hosts, v1};
use crate::clock::Clock;
use crate::config::{Backend, Config};
use crate::ledger::{
    Endings, KNOWN_FOR, Ledger, LedgerError, LedgerOptions, LedgerThread, Remembering, RemoteLedger, SqliteLedger,
    endings_of,
};
use crate::model::TenantId;
use crate::notify::{Notices, Outbox, OutboxParts, Source, Texts};
use crate::queue::embedded::{EmbeddedConfig, EmbeddedQueue, InUse, QueueThread};
use crate::queue::rabbitmq::{RabbitQueue, RabbitTask, RabbitmqParts, RabbitmqRoles};
use crate::queue::{DeadLetters, Queue};
use crate::sweep::Sweep;
use crate::telemetry::Metrics;
use crate::worker::{TenantEnforcer, TenantWorker, WorkerParts};

/// What the parts are opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Serve(Roles),
    /// A command beside no running instance: it looks into the files, repairs nothing, and connects to no broker.
    Command,
}

/// The parts, open. What commands use when no instance runs.
pub struct Core {
    pub queue: Arc<dyn Queue>,
    /// The queue itself, or the spool in front of the broker.
    pub(super) journal: EmbeddedQueue,
    pub(super) journal_thread: QueueThread,
    pub(super) broker: Option<RabbitTask>,
    pub(super) dead_letters: Option<Arc<dyn DeadLetters>>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) own_ledger: Option<(SqliteLedger, LedgerThread)>,
    /// Where another process keeps the ledger.
    pub(super) remote_ledger: Option<Arc<RemoteLedger>>,
    /// Where this process keeps the ledger and the sweep is on.
    pub(super) sweep: Option<Sweep>,
    /// Where this process keeps the ledger and somebody is to be told.
    pub(super) notices: Option<Notices>,
    pub(super) deciding: Deciding,
    /// The ends of the last day, as far as this process hears of them.
    pub(super) endings: Arc<Endings>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    /// Empty where this process calls no provider.
    pub(super) workers: BTreeMap<TenantId, TenantWorker>,
}

impl Core {
    /// Opens queue and ledger in the data folder, which is made if it is missing, for its owner alone.
    pub(super) fn open(config: &Config, purpose: Purpose) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("cannot make the data folder {}", data_dir.display()))?;
        let clock = Clock::start();
        let metrics = Metrics::new();
        let (roles, repair) = match purpose {
            Purpose::Serve(roles) => (roles, true),
            Purpose::Command => (Roles::ALL, false),
        };
        let (journal, journal_thread) = EmbeddedQueue::open(&journal_config(config, repair), clock)?;
        let broker = match (config.queue.backend, purpose) {
            (Backend::Rabbitmq, Purpose::Serve(_)) => Some(connect_later(config, roles, &journal, clock)?),
            _ => None,
        };
        let own_ledger = match (&broker, roles.control) {
            (Some(_), false) => None,
            _ => Some(SqliteLedger::open(&ledger_options(config, repair), clock)?),
        };
        let remote_ledger = match (&own_ledger, &broker) {
            (None, Some((queue, _))) => {
                let courier = Arc::new(BrokerCourier(queue.clone()));
                Some(Arc::new(RemoteLedger::new(courier, config.ledger.required, clock, metrics.clone())))
            }
            _ => None,
        };
        let ledger: Arc<dyn Ledger> = match (&own_ledger, &remote_ledger) {
            (Some((ledger, _)), _) => Arc::new(ledger.clone()),
            (None, Some(ledger)) => Arc::clone(ledger) as _,
            (None, None) => anyhow::bail!("there is neither a ledger nor a way to one"),
        };
        let endings = Arc::<Endings>::default();
        let ledger: Arc<dyn Ledger> = match purpose {
            Purpose::Serve(roles) if roles.control => Arc::new(Remembering::new(ledger, Arc::clone(&endings), clock)),
            _ => ledger,
        };
        let queue: Arc<dyn Queue> = match &broker {
            Some((queue, _)) => Arc::new(queue.clone()),
            None => Arc::new(journal.clone()),
        };
        let deciding = Deciding::open(config, own_ledger.is_some(), clock, &metrics)?;
        let dead_letters = roles.control.then(|| Arc::new(journal.clone()) as Arc<dyn DeadLetters>);
        let mut core = Self {
            queue,
            journal,
            journal_thread,
            broker: None,
            dead_letters,
            ledger,
            own_ledger,
            remote_ledger,
            sweep: None,
            notices: None,
            deciding,
            endings,
            metrics,
            clock,
            workers: BTreeMap::new(),
        };
        if roles.worker || roles.control {
            core.workers = core.make_workers(config)?;
        }
        core.broker = broker.map(|(_, task)| core.put_to_work(task, roles));
        if matches!(purpose, Purpose::Serve(_)) {
            core.sweep = core.make_sweep(config);
            core.notices = core.make_notices(config)?;
        }
        Ok(core)
    }

    /// Gives the broker's task what this process does with it.
    fn put_to_work(&mut self, mut task: RabbitTask, roles: Roles) -> RabbitTask {
        if let (true, Some((ledger, _))) = (roles.control, &self.own_ledger) {
            let guard = self.deciding.brakes.guard;
            let watch = self.deciding.control().map(|control| Watch::new(control, guard, self.clock));
            let endings = Arc::clone(&self.endings);
            task.take_records(Arc::new(LedgerRecords { ledger: ledger.clone(), watch, endings, clock: self.clock }));
        }
        if self.workers.is_empty() {
            return task;
        }
        let enforcers = self.enforcers().into_values().collect();
        let member = match &mut self.deciding.source {
            deciding::Source::Own(control) => {
                let (asked, questions) = mpsc::channel(bulletin::QUESTIONS_MAX);
                task.tell_directives(Arc::new(Bulletin::new(Arc::clone(control), questions)));
                FleetMember::new(roles, enforcers, None, Some(asked))
            }
            deciding::Source::Elsewhere(heard, questions) => {
                task.hear_directives(Arc::new(Ear(Arc::clone(heard))));
                let questions = questions.take().map(|questions| (Arc::clone(heard), questions));
                FleetMember::new(roles, enforcers, questions, None)
            }
        };
        task.join_fleet(Arc::new(member));
        task
    }

    fn make_workers(&self, config: &Config) -> anyhow::Result<BTreeMap<TenantId, TenantWorker>> {
        let mut workers = BTreeMap::new();
        for (id, tenant) in &config.tenants {
            let provider = loginradius(&tenant.loginradius)
                .with_context(|| format!("cannot set up the LoginRadius client of tenant `{id}`"))?;
            let worker = TenantWorker::new(WorkerParts {
                tenant: id.clone(),
                provider: Arc::new(provider),
                rate: tenant.loginradius.requests_per_second,
                queue: Arc::clone(&self.queue),
                directives: Arc::clone(&self.deciding.live) as _,
                brakes: self.deciding.brakes.clone(),
                ledger: Arc::clone(&self.ledger),
                config: config.worker.clone(),
                clock: self.clock,
                metrics: self.metrics.clone(),
                chance: rand::random,
            });
            workers.insert(id.clone(), worker);
        }
        Ok(workers)
    }

    fn make_sweep(&self, config: &Config) -> Option<Sweep> {
        Some(Sweep {
            tenants: config.tenants.keys().cloned().collect(),
            interval: config.sweep.interval?,
            users: self.own_ledger.as_ref()?.0.clone(),
            queue: Arc::clone(&self.queue),
            directives: Arc::clone(&self.deciding.live) as _,
            clock: self.clock,
            metrics: self.metrics.clone(),
        })
    }

    fn make_notices(&self, config: &Config) -> anyhow::Result<Option<Notices>> {
        let (Some((ledger, _)), Some(control)) = (&self.own_ledger, self.deciding.control()) else { return Ok(None) };
        if config.notify.is_empty() {
            return Ok(None);
        }
        let (outbox, task) = Outbox::open(OutboxParts {
            data_dir: config.data_dir.clone(),
            endpoints: config.notify.clone(),
            texts: Texts::read(config.notify_texts.as_deref())?,
            clock: self.clock,
            metrics: self.metrics.clone(),
            chance: rand::random,
        })?;
        Ok(Some(Notices { source: Source::new(outbox, ledger.clone(), control), task }))
    }

    /// For commands that look or act while no instance runs; `None` where one holds the data folder.
    ///
    /// # Errors
    /// A damaged file, too: a command repairs nothing.
    pub fn open_unless_running(config: &Config) -> anyhow::Result<Option<Self>> {
        match Self::open(config, Purpose::Command) {
            Ok(core) => Ok(Some(core)),
            Err(error) if error.is::<InUse>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn enforcers(&self) -> BTreeMap<TenantId, Arc<TenantEnforcer>> {
        self.workers.iter().map(|(id, worker)| (id.clone(), worker.enforcer())).collect()
    }

    /// Where this process decides the directives.
    pub(super) fn keeper(&self) -> Option<Keeper> {
        let control = self.deciding.control()?;
        Some(Keeper { control, queue: Arc::clone(&self.queue), enforcers: self.enforcers() })
    }

    /// The admin API's routes, behind `key`, for calls from this machine.
    pub fn admin_router(&self, key: SecretString) -> Router {
        self.admin_router_for(key, Hosts::Loopback)
    }

    pub(super) fn admin_router_for(&self, key: SecretString, hosts: Hosts) -> Router {
        admin::router(Admin {
            tenants: self.enforcers(),
            queue: Arc::clone(&self.queue),
            dead_letters: self.dead_letters.clone(),
            ledger: Arc::clone(&self.ledger),
            deciding: self.own_ledger.as_ref().and_then(|(ledger, _)| {
                Some(api::Deciding { control: self.deciding.control()?, ledger: ledger.clone() })
            }),
            clock: self.clock,
            users: self.own_ledger.as_ref().map(|(ledger, _)| ledger.clone()),
            key,
            hosts,
        })
    }

    /// Takes the ends of the last day out of the ledger, as they were before this process began.
    pub(super) async fn remember_endings(&self) {
        let Some((ledger, _)) = &self.own_ledger else { return };
        let since = self.clock.now().checked_sub(KNOWN_FOR).unwrap_or(Timestamp::MIN);
        for tenant in self.workers.keys() {
            match ledger.ends_since(tenant, since).await {
                Ok(ends) => ends
                    .iter()
                    .flat_map(|(user, decision)| endings_of(tenant, user, decision))
                    .for_each(|ending| self.endings.note(ending, self.clock.now())),
                Err(error) => tracing::warn!("who was signed out before is not known: {:#}", anyhow::Error::new(error)),
            }
        }
    }

    /// Takes in all of them, beside everything else: the first look is at the last 100,000 decisions. Ends at `stop`.
    pub(super) fn remember_all_endings(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let ledger = self.own_ledger.as_ref().map(|(ledger, _)| ledger.clone());
        let (endings, clock) = (Arc::clone(&self.endings), self.clock);
        let tenants: Vec<TenantId> = self.workers.keys().cloned().collect();
        async move {
            let since = clock.now().checked_sub(KNOWN_FOR).unwrap_or(Timestamp::MIN);
            let remembering = async {
                for tenant in &tenants {
                    let Some(ledger) = &ledger else { return };
                    if let Err(error) = remember_all(ledger, &endings, (tenant, since), clock).await {
                        tracing::warn!("not all who were signed out before are known: {:#}", anyhow::Error::new(error));
                    }
                }
            };
            stop.run_until_cancelled(remembering).await;
            stop.cancelled().await;
            Ok(())
        }
    }

    /// The session API's routes.
    pub(super) fn v1_router(&self, config: &Config, closing: CancellationToken) -> anyhow::Result<Router> {
        Ok(v1::router(v1::Sessions {
            tenants: self.enforcers(),
            queue: Arc::clone(&self.queue),
            endings: Arc::clone(&self.endings),
            control: self.deciding.control(),
            begun: v1::Begun::open(&config.data_dir)?,
            metrics: self.metrics.clone(),
            clock: self.clock,
            config: config.api.clone(),
            closing,
        }))
    }

    /// Ends the threads of queue and ledger, after what was sent to them before.
    pub async fn close(self) -> anyhow::Result<()> {
        self.journal.stop();
        let ledger = match self.own_ledger {
            Some((ledger, thread)) => {
                ledger.stop();
                thread.ended().await
            }
            None => Ok(()),
        };
        self.journal_thread.ended().await.and(ledger)
    }
}

fn journal_config(config: &Config, repair: bool) -> EmbeddedConfig {
    let is_spool = config.queue.backend == Backend::Rabbitmq;
    EmbeddedConfig {
        data_dir: config.data_dir.clone(),
        // A spool is bounded by its bytes.
        messages_max: if is_spool { u64::MAX } else { config.queue.messages_max },
        bytes_max: is_spool.then_some(config.queue.rabbitmq.spool_bytes_max),
        tenants: config.tenants.len(),
        batch_max: config.queue.batch_max,
        dedupe_ids_max: config.webhook.dedupe_ids_max,
        dedupe_window: config.webhook.dedupe_window,
        repair,
    }
}

fn ledger_options(config: &Config, repair: bool) -> LedgerOptions {
    LedgerOptions {
        data_dir: config.data_dir.clone(),
        key_file: config.ledger.key_file.clone(),
        keep_ip: config.ledger.keep_ip,
        age_max: config.ledger.retention,
        decisions_max: config.ledger.decisions_max,
        bytes_max: config.ledger.bytes_max,
        repair,
    }
}

fn connect_later(
    config: &Config,
    roles: Roles,
    journal: &EmbeddedQueue,
    clock: Clock,
) -> anyhow::Result<(RabbitQueue, RabbitTask)> {
    RabbitQueue::new(RabbitmqParts {
        config: config.queue.rabbitmq.clone(),
        tenants: config.tenants.keys().cloned().collect(),
        roles: RabbitmqRoles { name: roles.to_string(), keeps_dead_letters: roles.control },
        journal: journal.clone(),
        dedupe_ids_max: config.webhook.dedupe_ids_max,
        dedupe_window: config.webhook.dedupe_window,
        clock,
    })
}

/// Takes in the ends of a tenant, step by step and the last ones first, as many as there is room for.
async fn remember_all(
    ledger: &SqliteLedger,
    endings: &Endings,
    (tenant, since): (&TenantId, Timestamp),
    clock: Clock,
) -> Result<(), LedgerError> {
    let mut from = None;
    loop {
        let (ends, next) = ledger.earlier_ends(tenant, since, from).await?;
        for ending in ends.iter().flat_map(|(user, decision)| endings_of(tenant, user, decision)) {
            endings.note(ending, clock.now());
        }
        let Some((next, _)) = next.filter(|(_, newest)| endings.has_room_for(*newest)) else { return Ok(()) };
        from = Some(next);
    }
}
