//! Stage 5: the identity provider behind a port, and its errors sorted by what to do next.

pub mod loginradius;

use std::time::Duration;

use async_trait::async_trait;

use crate::model::{AccessToken, UserId, UserTraits, View};

/// Where sessions live. One provider serves one tenant.
#[async_trait]
pub trait SessionProvider: Send + Sync {
    /// Every active session of the user, read to the end of the paging where that is possible.
    async fn list(&self, user: &UserId) -> Result<View, ProviderError>;

    /// Ends the session of this token for good: it cannot be refreshed afterwards.
    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError>;

    /// Whose token this is, without prolonging it.
    async fn identify(&self, token: &AccessToken) -> Result<UserId, ProviderError>;

    /// What rules and exemptions look at: roles, e-mail domains, custom fields.
    async fn traits(&self, user: &UserId) -> Result<UserTraits, ProviderError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Done,
    /// The provider no longer knew the token: what we wanted is so.
    AlreadyGone,
}

/// Why a call did not give what was asked, sorted by the caller's next move.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Later may work: timeouts, 5xx, answers that cannot be read, codes nobody knows.
    #[error("the identity provider is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// We called too often.
    #[error("the identity provider refuses more calls for now")]
    Throttled {
        /// How long it asked us to stay away, where it said so.
        retry_after: Option<Duration>,
        #[source]
        source: anyhow::Error,
    },
    /// An operator must act: credentials, permissions, address restrictions, a wrong URL.
    #[error("the identity provider does not accept our credentials")]
    Unauthorized(#[source] anyhow::Error),
    /// The user does not exist (yet, or any more).
    #[error("the identity provider does not know the user")]
    UserUnknown(#[source] anyhow::Error),
    /// This request will never work.
    #[error("the identity provider refused the request")]
    Refused(#[source] anyhow::Error),
}

/// The source of an error that the provider's own session limiter made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoginLimited(pub String);

impl ProviderError {
    /// Whether it was the provider's own session limiter that said no.
    pub fn is_login_limit(&self) -> bool {
        matches!(self, Self::Unavailable(source) | Self::Throttled { source, .. } if source.is::<LoginLimited>())
    }

    /// The metric label of this class.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Throttled { .. } => "throttled",
            Self::Unauthorized(_) => "unauthorized",
            Self::UserUnknown(_) => "user_unknown",
            Self::Refused(_) => "refused",
        }
    }
}
