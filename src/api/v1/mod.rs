//! The session API: what apps, users and support ask over the public listener.
//!
//! | file | job |
//! |---|---|
//! | `callers`, `limits` | who asks, and whether they may: app keys, users' tokens, how often |
//! | `checkpoint` | whether a user may come in, and who would have to go |
//! | `mine` | a user's own sessions |
//! | `told` | what became of a session, from what is known here |
//! | `events` | a stream that tells a tab that it was signed out |
//! | `script` | `soloist.js`, which asks all this in a browser |
//! | `shown` | how sessions and reasons look in answers |
//!
//! No answer holds a token, and a session's id is good only together with its user.

mod callers;
mod checkpoint;
mod events;
mod limits;
mod mine;
mod script;
mod shown;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::callers::Callers;
pub use self::callers::KEY_PREFIX;
use crate::clock::Clock;
use crate::config::ApiConfig;
use crate::directives::Control;
use crate::http::{Problem, WRONG_METHOD};
use crate::ledger::Endings;
use crate::model::TenantId;
use crate::provider::ProviderError;
use crate::queue::Queue;
use crate::worker::{Evaluation, StepError, TenantEnforcer};

/// How long a browser may remember what a site is allowed.
const CORS_MAX_AGE: Duration = Duration::from_mins(10);
/// What a caller is asked to wait whose answer did not come in time.
const RETRY_AFTER_SECONDS: u32 = 2;

/// What the session API works on.
pub struct Sessions {
    pub tenants: BTreeMap<TenantId, Arc<TenantEnforcer>>,
    pub queue: Arc<dyn Queue>,
    pub endings: Arc<Endings>,
    /// `None` where another process decides: then nothing can be pinned here.
    pub control: Option<Arc<Control>>,
    pub clock: Clock,
    pub config: ApiConfig,
}

/// What every handler shares.
pub(super) struct Api {
    sessions: Sessions,
    callers: Callers,
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
    // It is made of constants, so it always serialises.
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let api = Arc::new(Api { callers: Callers::new(&sessions.config), sessions });
    router
        .with_state(Arc::clone(&api))
        .method_not_allowed_fallback(async || WRONG_METHOD)
        .layer(middleware::from_fn_with_state(api, guard))
        .route("/v1/openapi.json", get(described).with_state(document))
        .route("/v1/soloist.js", get(script::script))
        .layer(cors)
}

async fn described(State(document): State<Arc<str>>) -> impl axum::response::IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document.to_string())
}

fn cors(config: &ApiConfig) -> CorsLayer {
    let origins = config.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::HeaderName::from_static("idempotency-key"),
            header::HeaderName::from_static("last-event-id"),
            header::HeaderName::from_static("soloist-tenant"),
        ])
        .expose_headers([header::RETRY_AFTER])
        .max_age(CORS_MAX_AGE)
}

const TOKEN_IN_URL: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "token_in_url",
    "a token does not belong into an address, where logs keep it: send it as a Bearer token in the Authorization header",
);

/// Query parameters that somebody may take for the place of a token.
const TOKEN_PARAMETERS: [&str; 4] = ["token", "access_token", "authorization", "key"];

/// Refuses tokens in addresses, and keeps answers out of caches.
async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let mut response = if names.into_iter().any(|name| TOKEN_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())) {
        axum::response::IntoResponse::into_response(TOKEN_IN_URL)
    } else if let Err(problem) = api.callers.admit_address(&request) {
        axum::response::IntoResponse::into_response(problem)
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const SLOW: Problem = Problem {
    status: StatusCode::SERVICE_UNAVAILABLE,
    name: "provider_unavailable",
    detail: "LoginRadius does not answer now",
    retry_after: RETRY_AFTER_SECONDS,
};

impl Api {
    /// What the identity provider says, within `api.wait_max`.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, StepError>>) -> Result<T, Problem> {
        match timeout(self.sessions.config.wait_max, asked).await {
            Ok(answered) => answered.map_err(|error| problem_of(&error)),
            Err(_late) => Err(SLOW),
        }
    }

    /// A look at a user that ends nobody, shared with whoever asks at the same moment.
    async fn view(&self, enforcer: &TenantEnforcer, user: &crate::model::UserId) -> Result<Arc<Evaluation>, Problem> {
        match timeout(self.sessions.config.wait_max, enforcer.view(user)).await {
            Ok(answered) => answered.map_err(|error| problem_of(&error)),
            Err(_late) => Err(SLOW),
        }
    }
}

/// The answer says when to come again; whose fault it is, is nobody's business but the log's.
fn problem_of(error: &StepError) -> Problem {
    match error {
        // A user who does not exist has no sessions: nobody learns here whether one does.
        StepError::Provider(ProviderError::UserUnknown(_)) => NOBODY,
        StepError::Provider(_) | StepError::Deadline => SLOW,
        StepError::Directives(_) | StepError::Budget(_) | StepError::Ledger(_) => Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            name: "not_now",
            detail: "nobody's session can be ended now: try again",
            retry_after: RETRY_AFTER_SECONDS,
        },
    }
}

const NOBODY: Problem = Problem::new(StatusCode::NOT_FOUND, "no_session", "the user has no such session");
