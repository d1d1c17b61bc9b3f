//! The private admin API: what operators and the command line ask of a running instance.
//!
//! | file | job |
//! |---|---|
//! | `input` | the user, tenant and session that a request names, and who changes something and why |
//! | `status` | tenants, queue and broker |
//! | `users` | one user: sessions, decisions, looking now, ending a session |
//! | `known` | all users that are known |
//! | `directives` | what holds from now on: listed, put, removed, the budget |
//! | `named` | the same by name: modes, overrides, pins, exemptions, contended users |
//! | `changes` | who changed what, and why |
//! | `dead_letters`, `ledger` | messages that were given up, and the evidence |
//!
//! Every route needs the admin key as a Bearer token, a Host that is this listener's, and no sign of a foreign page.

mod changes;
mod dead_letters;
mod directives;
mod input;
mod known;
mod ledger;
mod named;
mod status;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Parameter, ParameterIn, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::directives::Deciding;
use super::host::{self, Hosts};
use super::{described, reference};
use crate::clock::Clock;
use crate::http::{NO_ROUTE, Problem, WRONG_METHOD};
use crate::ledger::{Ledger, LedgerError, SqliteLedger};
use crate::model::TenantId;
use crate::provider::ProviderError;
use crate::queue::{DeadLetters, Queue, QueueError};
use crate::worker::{StepError, TenantEnforcer};

/// Dead letters and decisions on one page at most.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;

/// What the admin API works on.
pub struct Admin {
    pub tenants: BTreeMap<TenantId, Arc<TenantEnforcer>>,
    pub queue: Arc<dyn Queue>,
    /// `None` where another process, the control, keeps them.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
    pub ledger: Arc<dyn Ledger>,
    /// `None` where another process, the control, decides.
    pub deciding: Option<Deciding>,
    pub clock: Clock,
    /// The users seen; `None` where another process, the control, keeps them.
    pub users: Option<SqliteLedger>,
    pub key: SecretString,
    pub hosts: Hosts,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Soloist admin API",
        description = "What operators ask of a running instance, over its private listener. No answer holds a token.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("admin_key" = [])),
    modifiers(&Credentials)
)]
struct Document;

struct Credentials;

impl utoipa::Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("The key in `admin.key` in the data folder, new at every start.".to_owned());
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("admin_key", SecurityScheme::Http(scheme));
    }
}

/// Routes and their description, in which a key is one segment of a path: its slashes are encoded there.
fn split_routes() -> (Router<Arc<Admin>>, utoipa::openapi::OpenApi) {
    let (router, mut document) = routes().split_for_parts();
    if let Some(of_key) = document.paths.paths.remove(directives::BY_KEY) {
        document.paths.paths.insert(directives::BY_KEY.replace("{*key}", "{key}"), of_key);
    }
    (router, document)
}

fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::status))
        .routes(routes!(status::tenants))
        .merge(users::routes())
        .merge(known::routes())
        .merge(named::routes())
        .merge(directives::routes())
        .routes(routes!(changes::changes))
        .merge(dead_letters::routes())
        .merge(ledger::routes())
}

/// The OpenAPI 3.1 document of the admin API.
pub fn document() -> utoipa::openapi::OpenApi {
    split_routes().1
}

/// `/admin/v1/…`
pub fn router(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    let (router, document) = split_routes();
    let parameters = Arc::new(parameters(&document));
    let page: Arc<str> = reference::page(&document).into();
    let document = described::text(&document);
    router
        .route("/admin/v1/openapi.json", get(described::answer).with_state(document))
        .route("/admin/v1/reference", get(reference::answer).with_state(page))
        .fallback(async || NO_ROUTE)
        .method_not_allowed_fallback(async || WRONG_METHOD)
        .layer(middleware::from_fn_with_state(parameters, only_described))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

/// The names of all parameters that a query may have, by path.
type Parameters = BTreeMap<String, BTreeSet<String>>;

fn parameters(document: &utoipa::openapi::OpenApi) -> Parameters {
    let names = |item: &PathItem| {
        let operations = [&item.get, &item.put, &item.post, &item.delete].into_iter().flatten();
        let parameters = operations.flat_map(|operation| operation.parameters.iter().flatten());
        let name = |parameter: &RefOr<Parameter>| match parameter {
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
            _ => None,
        };
        parameters.filter_map(name).collect()
    };
    document.paths.paths.iter().map(|(path, item)| (path.clone(), names(item))).collect()
}

const UNKNOWN_PARAMETER: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "unknown_parameter",
    "nothing was done: the address has a parameter that this route does not know",
);

/// Refuses what is misspelt: `dryrun=true` would end sessions.
async fn only_described(State(known): State<Arc<Parameters>>, request: Request, next: Next) -> Response {
    let of_route = request.extensions().get::<MatchedPath>().and_then(|path| known.get(path.as_str()));
    let query = request.uri().query().unwrap_or_default();
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    if of_route.is_some_and(|known| names.any(|name| !known.contains(name))) {
        return UNKNOWN_PARAMETER.into_response();
    }
    next.run(request).await
}

const NO_KEY: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "admin_key",
    "send the key in data_dir/admin.key as a Bearer token in the Authorization header",
);

/// Refuses what does not carry the key, and what a browser sends on behalf of a foreign page.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = host::named(&request);
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let own_site = site.is_none_or(|site| site == "same-origin" || site == "none");
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    let own_origin = origin.is_none_or(|origin| Some(origin) == host);
    if !own_site || !own_origin || !host.is_some_and(|host| admin.hosts.allow(host)) {
        return host::FOREIGN.into_response();
    }
    let claimed = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !bool::from(claimed.as_bytes().ct_eq(admin.key.expose_secret().as_bytes())) {
        return NO_KEY.into_response();
    }
    next.run(request).await
}

const ELSEWHERE: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "elsewhere",
    "this process keeps neither dead letters nor decisions nor users: ask the one that runs with --role control",
);

impl Admin {
    /// The control process keeps dead letters and decisions of all.
    fn dead_letters(&self) -> Result<&dyn DeadLetters, Problem> {
        self.dead_letters.as_deref().ok_or(ELSEWHERE)
    }

    /// The control process keeps the users seen of all.
    fn users(&self) -> Result<&SqliteLedger, Problem> {
        self.users.as_ref().ok_or(ELSEWHERE)
    }
}

/// The answer says whose turn it is; the log has the cause.
fn queue_problem(error: QueueError) -> Problem {
    tracing::error!("the queue cannot be asked: {:#}", anyhow::Error::new(error));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "queue", "the queue cannot be asked now")
}

/// The answer says whose turn it is; the log has the cause.
fn ledger_problem(error: LedgerError) -> Problem {
    tracing::error!("the ledger cannot be asked: {:#}", anyhow::Error::new(error));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be asked now")
}

/// The answer says whose turn it is; the log has the cause.
fn step_problem(error: StepError) -> Problem {
    let problem = match &error {
        StepError::Provider(ProviderError::Unauthorized(_)) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "provider_unauthorized",
            "LoginRadius refuses our credentials: check api_key, api_secret and the allowed addresses",
        ),
        StepError::Provider(ProviderError::UserUnknown(_)) => {
            Problem::new(StatusCode::NOT_FOUND, "no_user", "LoginRadius does not know this user")
        }
        StepError::Provider(ProviderError::Refused(_)) => {
            Problem::new(StatusCode::BAD_GATEWAY, "provider_refused", "LoginRadius refused the request")
        }
        StepError::Provider(_) | StepError::Deadline => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", "LoginRadius does not answer now")
        }
        StepError::Directives(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "directives", "there are no current directives")
        }
        StepError::Budget(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_grant",
            "nobody grants a part of the revocation budget now",
        ),
        StepError::Ledger(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the ledger cannot be written now")
        }
    };
    tracing::warn!("an operator's request failed: {:#}", anyhow::Error::new(error));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_why_the_queue_cannot_be_asked() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            queue_problem(QueueError::Unavailable(anyhow::anyhow!("disk full").context("cannot commit")));
        });
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("cannot commit: disk full"), "{log}");
    }
}
