//! The vendor's routes. Paths, parameters and headers are read in any case, because the vendor's own SDKs differ.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Shared,
    config::{RowCase, WebhookForm},
    faults::CallFault,
    line::Peer,
    refusal::{Envelope, Refusal},
    session::{Credentials, Session, digest, session_id, stamp},
    world::{Lookup, is_uid},
};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    List,
    Validate,
    Invalidate,
    Refresh,
    AuthToken,
    AuthValidate,
    AuthInvalidate,
    Identify,
    Profile(String),
    Roles(String),
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let segments: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(percent_decoded).collect();
        let lower: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        let uid = || segments.get(4).cloned().unwrap_or_default();
        Some(match lower.as_slice() {
            ["api", "v2", "access_token", "activesession"] => Self::List,
            ["api", "v2", "access_token", "validate"] => Self::Validate,
            ["api", "v2", "access_token", "invalidate"] => Self::Invalidate,
            ["api", "v2", "access_token", "refresh"] => Self::Refresh,
            ["identity", "v2", "auth", "access_token"] => Self::AuthToken,
            ["identity", "v2", "auth", "access_token", "validate"] => Self::AuthValidate,
            ["identity", "v2", "auth", "access_token", "invalidate"] => Self::AuthInvalidate,
            ["identity", "v2", "auth", "account"] => Self::Identify,
            // Minting a token for a user is a route of its own, which the sandbox does not offer.
            ["identity", "v2", "manage", "account", "access_token", ..] => return None,
            ["identity", "v2", "manage", "account", _] => Self::Profile(uid()),
            ["identity", "v2", "manage", "account", _, "role"] => Self::Roles(uid()),
            _ => return None,
        })
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Validate => "validate",
            Self::Invalidate => "invalidate",
            Self::Refresh => "refresh",
            Self::AuthToken => "auth_token",
            Self::AuthValidate => "auth_validate",
            Self::AuthInvalidate => "auth_invalidate",
            Self::Identify => "identify",
            Self::Profile(_) => "profile",
            Self::Roles(_) => "roles",
        }
    }

    fn envelope(&self) -> Envelope {
        match self {
            Self::List | Self::Validate | Self::Invalidate | Self::Refresh => Envelope::Camel,
            _ => Envelope::Pascal,
        }
    }
}

/// What a request carries besides its path.
struct Call {
    query: Vec<(String, String)>,
    headers: HeaderMap,
}

impl Call {
    fn read(request: &Request) -> Self {
        let query =
            Query::<Vec<(String, String)>>::try_from_uri(request.uri()).map(|query| query.0).unwrap_or_default();
        Self { query, headers: request.headers().clone() }
    }

    /// The first of these parameters that is there and not empty.
    fn param(&self, names: &[&str]) -> Option<&str> {
        let mut found =
            self.query.iter().filter(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)));
        found.find(|(_, value)| !value.trim().is_empty()).map(|(_, value)| value.as_str())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|value| !value.is_empty())
    }

    fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
    }

    fn token(&self) -> Result<&str, Refusal> {
        self.param(&["access_token"]).ok_or(Refusal::TokenMissing)
    }

    fn auth_token(&self) -> Result<(&str, Credentials), Refusal> {
        match self.bearer() {
            Some(token) => Ok((token, Credentials::Bearer)),
            None => Ok((self.token()?, Credentials::TokenInQuery)),
        }
    }

    fn prevents_refresh(&self) -> bool {
        self.param(&["preventrefresh"]).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    fn fields(&self) -> Vec<String> {
        let fields = self.param(&["fields"]).unwrap_or_default();
        fields.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect()
    }
}

/// What a key or a secret may look like at all.
fn is_plausible(credential: &str) -> bool {
    credential.len() <= 128 && credential.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Answers any vendor call. Counting, rate limit and faults come before everything else.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some(route) = Route::of(request.uri().path()) else { return StatusCode::NOT_FOUND.into_response() };
    if request.method() != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.clone());
    let call = Call::read(&request);
    let operation = route.operation();
    let limit = shared.config.requests_per_second;
    let admitted = shared.calls().arrive(operation, limit, tokio::time::Instant::now());
    let response =
        if admitted { faulty(&shared, &route, &call, peer.as_ref()).await } else { Some(throttled(&route, None)) };
    let answer = response.as_ref().map_or_else(|| "lost".to_owned(), |response| response.status().as_u16().to_string());
    shared.calls().answered(operation, &answer);
    response.unwrap_or_else(|| {
        if let Some(peer) = peer {
            peer.cut();
        }
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    })
}

fn throttled(route: &Route, retry_after_seconds: Option<u64>) -> Response {
    let mut response = Refusal::TooManyRequests.answer(route.envelope(), StatusCode::TOO_MANY_REQUESTS);
    if let Some(seconds) = retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer after what befalls the call; `None` if there will be none.
async fn faulty(shared: &Shared, route: &Route, call: &Call, peer: Option<&Peer>) -> Option<Response> {
    let (wait_ms, fault) = shared.dice().call(route.operation());
    if wait_ms > 0 {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = shared.stop.cancelled() => return None,
        }
    }
    let envelope = route.envelope();
    match fault {
        None => Some(served(shared, route, call)),
        Some(CallFault::Throttled { retry_after_seconds }) => Some(throttled(route, retry_after_seconds)),
        Some(CallFault::Status(status)) => Some(outage_page(status)),
        Some(CallFault::UnknownError) => Some(Refusal::UnknownError.answer(envelope, Refusal::UnknownError.status())),
        Some(CallFault::LoginLimited) => Some(Refusal::LoginLimited.answer(envelope, Refusal::LoginLimited.status())),
        Some(CallFault::Disguised) => Some(Refusal::UnknownError.answer(envelope, StatusCode::OK)),
        Some(CallFault::Garbage(body)) => Some(body.into_response()),
        Some(CallFault::Hang) => {
            shared.stop.cancelled().await;
            None
        }
        Some(CallFault::Reset) => None,
        Some(CallFault::AnswerLost) => {
            let response = served(shared, route, call);
            // Without a connection there is nothing to cut, so the answer is given.
            peer.is_none().then_some(response)
        }
    }
}

/// What a gateway says when there is nothing behind it: no envelope of the vendor's.
fn outage_page(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, [(header::CONTENT_TYPE, "text/html")], format!("<html><body><h1>{status}</h1></body></html>"))
        .into_response()
}

/// The answer of a vendor that works.
fn served(shared: &Shared, route: &Route, call: &Call) -> Response {
    let now = shared.clock.now();
    let result = match route {
        Route::List => list(shared, call, now),
        Route::Validate | Route::AuthValidate => validate(shared, route, call, now),
        Route::Invalidate | Route::AuthInvalidate => invalidate(shared, route, call, now),
        Route::Refresh => refresh(shared, call, now),
        Route::AuthToken => auth_token(shared, call, now),
        Route::Identify => identify(shared, call, now),
        Route::Profile(uid) => profile(shared, call, uid),
        Route::Roles(uid) => roles(shared, call, uid),
    };
    result.unwrap_or_else(|refusal| refusal.answer(route.envelope(), refusal.status()))
}

fn check_key(shared: &Shared, key: Option<&str>) -> Result<(), Refusal> {
    match key {
        None => Err(Refusal::KeyMissing),
        Some(key) if key == shared.config.api_key => Ok(()),
        Some(key) if is_plausible(key) => Err(Refusal::KeyUnauthorized),
        Some(_) => Err(Refusal::KeyInvalid),
    }
}

fn check_secret(shared: &Shared, secret: Option<&str>) -> Result<(), Refusal> {
    match secret {
        None => Err(Refusal::SecretMissing),
        Some(_) if shared.dice().faults().secret_rotated => Err(Refusal::SecretUnauthorized),
        Some(secret) if secret == shared.config.api_secret => Ok(()),
        Some(secret) if is_plausible(secret) => Err(Refusal::SecretUnauthorized),
        Some(_) => Err(Refusal::SecretInvalid),
    }
}

const KEY_HEADER: &str = "x-loginradius-apikey";
const SECRET_HEADER: &str = "x-loginradius-apisecret";

/// Key and secret of a call that only a server may make. `secrets` are the query's names for the secret.
fn check_server(shared: &Shared, call: &Call, secrets: &[&str]) -> Result<Credentials, Refusal> {
    check_key(shared, call.header(KEY_HEADER).or_else(|| call.param(&["key", "apikey"])))?;
    let header = call.header(SECRET_HEADER);
    check_secret(shared, header.or_else(|| call.param(secrets)))?;
    Ok(if header.is_some() { Credentials::SecretInHeaders } else { Credentials::SecretInQuery })
}

fn check_app(shared: &Shared, call: &Call) -> Result<(), Refusal> {
    check_key(shared, call.header(KEY_HEADER).or_else(|| call.param(&["apikey"])))
}

fn list(shared: &Shared, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    check_server(shared, call, &["secret"])?;
    let lookup = if let Some(uid) = call.param(&["accountid"]) {
        Lookup::Account(uid.to_owned())
    } else if let Some(id) = call.param(&["profileid"]) {
        Lookup::Profile(id.to_owned())
    } else if let Some(token) = call.param(&["token"]) {
        Lookup::Token(token.to_owned())
    } else {
        return Err(Refusal::ParameterMissing);
    };
    let page = shared.world().list(&lookup, call.param(&["nextcursor"]), now)?;
    let mut dice = shared.dice();
    let rows = page.rows.map(|rows| rows.into_iter().filter(|_| !dice.hides_row()).collect::<Vec<_>>());
    let digits = shared.config.login_date.digits();
    let date = |row: &Session| dice.faults().login_dates.get(&row.id()).cloned().unwrap_or(stamp(row.login_at, digits));
    let row_json = |row: &Session| row_json(row, shared.config.row_case, &date(row));
    let rows = rows.map(|rows| rows.iter().map(row_json).collect::<Vec<_>>());
    Ok(Json(json!({ "nextCursor": page.next_cursor, "data": rows })).into_response())
}

fn row_json(row: &Session, case: RowCase, date: &str) -> Value {
    let device = row.device;
    match case {
        RowCase::Pascal => json!({
            "AccessToken": row.access_token, "Browser": device.browser, "Device": device.device, "Os": device.os,
            "DeviceType": device.device_type, "City": row.city, "Country": row.country, "Ip": row.ip, "LoginDate": date,
        }),
        RowCase::Camel => json!({
            "accesstoken": row.access_token, "browser": device.browser, "device": device.device, "os": device.os,
            "deviceType": device.device_type, "city": row.city, "country": row.country, "Ip": row.ip, "LoginDate": date,
        }),
    }
}

fn validate(shared: &Shared, route: &Route, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    let token = if *route == Route::Validate {
        check_server(shared, call, &["secret"])?;
        call.token()?
    } else {
        check_app(shared, call)?;
        call.auth_token()?.0
    };
    let world = shared.world();
    let session = world.live(token, now)?;
    let expires_in = stamp(session.expires_at, 7);
    Ok(Json(json!({ "access_token": session.access_token, "expires_in": expires_in })).into_response())
}

fn invalidate(shared: &Shared, route: &Route, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    let (token, credentials) = if *route == Route::Invalidate {
        let credentials = check_server(shared, call, &["secret"])?;
        (call.token()?, credentials)
    } else {
        check_app(shared, call)?;
        call.auth_token()?
    };
    if shared.dice().faults().is_stubborn(&session_id(&digest(token))) {
        return Err(Refusal::AccountBlocked);
    }
    shared.world().invalidate(token, call.prevents_refresh(), credentials, now)?;
    Ok(Json(json!({ "IsPosted": true })).into_response())
}

/// The vendor's SDKs send the secret and no key.
fn refresh(shared: &Shared, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    if let Some(key) = call.header(KEY_HEADER).or_else(|| call.param(&["key", "apikey"])) {
        check_key(shared, Some(key))?;
    }
    check_secret(shared, call.header(SECRET_HEADER).or_else(|| call.param(&["secret"])))?;
    let session = shared.world().refresh(call.token()?, now)?;
    let expires_in = stamp(session.expires_at, 7);
    Ok(Json(json!({ "access_token": session.access_token, "expires_in": expires_in })).into_response())
}

fn auth_token(shared: &Shared, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    check_app(shared, call)?;
    let (token, _) = call.auth_token()?;
    shared.world().live(token, now)?;
    Ok(Json(json!({ "provider": "email", "access_token": token, "isrememberme": false })).into_response())
}

fn identify(shared: &Shared, call: &Call, now: Timestamp) -> Result<Response, Refusal> {
    check_app(shared, call)?;
    let (token, _) = call.auth_token()?;
    let world = shared.world();
    let user = world.users.get(&world.live(token, now)?.uid).ok_or(Refusal::UserUnknown)?;
    Ok(profile_page(user.profile(WebhookForm::Year2023, &call.fields())))
}

fn profile(shared: &Shared, call: &Call, uid: &str) -> Result<Response, Refusal> {
    check_server(shared, call, &["apisecret", "secret"])?;
    let world = shared.world();
    let user = if is_uid(uid) { world.users.get(uid) } else { return Err(Refusal::UidSyntax) };
    Ok(profile_page(user.ok_or(Refusal::UserUnknown)?.profile(WebhookForm::Year2023, &call.fields())))
}

fn roles(shared: &Shared, call: &Call, uid: &str) -> Result<Response, Refusal> {
    check_server(shared, call, &["apisecret", "secret"])?;
    let world = shared.world();
    let user = if is_uid(uid) { world.users.get(uid) } else { return Err(Refusal::UidSyntax) };
    Ok(Json(json!({ "Roles": user.ok_or(Refusal::UserUnknown)?.traits.roles })).into_response())
}

fn profile_page(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response()
}

/// A path segment without its percent escapes. What is no escape stays as it is.
fn percent_decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|digits| hex::decode(digits).ok());
        if let Some(&[decoded]) = escaped.as_deref() {
            bytes.push(decoded);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
