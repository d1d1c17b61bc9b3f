//! The embedded queue: its place in the contract suite, and what only a file can do.

use std::path::Path;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use soloist::clock::Clock;
use soloist::message::{self, Remains, Unreadable};
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::embedded::{Buried, EmbeddedConfig, EmbeddedQueue, InUse, QueueThread};
use soloist::queue::{DeadLetter, DeadLetters, Next, Queue, QueueError, Selection, Settlement, Why};
use tempfile::TempDir;

use crate::queue_contract::Backend;
use crate::support::{login, soon};

pub(crate) struct Embedded {
    folder: TempDir,
    running: Option<(EmbeddedQueue, QueueThread)>,
}

impl Embedded {
    /// Messages in its file, those that are reserved included.
    pub(crate) async fn messages(&self) -> u64 {
        self.running.as_ref().unwrap().0.usage().await.unwrap().messages
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &TempDir {
        &self.folder
    }
}

fn open(folder: &Path) -> anyhow::Result<(EmbeddedQueue, QueueThread)> {
    EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), Clock::start())
}

async fn stop((queue, thread): (EmbeddedQueue, QueueThread)) {
    queue.stop();
    soon("the queue to stop", thread.ended()).await.unwrap();
}

#[async_trait]
impl Backend for Embedded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = Some(open(folder.path()).unwrap());
        Self { folder, running }
    }

    fn queue(&self) -> &dyn Queue {
        &self.running.as_ref().unwrap().0
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.running.as_ref().unwrap().0
    }

    /// The files as they are on the disk at this moment, log included, are all that the next process sees.
    async fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        stop(self.running.take().unwrap()).await;
        self.running = Some(open(copy.path()).unwrap());
        self.folder = copy;
    }

    async fn publish_rubbish(&mut self, tenant: &TenantId) {
        let event = LoginEvent { tenant: tenant.clone(), ..login("rubbish", "rubbish") };
        self.queue().publish(&[event]).await.unwrap();
        stop(self.running.take().unwrap()).await;
        let db = rusqlite::Connection::open(self.folder.path().join("queue.db")).unwrap();
        let sum = sha2_sum(b"not json");
        db.execute("UPDATE messages SET body = ?1, sum = ?2", rusqlite::params![b"not json", sum]).unwrap();
        drop(db);
        self.running = Some(open(self.folder.path()).unwrap());
    }
}

fn sha2_sum(bytes: &[u8]) -> i64 {
    use sha2::Digest as _;
    i64::from_be_bytes(*sha2::Sha256::digest(bytes).first_chunk::<8>().unwrap())
}

async fn filled(folder: &Path, count: usize) {
    let running = open(folder).unwrap();
    let events: Vec<LoginEvent> = (0..count).map(|n| login("ann", &format!("h{n}"))).collect();
    for chunk in events.chunks(500) {
        running.0.publish(chunk).await.unwrap();
    }
    stop(running).await;
}

async fn ready(queue: &EmbeddedQueue) -> u64 {
    queue.stats().await.unwrap().iter().map(|lane| lane.ready).sum()
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let second = open(folder.path()).err().expect("the folder is in use");
    assert!(second.downcast_ref::<InUse>().is_some());
    stop(first).await;
    stop(open(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn a_full_queue_refuses_new_events_and_takes_them_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { messages_max: 2, ..EmbeddedConfig::in_dir(folder.path()) };
    let (queue, thread) = EmbeddedQueue::open(&config, Clock::start()).unwrap();
    queue.publish(&[login("ann", "h1"), login("ann", "h2")]).await.unwrap();
    assert!(matches!(queue.publish(&[login("ann", "h3")]).await, Err(QueueError::Full { messages_max: 2 })));

    assert!(matches!(queue.check().await, Err(QueueError::Full { .. })));
    assert_eq!(ready(&queue).await, 2);

    let subscription = queue.subscribe(&login("ann", "h1").tenant, Lane::Logins, 1).await.unwrap();
    let delivery = soon("a delivery", subscription.receive()).await.unwrap();
    subscription.settle(&[(delivery.tag, Settlement::Ack)]).await.unwrap();

    let two = queue.publish(&[login("ann", "h3"), login("ann", "h4")]).await;
    assert!(matches!(two, Err(QueueError::Full { .. })), "all or nothing: there is room for one only");
    subscription.close().await.unwrap();
    assert_eq!(ready(&queue).await, 1);
    queue.publish(&[login("ann", "h3")]).await.expect("the refused event was not remembered as accepted");
    stop((queue, thread)).await;
}

#[tokio::test]
async fn a_tenant_that_fills_its_share_leaves_the_others_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { messages_max: 4, tenants: 2, ..EmbeddedConfig::in_dir(folder.path()) };
    let (queue, thread) = EmbeddedQueue::open(&config, Clock::start()).unwrap();
    queue.publish(&[login("ann", "h1"), login("ann", "h2")]).await.unwrap();
    assert!(matches!(queue.publish(&[login("ann", "h3")]).await, Err(QueueError::Full { messages_max: 2 })));
    let other = LoginEvent { tenant: TenantId::parse("acme").unwrap(), ..login("bob", "h4") };
    queue.publish(&[other]).await.unwrap();
    stop((queue, thread)).await;
}

#[tokio::test]
async fn the_event_ids_are_remembered_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5).await;
    let running = open(folder.path()).unwrap();
    assert_eq!(running.0.publish(&[login("ann", "h3")]).await.unwrap().duplicates, 1);
    stop(running).await;
}

#[tokio::test]
async fn a_file_of_another_program_or_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    let refusal = |folder: &Path| format!("{:#}", open(folder).err().expect("a refusal"));
    let prose = tempfile::tempdir().unwrap();
    std::fs::write(prose.path().join("queue.db"), b"not a database at all").unwrap();
    assert!(refusal(prose.path()).contains("is not a queue file of soloist"));
    assert!(refusal(folder.path()).contains("is not a queue file of soloist"));
    drop(db);
    std::fs::remove_file(&path).unwrap();
    filled(folder.path(), 1).await;
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(refusal(folder.path()).contains("format 99"));
}

#[tokio::test]
async fn a_clock_that_jumped_back_strands_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::in_dir(folder.path());
    let future = Clock::starting_at("2090-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let (queue, thread) = EmbeddedQueue::open(&config, future).unwrap();
    let event = login("ann", "h1");
    queue.publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = queue.subscribe(&event.tenant, Lane::Logins, 1).await.unwrap();
    let delivery = soon("a delivery", subscription.receive()).await.unwrap();
    let after = std::time::Duration::from_millis(200);
    let settlement = Settlement::Again { after, next: Next::Retry, why: Why::Unavailable };
    subscription.settle(&[(delivery.tag, settlement)]).await.unwrap();
    drop(subscription);
    stop((queue, thread)).await;

    let past = Clock::starting_at("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let (queue, thread) = EmbeddedQueue::open(&config, past).unwrap();
    let subscription = queue.subscribe(&event.tenant, Lane::Logins, 1).await.unwrap();
    assert_eq!(soon("the retry", subscription.receive()).await.unwrap().attempt, 2);
    drop(subscription);
    stop((queue, thread)).await;
    assert!(past.now() < "2026-01-01T00:01:00Z".parse::<Timestamp>().unwrap() + SignedDuration::ZERO);
}

#[tokio::test]
async fn a_row_with_a_flipped_bit_becomes_a_dead_letter_and_the_others_are_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3).await;
    let path = folder.path().join("queue.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|four| four == b"\"h1\"").unwrap();
    bytes[at + 1] = b'j';
    std::fs::write(&path, bytes).unwrap();

    let running = open(folder.path()).unwrap();
    let subscription = running.0.subscribe(&TenantId::default_tenant(), Lane::Logins, 8).await.unwrap();
    for expected in ["h0", "h2"] {
        assert_eq!(soon("a delivery", subscription.receive()).await.unwrap().event.id.as_str(), expected);
    }
    let dead = running.0.list(&Selection::All, 0, 10).await.unwrap();
    assert_eq!(dead.iter().map(|dead| dead.why.as_str()).collect::<Vec<_>>(), ["damaged"]);
    drop(subscription);
    stop(running).await;
}

#[tokio::test]
async fn a_crash_while_a_damaged_file_is_replaced_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20).await;
    let at = |name: &str| folder.path().join(name);
    // The damaged file has left its place, the complete new one has not yet taken it, an old log is still there.
    std::fs::rename(at("queue.db"), at("queue.db.new")).unwrap();
    std::fs::write(at("queue.db.damaged"), b"").unwrap();
    std::fs::write(at("queue.db-wal"), b"of the damaged file").unwrap();

    let running = open(folder.path()).unwrap();

    assert_eq!(ready(&running.0).await, 20);
    assert!(!at("queue.db.damaged").exists());
    stop(running).await;
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_its_readable_rows_are_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5_000).await;
    let path = folder.path().join("queue.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();

    let (queue, thread) = open(folder.path()).unwrap();
    let subscription = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, 6_000).await.unwrap();
    let ended = soon("the queue to notice", thread.ended()).await.unwrap_err();
    assert!(format!("{ended:#}").contains("damaged"));
    assert!(matches!(queue.publish(&[login("ann", "late")]).await, Err(QueueError::Stopped)));
    drop((subscription.receive().await, subscription, queue));

    let looking = EmbeddedConfig { repair: false, ..EmbeddedConfig::in_dir(folder.path()) };
    let refusal = EmbeddedQueue::open(&looking, Clock::start()).err().expect("who only looks repairs nothing");
    assert!(format!("{refusal:#}").contains("soloist serve"));
    let running = open(folder.path()).unwrap();
    let carried = ready(&running.0).await;
    assert!((4_950..5_000).contains(&carried), "{carried} of 5,000 carried over");
    assert!(folder.path().join("queue.db.damaged-1").exists());
    running.0.publish(&[login("ann", "late")]).await.unwrap();
    stop(running).await;
}

/// A dead letter of another queue whose event can be read, and one of which only remains are left.
fn from_elsewhere() -> [Buried; 2] {
    let remains = Remains::of(b"rubbish", &Unreadable::NoUser("`uid` is missing"));
    let buried = |why: &str, attempt, body| {
        let tenant = TenantId::parse("acme").unwrap();
        Buried { tenant, lane: Lane::Background, why: why.to_owned(), attempt, body, may_be_known: false }
    };
    let event = LoginEvent { tenant: TenantId::parse("acme").unwrap(), ..login("ann", "h1") };
    [buried("refused", 3, message::write(&event)), buried("no_user", 1, remains.write())]
}

#[tokio::test]
async fn a_buried_dead_letter_is_listed_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let running = open(folder.path()).unwrap();
    running.0.bury(&from_elsewhere()).await.unwrap();
    let before = running.0.list(&Selection::All, 0, 10).await.unwrap();
    stop(running).await;

    let running = open(folder.path()).unwrap();
    let dead = running.0.list(&Selection::All, 0, 10).await.unwrap();

    assert_eq!(dead, before);
    let shown: Vec<_> = dead.iter().map(|dead| (dead.tenant.as_str(), dead.lane, &*dead.why, dead.attempt)).collect();
    assert_eq!(shown, [("acme", Lane::Background, "refused", 3), ("acme", Lane::Background, "no_user", 1)]);
    assert_eq!(running.0.stats().await.unwrap().iter().filter_map(|lane| lane.dead).sum::<u64>(), 2);
    stop(running).await;
}

#[tokio::test]
async fn remains_show_the_length_the_hash_and_the_problem_of_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let running = open(folder.path()).unwrap();
    running.0.bury(&from_elsewhere()).await.unwrap();
    let dead = running.0.list(&Selection::All, 0, 10).await.unwrap();
    let remains = Remains::of(b"rubbish", &Unreadable::NoUser("`uid` is missing"));
    assert_eq!((dead[1].body_bytes, dead[1].body_sha256), (remains.bytes, remains.sha256));
    let problems = [&dead[0], &dead[1]].map(|dead| dead.problem.as_deref());
    assert_eq!(problems, [None, Some("it names no user: `uid` is missing")]);
    assert_eq!(dead[1].event, None);
    stop(running).await;
}

#[tokio::test]
async fn a_redrive_puts_buried_ones_that_can_be_read_into_their_lane() {
    let folder = tempfile::tempdir().unwrap();
    let running = open(folder.path()).unwrap();
    running.0.bury(&from_elsewhere()).await.unwrap();
    assert_eq!(running.0.redrive(&Selection::All).await.unwrap(), 1);

    let subscription = running.0.subscribe(&TenantId::parse("acme").unwrap(), Lane::Logins, 1).await.unwrap();
    let delivery = soon("the redriven one", subscription.receive()).await.unwrap();
    assert_eq!((delivery.event.id.as_str(), delivery.attempt), ("h1", 1));
    let left = running.0.list(&Selection::All, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|dead| dead.why.as_str()).collect::<Vec<_>>(), ["no_user"]);
    drop(subscription);
    stop(running).await;
}

#[tokio::test]
async fn dead_letters_are_buried_even_where_no_more_messages_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { messages_max: 1, ..EmbeddedConfig::in_dir(folder.path()) };
    let (queue, thread) = EmbeddedQueue::open(&config, Clock::start()).unwrap();
    queue.publish(&[login("ann", "h1")]).await.unwrap();
    queue.bury(&from_elsewhere()).await.unwrap();
    queue.bury(&[]).await.unwrap();
    assert_eq!(queue.list(&Selection::All, 0, 10).await.unwrap().len(), 2);
    stop((queue, thread)).await;
}

#[tokio::test]
async fn remains_are_carried_over_from_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let running = open(folder.path()).unwrap();
    running.0.bury(&from_elsewhere()).await.unwrap();
    let died_with = |dead: Vec<DeadLetter>| dead.into_iter().map(|dead| (dead.tenant, dead.why, dead.problem));
    let before: Vec<_> = died_with(running.0.list(&Selection::All, 0, 10).await.unwrap()).collect();
    stop(running).await;
    std::fs::write(folder.path().join("queue.db.damaged"), b"").unwrap();

    let running = open(folder.path()).unwrap();

    assert!(folder.path().join("queue.db.damaged-1").exists());
    let after: Vec<_> = died_with(running.0.list(&Selection::All, 0, 10).await.unwrap()).collect();
    assert_eq!(after, before);
    stop(running).await;
}
