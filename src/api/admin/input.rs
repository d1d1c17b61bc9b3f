//! What a request names, and who changes something and why.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use crate::api::input::Params;
use crate::directives::{ChangeError, Entry, OURSELVES};
use crate::http::Problem;
use crate::model::{SessionId, TenantId, UserId};
use crate::worker::TenantEnforcer;

const BAD_UID: Problem = Problem::new(StatusCode::BAD_REQUEST, "uid", "a uid is 1 to 50 letters, digits, '_' and '-'");
const BAD_SESSION: Problem = Problem::new(StatusCode::BAD_REQUEST, "session", "a session id is 32 hex digits");
const NO_TENANT: Problem =
    Problem::new(StatusCode::NOT_FOUND, "tenant", "no such tenant is configured: name one with ?tenant=");
const BAD_WORD: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "word",
    "`owner` and `reason` must be texts of 1 to 500 bytes, each on one line",
);
pub(super) const NOT_US: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "word",
    "the owner `soloist` stands for what no person does: say who you are",
);
const NOT_WRITTEN: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "directives",
    "the change cannot be put on record now: nothing was done",
);

/// Which tenant is meant; without it the default one, or the only one.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfTenant {
    /// Which tenant; without it the default one, or the only one.
    #[param(pattern = "^[a-z0-9_-]{1,64}$")]
    pub(super) tenant: Option<String>,
}

/// The user that a path names, of a tenant that is configured.
pub(super) struct Subject {
    pub(super) tenant: TenantId,
    pub(super) enforcer: Arc<TenantEnforcer>,
    pub(super) user: UserId,
}

/// The user that a path names, of any tenant.
pub(super) struct NamedUser(pub(super) UserId);

/// The session that a path names.
pub(super) struct NamedSession(pub(super) SessionId);

async fn named(parts: &mut Parts, admin: &Arc<Admin>, name: &str) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, admin).await.ok()?;
    params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

impl FromRequestParts<Arc<Admin>> for NamedUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let uid = named(parts, admin, "uid").await.ok_or(BAD_UID)?;
        UserId::parse(&uid).map(Self).map_err(|_grammar| BAD_UID)
    }
}

impl FromRequestParts<Arc<Admin>> for Subject {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let NamedUser(user) = NamedUser::from_request_parts(parts, admin).await?;
        let Params(of): Params<OfTenant> = Params::from_request_parts(parts, admin).await?;
        let (tenant, enforcer) = admin.tenant(of.tenant.as_deref())?;
        Ok(Self { tenant: tenant.clone(), enforcer: Arc::clone(enforcer), user })
    }
}

impl FromRequestParts<Arc<Admin>> for NamedSession {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let session = named(parts, admin, "session").await.ok_or(BAD_SESSION)?;
        SessionId::parse(&session).map(Self).map_err(|_grammar| BAD_SESSION)
    }
}

/// Who changes something, and why. It is kept with the change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    #[schema(min_length = 1, max_length = 500, example = "ops")]
    pub(super) owner: String,
    #[schema(min_length = 1, max_length = 500, example = "incident over")]
    pub(super) reason: String,
}

impl Word {
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.owner == OURSELVES {
            return Err(NOT_US);
        }
        Entry::check_word(&self.owner, &self.reason).map_err(|_which| BAD_WORD)
    }
}

/// The same where a request may leave it out: whoever holds the key has done it, and has not said why.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OptionalWord {
    #[schema(min_length = 1, max_length = 500)]
    owner: Option<String>,
    #[schema(min_length = 1, max_length = 500)]
    reason: Option<String>,
}

impl OptionalWord {
    pub(super) fn new(owner: Option<String>, reason: Option<String>) -> Self {
        Self { owner, reason }
    }
}

/// Who has done it where nobody says so.
const SOMEBODY: &str = "admin";
/// Why where nobody says so.
const NO_REASON: &str = "none given";

impl Admin {
    /// The tenant that is named, without a name the default one, or the only one.
    pub(super) fn tenant(&self, named: Option<&str>) -> Result<(&TenantId, &Arc<TenantEnforcer>), Problem> {
        let name = named.unwrap_or(TenantId::DEFAULT);
        let only = || (named.is_none() && self.tenants.len() == 1).then(|| self.tenants.first_key_value()).flatten();
        TenantId::parse(name).ok().and_then(|id| self.tenants.get_key_value(&id)).or_else(only).ok_or(NO_TENANT)
    }

    /// Puts on record, durably, who does something and why, before it is done. `act` says what, such as `enforce/default/ann`.
    pub(super) async fn audit(&self, act: String, word: OptionalWord) -> Result<(), Problem> {
        let owner = word.owner.unwrap_or_else(|| SOMEBODY.to_owned());
        let reason = word.reason.unwrap_or_else(|| NO_REASON.to_owned());
        Word { owner: owner.clone(), reason: reason.clone() }.check()?;
        self.deciding()?.control.note(act.clone(), owner.clone(), reason.clone()).await.map_err(
            |error| match error {
                ChangeError::Bad(_) => BAD_WORD,
                ChangeError::Unavailable(error) => {
                    tracing::error!("a change cannot be put on record: {error:#}");
                    NOT_WRITTEN
                }
            },
        )?;
        tracing::info!(act, owner, "an operator does `{act}`, by {owner}: {reason}");
        Ok(())
    }
}
