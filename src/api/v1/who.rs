//! The callers as handlers take them: an app server, a user, whoever holds a token.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};

use super::Api;
use super::callers::{KEY_PREFIX, UNKNOWN, bearer};
use crate::config::Scope;
use crate::http::Problem;
use crate::model::{AccessToken, SessionId, TenantId, UserId};

const NOT_FOR_THIS: Problem =
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "these credentials are not for this request");

/// An app server, by its key.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// Of its key.
    pub(super) sha256: [u8; 32],
    pub(super) scopes: Vec<Scope>,
    pub(super) tenant: TenantId,
}

/// A user, by the token of one of their sessions.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) tenant: TenantId,
    pub(super) id: UserId,
    pub(super) token: AccessToken,
}

impl User {
    pub(super) fn session(&self) -> SessionId {
        self.token.digest().session_id()
    }

    /// Who they are, of which tenant, apart from all other callers.
    pub(super) fn identity(&self) -> [&[u8]; 3] {
        [self.tenant.as_str().as_bytes(), b"user", self.id.as_str().as_bytes()]
    }
}

/// Either of them.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    App(App),
    User(User),
}

/// Somebody who holds a token, dead or alive.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) tenant: TenantId,
    pub(super) token: AccessToken,
}

impl Caller {
    /// The tenant that an app server asks about, if it may ask this.
    pub(super) fn app(&self, scope: Scope) -> Result<&TenantId, Problem> {
        match self {
            Self::App(app) if app.scopes.contains(&scope) => Ok(&app.tenant),
            _ => Err(NOT_FOR_THIS),
        }
    }

    pub(super) fn identity(&self) -> [&[u8]; 3] {
        match self {
            Self::App(app) => [app.tenant.as_str().as_bytes(), b"app", &app.sha256],
            Self::User(user) => user.identity(),
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let presented = bearer(&parts.headers).map(str::to_owned);
        let caller = match &presented {
            Some(key) if key.starts_with(KEY_PREFIX) => api.app(&parts.headers, key).map(Self::App),
            Some(token) => api.user(&parts.headers, token).await.map(Self::User),
            None => Err(UNKNOWN),
        };
        caller.map_err(|problem| {
            // A tab that was signed out is no guess.
            if problem.name == UNKNOWN.name {
                api.refuse(parts);
            }
            Refused(problem)
        })
    }
}

/// An app server that may ask who would have to go; the tenant it asks about.
pub(super) struct MayCheck(pub(super) TenantId);

impl FromRequestParts<Arc<Api>> for MayCheck {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let caller = Caller::from_request_parts(parts, api).await?;
        caller.app(Scope::Checkpoint).cloned().map(Self).map_err(Refused)
    }
}

/// An app server that may ask what became of a session; the tenant it asks about.
pub(super) struct MayKnow(pub(super) TenantId);

impl FromRequestParts<Arc<Api>> for MayKnow {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let caller = Caller::from_request_parts(parts, api).await?;
        caller.app(Scope::Verdict).cloned().map(Self).map_err(Refused)
    }
}

impl FromRequestParts<Arc<Api>> for User {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        match Caller::from_request_parts(parts, api).await? {
            Caller::User(user) => Ok(user),
            Caller::App(_) => Err(Refused(NOT_FOR_THIS)),
        }
    }
}

impl FromRequestParts<Arc<Api>> for Holder {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let token = bearer(&parts.headers).filter(|token| !token.starts_with(KEY_PREFIX)).map(AccessToken::new);
        let Some(token) = token else {
            api.refuse(parts);
            return Err(Refused(UNKNOWN));
        };
        api.callers.by_token.admit(&token.digest()).map_err(Refused)?;
        let (tenant, _) = api.tenant_named(&parts.headers).map_err(Refused)?;
        Ok(Self { tenant: tenant.clone(), token })
    }
}

/// Refused credentials, said as HTTP wants it.
pub(super) struct Refused(Problem);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        if self.0.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
