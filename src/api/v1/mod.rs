//! The session API: what apps, users and support ask over the public listener.
//!
//! | file | job |
//! |---|---|
//! | `who`, `callers`, `limits` | who asks, and whether they may: app keys, users' tokens, how often |
//! | `input` | what they send, within limits |
//! | `idempotency`, `begun` | what is asked again with the same key is done once |
//! | `checkpoint` | whether a user may come in, and who would have to go |
//! | `mine` | a user's own sessions |
//! | `told` | what became of a session, from what is known here |
//! | `events` | a stream that tells a tab that it was signed out |
//! | `script` | `soloist.js`, which asks all this in a browser |
//! | `shown` | how sessions and reasons look in answers |
//!
//! No answer holds a token, and a session's id is good only together with its user.

mod begun;
mod callers;
mod checkpoint;
mod events;
mod idempotency;
mod input;
mod limits;
mod mine;
mod script;
mod shown;
mod told;
mod who;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::begun::Begun;
use self::callers::Callers;
pub use self::callers::KEY_PREFIX;
use self::idempotency::{Repeats, Work};
use super::{described, reference};
use crate::clock::Clock;
use crate::config::ApiConfig;
use crate::directives::Control;
use crate::http::{Problem, WRONG_METHOD};
use crate::ledger::Endings;
use crate::model::{LoginEvent, TenantId, UserId};
use crate::provider::ProviderError;
use crate::queue::{Queue, Reserved, login_look};
use crate::telemetry::{Metrics, RouteMetrics, causes};
use crate::worker::{Evaluation, StepError, TenantEnforcer};

/// How long a browser may remember what a site is allowed.
const CORS_MAX_AGE: Duration = Duration::from_mins(10);
/// What a caller is asked to wait whose answer did not come in time.
const RETRY_AFTER_SECONDS: u32 = 2;
/// And at most, where LoginRadius says when to come again.
const RETRY_AFTER_SECONDS_MAX: u64 = 600;
/// How long a look may wait for the disk or the broker.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the session API works on.
pub struct Sessions {
    pub tenants: BTreeMap<TenantId, Arc<TenantEnforcer>>,
    pub queue: Arc<dyn Queue>,
    pub endings: Arc<Endings>,
    /// `None` where another process decides: then nothing can be pinned here.
    pub control: Option<Arc<Control>>,
    pub begun: Begun,
    pub metrics: Metrics,
    pub clock: Clock,
    pub config: ApiConfig,
    /// Ends all streams.
    pub closing: CancellationToken,
}

/// What every handler shares.
pub(super) struct Api {
    sessions: Sessions,
    callers: Callers,
    /// Streams that may still be opened: others take their connections from the same listener.
    streams: Arc<Semaphore>,
    /// What goes on when its caller has gone away.
    ends: TaskTracker,
    /// One device is kept at a time, so that counting and keeping are one.
    pins: Semaphore,
    lately: Lately,
    repeats: Repeats,
    /// By route, as the description names it.
    measured: HashMap<String, RouteMetrics>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Soloist session API",
        description = "What apps ask about the sessions of their users. No answer holds a token.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&Credentials)
)]
struct Document;

struct Credentials;

impl utoipa::Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, description) in
            [("app_key", "The key of an app server."), ("user_token", "The access token of the user who asks.")]
        {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(description.to_owned());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(checkpoint::checkpoint))
        .routes(routes!(checkpoint::preflight))
        .routes(routes!(mine::sessions))
        .routes(routes!(mine::end))
        .routes(routes!(mine::end_others))
        .routes(routes!(mine::pin))
        .routes(routes!(told::verdict))
        .routes(routes!(told::why))
        .routes(routes!(events::events))
}

/// The OpenAPI 3.1 document of the session API.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

/// `/v1/…`
pub fn router(sessions: Sessions) -> Router {
    for enforcer in sessions.tenants.values() {
        enforcer.set_asked_percent(sessions.config.rate_percent);
    }
    let (router, document) = routes().split_for_parts();
    let cors = cors(&sessions.config);
    let of_route = |route: &String| (route.clone(), sessions.metrics.api.of_route(route));
    let measured = document.paths.paths.keys().map(of_route).collect();
    let page: Arc<str> = reference::page(&document).into();
    let document = described::text(&document);
    let api = Arc::new(Api {
        callers: Callers::new(&sessions.config),
        streams: Arc::new(Semaphore::new(sessions.config.streams_max)),
        ends: TaskTracker::new(),
        pins: Semaphore::new(1),
        lately: Lately::default(),
        repeats: Repeats::new(sessions.begun.clone()),
        measured,
        sessions,
    });
    router
        .with_state(Arc::clone(&api))
        .method_not_allowed_fallback(async || WRONG_METHOD)
        .layer(middleware::from_fn_with_state(api, guard))
        .route("/v1/openapi.json", get(described::answer).with_state(document))
        .route("/v1/reference", get(reference::answer).with_state(page))
        .route("/v1/soloist.js", get(script::script))
        .layer(cors)
}

fn cors(config: &ApiConfig) -> CorsLayer {
    let origins = config.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            idempotency::KEY,
            header::HeaderName::from_static("last-event-id"),
            header::HeaderName::from_static("soloist-tenant"),
        ])
        .expose_headers([header::RETRY_AFTER, idempotency::REPLAYED])
        .max_age(CORS_MAX_AGE)
}

const UNKNOWN_PARAMETER: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "unknown_parameter",
    "this address has a parameter that no route knows. A token belongs into the Authorization header, as a Bearer token: \
     logs keep addresses",
);

/// All parameters there are.
const PARAMETERS: [&str; 3] = ["limit", "cursor", "collapse"];

/// Refuses tokens in addresses, keeps answers out of caches, and counts them.
async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let query = request.uri().query().unwrap_or_default();
    let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let admitted = if names.all(|name| name.is_empty() || PARAMETERS.contains(&name)) {
        api.callers.admit_address(&request, api.sessions.clock.now())
    } else {
        Err(UNKNOWN_PARAMETER)
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(measured) = route.and_then(|route| api.measured.get(route.as_str())) {
        measured.observe(response.status().as_u16(), began.elapsed());
    }
    response
}

const SLOW: Problem = Problem {
    retry_after: RETRY_AFTER_SECONDS,
    ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", "LoginRadius does not answer now")
};
const NOT_NOW: Problem = Problem {
    retry_after: RETRY_AFTER_SECONDS,
    ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_now", "this cannot be done now: try again")
};

/// A look that may be due, and is durable before that is known where the queue can take it back.
struct Prepared {
    event: LoginEvent,
    reserved: Option<Reserved>,
}

/// For whom a look was asked within the last second: the next one is spared.
#[derive(Default)]
struct Lately(Mutex<HashMap<(TenantId, UserId), Instant>>);

impl Lately {
    /// Whether nobody has asked for this user within the last second. From now on somebody has.
    fn is_first(&self, tenant: &TenantId, user: &UserId) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= LATELY_MAX {
            asked.retain(|_, at| at.elapsed() < LATELY);
        }
        let before = asked.insert((tenant.clone(), user.clone()), Instant::now());
        before.is_none_or(|at| at.elapsed() >= LATELY)
    }

    /// Whether somebody has.
    fn has_asked(&self, tenant: &TenantId, user: &UserId) -> bool {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(&(tenant.clone(), user.clone())).is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Nobody has asked for this user after all.
    fn forget(&self, tenant: &TenantId, user: &UserId) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&(tenant.clone(), user.clone()));
    }
}

/// What [`Lately`] remembers.
const LATELY: Duration = Duration::from_secs(1);
/// Users in [`Lately`] before those of longer ago are cleared away.
const LATELY_MAX: usize = 10_000;

impl Api {
    /// What the identity provider says, within `api.wait_max`.
    async fn in_time<T, E: std::borrow::Borrow<StepError>>(
        &self,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        match timeout(self.sessions.config.wait_max, asked).await {
            Ok(answered) => answered.map_err(|error| problem_of(error.borrow())),
            Err(_late) => Err(SLOW),
        }
    }

    /// A look at a user that ends nobody, shared with whoever asks at the same moment.
    async fn view(&self, enforcer: &TenantEnforcer, user: &UserId) -> Result<Arc<Evaluation>, Problem> {
        self.in_time(enforcer.view(user)).await
    }

    /// Begins to make the look durable that may be due at a user, while LoginRadius is being asked: so nobody waits for the
    /// disk afterwards. Dropped, it is taken back. It turns nobody away, so a crash before it is known whether anybody has to
    /// go ends nobody who would have stayed.
    fn prepare(&self, tenant: &TenantId, user: &UserId) -> Prepared {
        let event = login_look(tenant, user, None);
        let is_spared = self.lately.has_asked(tenant, user);
        Prepared { reserved: if is_spared { None } else { self.sessions.queue.reserve(&event) }, event }
    }

    /// The look that turns away who has just logged in.
    fn turn_away(&self, tenant: &TenantId, user: &UserId) -> Prepared {
        Prepared { event: login_look(tenant, user, Some(self.sessions.clock.now())), reserved: None }
    }

    /// Has a user enforced who has just logged in: durable when it returns.
    async fn enforce(&self, prepared: Prepared, work: &Work) -> Result<(), Problem> {
        let Prepared { event, reserved } = prepared;
        let (tenant, user) = (&event.tenant, &event.user);
        if !self.lately.is_first(tenant, user) {
            return Ok(());
        }
        let look = async {
            // What could not be reserved then may have room now.
            if let Some(reserved) = reserved
                && reserved.wanted().await.is_ok()
            {
                return Ok(());
            }
            self.sessions.queue.publish(std::slice::from_ref(&event)).await.map(drop)
        };
        let asked = timeout(QUEUE_TIMEOUT, look).await;
        if let Ok(Ok(())) = asked {
            return Ok(());
        }
        self.lately.forget(tenant, user);
        if let Ok(Err(error)) = asked {
            work.undone();
            tracing::error!("a checkpoint cannot have its user looked at: {:#}", anyhow::Error::new(error));
        }
        Err(NOT_NOW)
    }
}

/// The answer says when to come again; whose fault it is, is nobody's business but the log's.
fn problem_of(error: &StepError) -> Problem {
    let problem = match error {
        StepError::Provider(ProviderError::Throttled { retry_after: Some(wait), .. }) => {
            let seconds = wait.as_secs().clamp(1, RETRY_AFTER_SECONDS_MAX);
            Problem { retry_after: u32::try_from(seconds).unwrap_or(RETRY_AFTER_SECONDS), ..SLOW }
        }
        StepError::Provider(_) | StepError::Deadline => SLOW,
        StepError::Directives(_) | StepError::Budget(_) | StepError::Ledger(_) => NOT_NOW,
    };
    tracing::warn!(problem = problem.name, "a question of an app is not answered: {}", causes(error));
    problem
}

const NOBODY: Problem = Problem::new(StatusCode::NOT_FOUND, "no_session", "the user has no such session");
