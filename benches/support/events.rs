//! Login events as large as real ones, each its own.

use soloist::clock::Clock;
use soloist::model::{EventId, LoginEvent, Reason, TenantId, UserId};

pub(crate) fn event(number: u64, reason: Reason, clock: Clock) -> anyhow::Result<LoginEvent> {
    Ok(LoginEvent {
        tenant: TenantId::default_tenant(),
        user: UserId::parse(&format!("{:032x}", number % 100_000))?,
        id: EventId::parse(&format!("00000000-0000-4000-8000-{number:012x}"))?,
        at: Some("2019-06-11T20:27:56Z".parse()?),
        login_at: Some("2019-06-11T20:27:56.9658619Z".parse()?),
        reason,
        accepted_at: Some(clock.now()),
    })
}
