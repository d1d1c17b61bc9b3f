//! The LoginRadius client against a vendor that answers as scripted, over real sockets.

mod certificates;
mod errors;
mod listing;
mod profile;
mod revoking;
mod secrets;
mod transport;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Response};
use reqwest::Url;
use serde_json::{Value, json};
use soloist::model::{AccessToken, UserId, View};
use soloist::provider::loginradius::{ApiUrl, LoginRadius, LoginRadiusConfig};
use soloist::provider::{ProviderError, Revoked, SessionProvider as _};
use tokio::task::JoinSet;

const KEY: &str = "canary-key";
const SECRET: &str = "canary-secret";
const TOKEN: &str = "canary-token";

/// The whole chain, as a log shows it.
fn text(error: ProviderError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// What the vendor does with the next request.
enum Reply {
    Answer(Response<Body>),
    Silence,
}

fn reply(status: u16, body: impl Into<Body>) -> Reply {
    Reply::Answer(Response::builder().status(status).body(body.into()).unwrap())
}

fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, body.to_string())
}

fn ok(body: &Value) -> Reply {
    json_reply(200, body)
}

fn with_header(reply: Reply, name: &'static str, value: &str) -> Reply {
    let Reply::Answer(mut response) = reply else { panic!("silence has no headers") };
    response.headers_mut().insert(name, value.parse().unwrap());
    Reply::Answer(response)
}

/// A request as the vendor saw it.
struct Seen {
    peer: SocketAddr,
    uri: String,
    headers: HeaderMap,
}

impl Seen {
    fn url(&self) -> Url {
        Url::parse(&format!("http://vendor{}", self.uri)).unwrap()
    }

    fn query(&self, name: &str) -> Option<String> {
        self.url().query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A LoginRadius on a loopback port that gives its scripted replies in order, then `418`.
struct Vendor {
    url: String,
    script: Script,
    _server: JoinSet<()>,
}

impl Vendor {
    async fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Script::default();
        script.replies.lock().unwrap().extend(replies);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(next_reply).with_state(script.clone());
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, script, _server: server }
    }

    fn config(&self) -> LoginRadiusConfig {
        LoginRadiusConfig::new(ApiUrl::parse(&self.url).unwrap(), KEY.into(), SECRET.into())
    }

    fn client(&self) -> LoginRadius {
        LoginRadius::new(self.config()).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.seen.lock().unwrap())
    }
}

async fn next_reply(
    State(script): State<Script>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let seen = Seen { peer, uri: request.uri().to_string(), headers: request.headers().clone() };
    script.seen.lock().unwrap().push(seen);
    let next = script.replies.lock().unwrap().pop_front();
    match next {
        Some(Reply::Answer(response)) => response,
        Some(Reply::Silence) => std::future::pending().await,
        None => Response::builder().status(418).body(Body::empty()).unwrap(),
    }
}

fn ann() -> UserId {
    UserId::parse("ann").unwrap()
}

fn token() -> AccessToken {
    AccessToken::new(TOKEN)
}

fn row(token: &str) -> Value {
    json!({"AccessToken": token, "LoginDate": "2023-09-15T04:09:41.281Z"})
}

fn tokens(view: &View) -> Vec<&str> {
    view.sessions.iter().map(|session| session.token.expose()).collect()
}

async fn list(replies: impl IntoIterator<Item = Reply>) -> Result<View, ProviderError> {
    Vendor::new(replies).await.client().list(&ann()).await
}

async fn revoke(reply: Reply) -> Result<Revoked, ProviderError> {
    Vendor::new([reply]).await.client().revoke(&token()).await
}
