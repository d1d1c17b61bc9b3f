//! Having users looked at again, outside of any login.

use jiff::Timestamp;

use super::{Queue, QueueError};
use crate::model::{EventId, LoginEvent, Reason, TenantId, UserId};

/// Messages that are published at once.
const BATCH_MAX: usize = 256;

/// Has a user looked at as soon as there is a worker, because somebody asked; returns the event's id.
///
/// # Errors
/// When it could not be put into the queue; asking again is harmless.
pub async fn look_at_once(queue: &dyn Queue, tenant: &TenantId, user: &UserId) -> Result<EventId, QueueError> {
    let event = look(tenant, user, Reason::Enforce);
    let id = event.id.clone();
    queue.publish(&[event]).await?;
    Ok(id)
}

/// The look at a user who logged in a moment ago, as an app says: as for any login whose time is not known exactly. One without
/// a time turns nobody away.
pub fn login_look(tenant: &TenantId, user: &UserId, at: Option<Timestamp>) -> LoginEvent {
    LoginEvent { at, ..look(tenant, user, Reason::Login) }
}

/// Has users looked at again, in the background.
///
/// # Errors
/// When not all could be put into the queue; asking for all again is harmless.
pub async fn look_again(queue: &dyn Queue, tenant: &TenantId, users: &[UserId]) -> Result<(), QueueError> {
    for users in users.chunks(BATCH_MAX) {
        let events: Vec<LoginEvent> = users.iter().map(|user| look(tenant, user, Reason::Sweep)).collect();
        queue.publish(&events).await?;
    }
    Ok(())
}

fn look(tenant: &TenantId, user: &UserId, reason: Reason) -> LoginEvent {
    LoginEvent {
        tenant: tenant.clone(),
        user: user.clone(),
        id: EventId::of_body(uuid::Uuid::new_v4().as_bytes()),
        at: None,
        login_at: None,
        reason,
        accepted_at: None,
    }
}
