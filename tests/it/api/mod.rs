//! The session API, asked over the public listener as apps do.

mod access;
mod admin;
mod measured;
mod mine;
mod newcomers;
mod repeats;
mod script;
mod told;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use soloist::sandbox::{LoginMade, Sandbox, SandboxConfig};

use crate::support::service::Service;
use crate::support::soon;

/// An app server's key; the configuration has its hash.
pub(super) const KEY: &str = "slk_of-the-shop";

/// A service that knows the shop's key, with options on top.
pub(super) struct Shop {
    pub(super) service: Service,
    pub(super) base: String,
}

pub(super) fn key(name: &str, key: &str, scopes: &str, more: &str) -> String {
    let sha256 = hex::encode(Sha256::digest(key.as_bytes()));
    format!(r#"{{name = "{name}", sha256 = "{sha256}", scopes = {scopes}{more}}}"#)
}

impl Shop {
    pub(super) async fn open(options: &[(&str, &str)]) -> Self {
        Self::open_on(Sandbox::start(SandboxConfig::default()).await.unwrap(), options).await
    }

    pub(super) async fn open_on(sandbox: Sandbox, options: &[(&str, &str)]) -> Self {
        let keys = format!("[{}]", key("shop", KEY, r#"["checkpoint", "verdict"]"#, ""));
        let mut all = vec![
            ("SOLOIST_API__KEYS", keys.as_str()),
            ("SOLOIST_API__TOKEN_REQUESTS_PER_SECOND", "1000"),
            ("SOLOIST_API__ADDRESS_REQUESTS_PER_SECOND", "10000"),
        ];
        all.extend_from_slice(options);
        let service = Service::start_on(sandbox, tempfile::tempdir().unwrap(), &all).await;
        let base = service.webhook_url.trim_end_matches("/webhooks/loginradius").to_owned();
        Self { service, base }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.service.client.request(method.parse::<Method>().unwrap(), format!("{}{path}", self.base))
    }

    /// Status and body of an answer.
    pub(super) async fn ask(&self, request: RequestBuilder) -> (u16, Value) {
        let response = soon("an answer", request.send()).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&soon("its body", response.bytes()).await.unwrap()).unwrap_or(Value::Null))
    }

    /// Asks as the app server.
    pub(super) async fn app(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(self.request("POST", path).bearer_auth(KEY).json(body)).await
    }

    /// Asks as the user of a session.
    pub(super) async fn user(&self, method: &str, path: &str, login: &LoginMade) -> (u16, Value) {
        self.ask(self.request(method, path).bearer_auth(&login.access_token)).await
    }

    pub(super) fn login(&self, uid: &str, device: &str) -> LoginMade {
        self.service.sandbox.advance(std::time::Duration::from_millis(2));
        self.service.sandbox.login(uid, Some(device)).unwrap()
    }

    /// A login of which no webhook tells.
    pub(super) fn login_in_silence(&self, uid: &str, device: &str) -> LoginMade {
        self.service.sandbox.advance(std::time::Duration::from_millis(2));
        self.service.sandbox.login_in_silence(uid, Some(device)).unwrap()
    }

    pub(super) async fn close(self) {
        self.service.stop().await;
    }
}

/// The ids of sessions in a list.
pub(super) fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|session| session["session"].as_str().unwrap()).collect()
}
