//! The table of every option: name, default, grammar, meaning. Reading, listing and the example file follow it.

use std::time::Duration;

use serde_json::Value;

use super::grammar::Grammar;
use super::settings::toml_value;

/// One option as people know it.
///
/// The options of `loginradius` and `policy` exist once more in each `[tenants.<name>]`.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// Section and key, joined by dots.
    pub path: &'static str,
    /// As one would write it into a variable. `None`: not set, or must be set.
    pub default: Option<&'static str>,
    pub grammar: Grammar,
    /// What it does, with its unit.
    pub doc: &'static str,
}

impl OptionDoc {
    pub fn is_secret(&self) -> bool {
        self.grammar.is_secret()
    }

    /// The default as it would come out of a file.
    pub fn default_value(&self) -> Option<Value> {
        self.default.map(|text| toml_value(text).unwrap_or_else(|| text.into()))
    }
}

/// Every option, in the order of the sections.
pub fn options() -> &'static [OptionDoc] {
    OPTIONS
}

pub(super) fn find(path: &str) -> Option<&'static OptionDoc> {
    OPTIONS.iter().find(|option| option.path == path)
}

const fn option(path: &'static str, default: Option<&'static str>, grammar: Grammar, doc: &'static str) -> OptionDoc {
    OptionDoc { path, default, grammar, doc }
}

const fn count(max: u64) -> Grammar {
    Grammar::Count { min: 1, max }
}

const fn seconds(min_ms: u64, max: u64) -> Grammar {
    Grammar::Duration { min: Duration::from_millis(min_ms), max: Duration::from_secs(max) }
}

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

#[rustfmt::skip]
static OPTIONS: &[OptionDoc] = &[
    option("data_dir", Some("./soloist-data"), Grammar::Path,
        "folder of the queue file, the ledger and the admin key"),
    option("notify_texts", None, Grammar::Path,
        "TOML file of other texts in notices, a line for each reason: code = \"text\""),

    option("webhook.listen", Some("127.0.0.1:8080"), Grammar::Address,
        "address and port of the public listener"),
    option("webhook.tls_cert", None, Grammar::Path,
        "PEM file with the certificate chain; with tls_key the listener speaks TLS"),
    option("webhook.tls_key", None, Grammar::Path,
        "PEM file with the private key of tls_cert"),
    option("webhook.body_bytes_max", Some("262144"), count(16 << 20),
        "bytes; a longer body is refused with 413 before it is buffered"),
    option("webhook.header_timeout", Some("5s"), seconds(1, 10 * MINUTE),
        "duration; a connection that has not sent its first headers by then is closed; between requests it may rest 75 s"),
    option("webhook.body_timeout", Some("10s"), seconds(1, 10 * MINUTE),
        "duration; a body that is not complete by then is refused with 408"),
    option("webhook.in_flight_max", Some("4096"), count(1_000_000),
        "complete bodies that may wait for the queue; beyond it 503 at once"),
    option("webhook.connections_max", Some("16384"), count(1_000_000),
        "open connections of the public listener; further ones are closed"),
    option("webhook.dedupe_ids_max", Some("1000000"), count(100_000_000),
        "event keys that are remembered, a few dozen bytes of memory each; the oldest are forgotten first"),
    option("webhook.dedupe_window", Some("24h"), seconds(1_000, 30 * DAY),
        "duration; how long a repeated event is recognised and not queued again"),

    option("queue.backend", Some("embedded"), Grammar::Choice(&["embedded", "rabbitmq"]),
        "where events wait: a file of this process, or a broker that many processes share"),
    option("queue.messages_max", Some("10000000"), count(1_000_000_000),
        "waiting messages, a few hundred bytes of disk each; beyond it new events get 503"),
    option("queue.batch_max", Some("256"), count(10_000),
        "events that one fsync makes durable at most"),

    option("queue.rabbitmq.url", None, Grammar::AmqpUrls,
        "broker with user and virtual host; several hosts of a cluster as a list, tried in turn"),
    option("queue.rabbitmq.password", None, Grammar::Secret,
        "password of the user in url, so that it can stand in a file of its own"),
    option("queue.rabbitmq.ca_file", None, Grammar::Path,
        "PEM file with CA certificates that amqps:// trusts besides the system's"),
    option("queue.rabbitmq.cert_file", None, Grammar::Path,
        "PEM file with the client certificate, where the broker asks for one"),
    option("queue.rabbitmq.key_file", None, Grammar::Path,
        "PEM file with the private key of cert_file"),
    option("queue.rabbitmq.declare", Some("true"), Grammar::Flag,
        "true declares exchanges and queues; false only looks, for accounts that may not declare"),
    option("queue.rabbitmq.confirm_timeout", Some("2s"), seconds(100, 5),
        "duration; an event that the broker has not confirmed by then goes to the journal"),
    option("queue.rabbitmq.publish_channels", Some("4"), count(64),
        "batches that may wait for the broker's confirms at the same time"),
    option("queue.rabbitmq.spool_bytes_max", Some("1073741824"), count(1 << 40),
        "bytes of the journal in front of the broker; beyond it new events get 503"),

    option("loginradius.api_url", Some("https://api.loginradius.com"), Grammar::Url,
        "base of the LoginRadius API: your own API domain, or a sandbox"),
    option("loginradius.api_key", None, Grammar::Secret,
        "API key of the tenant; required"),
    option("loginradius.api_secret", None, Grammar::Secret,
        "API secret of the tenant; required"),
    option("loginradius.webhook_secrets", None, Grammar::Secrets,
        "secrets that may have signed a webhook, several while one is rotated; default: the API secret"),
    option("loginradius.requests_per_second", Some("25"), Grammar::Rate,
        "calls a second to this tenant's API; with RabbitMQ of all processes together"),
    option("loginradius.timeout", Some("5s"), seconds(1, MINUTE),
        "duration of a whole call, answer included"),
    option("loginradius.connect_timeout", Some("2s"), seconds(1, MINUTE),
        "duration; how long a connection may take to open, TLS included"),
    option("loginradius.credentials_in", Some("headers"), Grammar::Choice(&["headers", "query"]),
        "where key and secret travel; query is for old tenants only, as it puts secrets into URLs"),

    option("policy.mode", Some("enforce"), Grammar::Policy("enforce, observe or off"),
        "enforce ends surplus sessions, observe only records what it would end, off does nothing"),
    option("policy.limit", Some("1"), Grammar::Policy("1 to 1000 or unlimited"),
        "sessions (or devices, see count) of a user that may stay"),
    option("policy.strategy", Some("evict_oldest"), Grammar::Policy("evict_oldest or reject_newest"),
        "who must go when there are too many: the oldest login, or the one that came last"),
    option("policy.count", Some("session"), Grammar::Policy("session or device"),
        "what the limit counts: every session, or devices with any number of sessions each"),
    option("policy.device_fields", Some(r#"["device_type", "os", "browser"]"#), Grammar::Policy("a list of fields"),
        "what makes two sessions the same device, with count = \"device\"; also device, ip"),
    option("policy.per_device", Some("1"), Grammar::Policy("1 to 1000 or unlimited"),
        "sessions that may stay on one device, with count = \"device\""),
    option("policy.buckets", Some("none"), Grammar::Policy("none or a table"),
        "limits by kind of device on top of the limit, such as one mobile and one desktop"),
    option("policy.session_lifetime", Some("30d"), Grammar::Policy("a duration"),
        "duration; how long a session lives at LoginRadius at most"),
    option("policy.pins_max", Some("0"), Grammar::Policy("a whole number"),
        "sessions that a user may pin, so that they are not ended"),
    option("policy.canary_percent", Some("100"), Grammar::Policy("0 to 100"),
        "percent of the users whose sessions are ended; the others are only observed"),
    option("policy.rules", None, Grammar::Policy("a list of tables"),
        "other policies for users with a role or a custom field; the first that matches wins"),
    option("policy.overrides", None, Grammar::Policy("a list of tables"),
        "other policies for single users; they win over rules"),
    option("policy.exemptions", None, Grammar::Policy("a list of tables"),
        "users whose sessions are not ended, each with a reason, an owner and an expiry"),

    option("worker.concurrency", Some("64"), count(10_000),
        "users of a tenant that are looked at at the same time"),
    option("worker.step_deadline", Some("15s"), seconds(1_000, 10 * MINUTE),
        "duration of one look at one user from its first call on; after it the delivery is tried again"),
    option("worker.revokes_per_step_max", Some("50"), count(1_000),
        "sessions ended for one user before they are listed again"),
    option("worker.attempts_max", Some("12"), count(1_000),
        "attempts, the first included, before a delivery is dead-lettered"),
    option("worker.drain_timeout", Some("20s"), seconds(1, 10 * MINUTE),
        "duration; how long started steps may take to finish when the service stops"),

    option("sweep.interval", Some("6h"), Grammar::DurationOrOff { min: Duration::from_secs(1), max: Duration::from_secs(30 * DAY) },
        "duration; everybody known is looked at once in it at least, whatever became of the events, with the calls left over"),

    option("directives.max_age", Some("10m"), seconds(60_000, DAY),
        "duration; a worker that has not heard what was decided at run time for longer ends nobody until it does"),

    option("budget.revocations", Some("unlimited"), Grammar::Rate,
        "sessions that may be ended per tenant and hour; beyond it the tenant is only observed until a person resumes it"),

    option("guard.evictions", Some("6"), Grammar::Count { min: 3, max: 1_000 },
        "evictions of one user within guard.window, alternating between the same devices, that make them contended"),
    option("guard.window", Some("10m"), seconds(1_000, DAY),
        "duration in which the evictions are counted"),
    option("guard.action", Some("hold"), Grammar::Choice(&["hold", "notify", "continue"]),
        "what is done about a contended user: pause their evictions, say so and go on, or go on"),
    option("guard.hold_for", Some("30m"), seconds(1_000, 30 * DAY),
        "duration; how long the evictions of a contended user pause"),

    option("api.keys", None, Grammar::List("a list of tables with name, sha256 and scopes, and optionally tenant and expires"),
        "keys of apps that may ask, as soloist api-key new prints them; scopes are checkpoint and verdict"),
    option("api.listen", None, Grammar::Address,
        "address and port of the session API in a control process that takes no webhooks; otherwise it shares webhook.listen"),
    option("api.streams_max", Some("8192"), count(1_000_000),
        "tabs that may listen for their end at the same time; each holds a connection, see webhook.connections_max"),
    option("api.origins", None, Grammar::List("a list of sites such as [\"https://app.example\"]"),
        "sites whose pages may call the session API"),
    option("api.wait_max", Some("3s"), seconds(100, MINUTE),
        "duration; how long an answer of the session API may wait for LoginRadius, its own turn included"),
    option("api.rate_percent", Some("20"), Grammar::Count { min: 1, max: 50 },
        "percent of the calls to LoginRadius that the session API gets while logins wait"),
    option("api.key_requests_per_second", Some("1000"), count(1_000_000),
        "requests a second of one app key"),
    option("api.token_requests_per_second", Some("5"), count(1_000),
        "requests a second with one user's token"),
    option("api.address_requests_per_second", Some("50"), count(1_000_000),
        "requests a second from one address without an app key; a refused one counts for ten"),
    option("api.trusted_proxies", None, Grammar::List("a list of IP addresses and networks"),
        "proxies in front of the public listener, whose X-Forwarded-For tells the address of who asks"),
    option("why.place", Some("false"), Grammar::Flag,
        "true tells who was signed out in which city the device is that took over"),

    option("admin.listen", Some("127.0.0.1:8081"), Grammar::Address,
        "address and port of the private listener: metrics and admin API"),
    option("admin.insecure", Some("false"), Grammar::Flag,
        "true lets the private listener, which is not encrypted, be reached from other machines"),

    option("ledger.decisions_max", Some("1000000"), count(1_000_000_000),
        "recorded decisions, one to two KiB of disk each; the oldest are forgotten first"),
    option("ledger.bytes_max", Some("4294967296"), Grammar::Count { min: 1 << 20, max: 1 << 44 },
        "bytes of the ledger's file; beyond it the oldest decisions are forgotten"),
    option("ledger.retention", Some("400d"), seconds(60_000, 36_500 * DAY),
        "duration; decisions that are older are forgotten"),
    option("ledger.key_file", None, Grammar::Path,
        "file with the secret that seals the records, 32 bytes or more; default: data_dir/ledger.key, made at the first start, which protects from nobody who can write to data_dir"),
    option("ledger.keep_ip", Some("false"), Grammar::Flag,
        "true also records the IP addresses of sessions"),
    option("ledger.required", Some("false"), Grammar::Flag,
        "true ends nobody while a record cannot be sent to the control process; false goes on and counts what is lost"),

    option("notify", None, Grammar::List("a list of tables"),
        "who is told that a session was ended, a user is contended or a budget is used up; sent by the control process"),

    option("telemetry.log", Some("info"), Grammar::LogFilter,
        "what is logged: a level, or levels by module such as info,soloist::worker=debug"),
    option("telemetry.log_format", Some("human"), Grammar::Choice(&["human", "json"]),
        "lines for people, or one JSON object a line"),
];
