//! How a login event travels: properties and headers out, tolerant reading in.

use lapin::BasicProperties;
use lapin::message::Delivery as Received;
use lapin::types::{AMQPValue, FieldTable};

use super::publisher::Outgoing;
use super::topology;
use crate::clock::Clock;
use crate::message::{self, Remains, Unreadable};
use crate::model::{Lane, LoginEvent, Reason, TenantId};
use crate::queue::Why;
use crate::queue::embedded::Buried;

/// Counts attempts, since the broker's own `x-death` is ignored from clients from RabbitMQ 4.0 on.
const ATTEMPT: &str = "soloist-attempt";
/// The message was handed out before and given back unspent.
const GIVEN_BACK: &str = "soloist-given-back";
const WHY: &str = "soloist-why";
const TENANT: &str = "soloist-tenant";
const LANE: &str = "soloist-lane";
/// What the broker counts by itself: hand-overs before this one.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Delivered at least once more after it died at the broker itself.
const DEATHS: &str = "x-death";

/// What a message carries besides the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) attempt: u32,
    pub(super) given_back: bool,
}

pub(super) const FRESH: Carried = Carried { attempt: 1, given_back: false };

/// Writes messages as one AMQP user.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) user: String,
    pub(super) clock: Clock,
}

impl Writer {
    /// Straight into the event's own lane. A login goes where producers put theirs: all that a webhook's account may
    /// write to.
    pub(super) fn now(&self, event: &LoginEvent, carried: Carried) -> Outgoing {
        if event.reason == Reason::Login && carried == FRESH {
            return self.outgoing(topology::LOGINS, event.tenant.to_string(), event, carried);
        }
        self.later(event, carried, 0)
    }

    /// Into the event's own lane after at least this long; up to an hour.
    pub(super) fn later(&self, event: &LoginEvent, carried: Carried, after_ms: u64) -> Outgoing {
        let exchange = if after_ms == 0 { topology::WORK } else { topology::rung(after_ms) };
        self.outgoing(exchange, topology::work_key(&event.tenant, event.reason.lane()), event, carried)
    }

    fn outgoing(&self, exchange: &'static str, routing_key: String, event: &LoginEvent, carried: Carried) -> Outgoing {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(carried.attempt));
        if carried.given_back {
            headers.insert(GIVEN_BACK.into(), AMQPValue::Boolean(true));
        }
        let message_id = event.id.to_string();
        let properties = self.properties(&message_id, headers);
        Outgoing { exchange, routing_key, message_id, body: message::write(event), properties }
    }

    /// To where given-up messages wait.
    pub(super) fn dead(&self, dead: &Dead<'_>) -> Outgoing {
        let mut headers = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(dead.attempt));
        headers.insert(WHY.into(), text(dead.why.as_str()));
        headers.insert(TENANT.into(), text(dead.tenant.as_str()));
        headers.insert(LANE.into(), text(dead.lane.as_str()));
        let body = match &dead.message {
            Ok(event) => message::write(event),
            Err(remains) => remains.write(),
        };
        let message_id = uuid::Uuid::new_v4().to_string();
        let properties = self.properties(&message_id, headers);
        Outgoing { exchange: topology::WORK, routing_key: topology::DEAD_KEY.to_owned(), message_id, body, properties }
    }

    /// A record for the ledger.
    pub(super) fn record(&self, tenant: &TenantId, record: Vec<u8>) -> Outgoing {
        let message_id = uuid::Uuid::new_v4().to_string();
        let properties = self.properties(&message_id, FieldTable::default());
        Outgoing {
            exchange: topology::DECISIONS,
            routing_key: tenant.to_string(),
            message_id,
            body: record,
            properties,
        }
    }

    fn properties(&self, message_id: &str, headers: FieldTable) -> BasicProperties {
        const PERSISTENT: u8 = 2;
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(message_id.into())
            .with_timestamp(u64::try_from(self.clock.now().as_second()).unwrap_or(0))
            .with_user_id(self.user.as_str().into())
            .with_app_id("soloist".into())
            .with_headers(headers)
    }
}

/// A message that is given up, with what can be kept of it.
pub(super) struct Dead<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) lane: Lane,
    pub(super) why: Why,
    pub(super) attempt: u32,
    pub(super) message: Result<&'a LoginEvent, Remains>,
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn number(value: &AMQPValue) -> Option<u64> {
    value.as_long_long_int().and_then(|number| u64::try_from(number).ok()).or_else(|| match value {
        AMQPValue::ShortShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::ShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::LongUInt(number) => Some(u64::from(*number)),
        AMQPValue::ShortShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::ShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        _ => None,
    })
}

fn text<'a>(properties: &'a BasicProperties, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ShortString(text) => Some(text.as_str().into()),
        _ => None,
    }
}

/// How often the message was tried, ours or a foreign producer's.
pub(super) fn attempt(properties: &BasicProperties) -> u32 {
    header(properties, ATTEMPT).and_then(number).and_then(|number| u32::try_from(number).ok()).unwrap_or(1).max(1)
}

/// Whether we wrote it. What others wrote is replaced by our form: theirs may hold more than anybody should keep.
pub(super) fn is_ours(received: &Received) -> bool {
    header(&received.properties, ATTEMPT).is_some()
}

/// Whether somebody may have had it before.
pub(super) fn was_handed_out(received: &Received) -> bool {
    let counted = header(&received.properties, DELIVERY_COUNT).and_then(number).unwrap_or(0) > 0;
    received.redelivered || counted || header(&received.properties, GIVEN_BACK).is_some()
}

/// Reads what a tenant's queue handed out.
pub(super) fn read(received: &Received, tenant: &TenantId, now: jiff::Timestamp) -> Result<LoginEvent, Unreadable> {
    let content_type = received.properties.content_type().as_ref().map(lapin::types::ShortString::as_str);
    message::read_foreign(&received.data, content_type, tenant, now)
}

/// Reads what waited among the dead, ours or what the broker itself gave up.
pub(super) fn read_dead(received: &Received, now: jiff::Timestamp) -> Buried {
    let properties = &received.properties;
    let by_broker = header(properties, DEATHS).is_some() && header(properties, WHY).is_none();
    let why = if by_broker { Some(Why::DeliveryLimit.as_str().into()) } else { text(properties, WHY) };
    let known = TenantId::default_tenant();
    let tenant = text(properties, TENANT).and_then(|raw| TenantId::parse(&raw).ok());
    let lane = match text(properties, LANE).as_deref() {
        Some("background") => Lane::Background,
        _ => Lane::Logins,
    };
    let content_type = properties.content_type().as_ref().map(lapin::types::ShortString::as_str);
    let readable = message::read_foreign(&received.data, content_type, tenant.as_ref().unwrap_or(&known), now);
    let (tenant, lane, body) = match (Remains::read(&received.data), readable) {
        (Some(_), _) => (tenant.unwrap_or(known), lane, received.data.clone()),
        (None, Ok(event)) => (event.tenant.clone(), event.reason.lane(), message::write(&event)),
        (None, Err(problem)) => (tenant.unwrap_or(known), lane, Remains::of(&received.data, &problem).write()),
    };
    Buried {
        tenant,
        lane,
        why: why.map_or_else(|| Why::Unreadable.as_str().to_owned(), std::borrow::Cow::into_owned),
        attempt: attempt(properties),
        body,
        may_be_known: received.redelivered,
    }
}
