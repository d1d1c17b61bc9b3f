//! What holds from now on, by name: modes and canaries, overrides, pins, exemptions, contended users.
//!
//! Each is a directive, written and removed as one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Admin;
use super::directives::{Failure, Holds, Removed, shown_entry};
use super::input::{NamedSession, OfTenant, Subject, Word};
use crate::api::input::{Body, Params};
use crate::directives::What;
use crate::http::Problem;
use crate::model::TenantId;
use crate::policy::{ExemptionEffect, Mode};

pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(modes, set_mode, remove_mode))
        .routes(routes!(set_override, remove_override))
        .routes(routes!(exempt, remove_exemption))
        .routes(routes!(pin))
        .routes(routes!(unpin))
        .routes(routes!(contended))
        .routes(routes!(release))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Modes {
    modes: Vec<TenantMode>,
}

#[derive(Serialize, ToSchema)]
struct TenantMode {
    tenant: String,
    /// What the tenant's policy does now, whatever rules and overrides say: `enforce`, `observe` or `off`.
    #[schema(example = "enforce")]
    mode: &'static str,
    canary_percent: f64,
    /// The budget was used up: nobody is ended until a person resumes the tenant.
    stopped: bool,
    /// The directives that say so, where the configuration does not.
    directives: Vec<Value>,
}

/// The mode and canary of each tenant as they hold now.
#[utoipa::path(get, path = "/admin/v1/modes",
    responses((status = 200, body = Modes), (status = 401), (status = 403), (status = 404)))]
async fn modes(State(admin): State<Arc<Admin>>) -> Result<Json<Modes>, Problem> {
    let control = &admin.deciding()?.control;
    let entries = control.entries();
    let shown = |tenant: &TenantId| {
        let (mode, canary_percent) = control.live().base(tenant)?;
        let of_all = entries.iter().filter(|entry| entry.tenant == *tenant && entry.is_of_all());
        Some(TenantMode {
            tenant: tenant.as_str().to_owned(),
            mode: mode.as_str(),
            canary_percent,
            stopped: control.is_stopped(tenant),
            directives: of_all.map(shown_entry).collect(),
        })
    };
    Ok(Json(Modes { modes: admin.tenants.keys().filter_map(shown).collect() }))
}

/// A mode or a canary, one of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMode {
    /// `enforce`, `observe` or `off`.
    #[schema(pattern = "^(enforce|observe|off)$")]
    mode: Option<String>,
    /// Percent of the users, two decimals at most.
    #[schema(minimum = 0, maximum = 100)]
    canary_percent: Option<f64>,
    expires: Option<Timestamp>,
    owner: String,
    reason: String,
}

/// Sets a tenant's mode or canary from now on. Those whom the one before held back are looked at again.
#[utoipa::path(put, path = "/admin/v1/modes", params(OfTenant), request_body = NewMode,
    responses((status = 200, body = Holds), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn set_mode(
    State(admin): State<Arc<Admin>>,
    Params(of): Params<OfTenant>,
    Body(new): Body<NewMode>,
) -> Result<Json<Holds>, Failure> {
    let (tenant, _) = admin.tenant(of.tenant.as_deref())?;
    let (kind, field) = match (&new.mode, new.canary_percent) {
        (Some(mode), None) => ("mode", ("mode", json!(mode))),
        (None, Some(percent)) => ("canary", ("percent", json!(percent))),
        _ => return Err(Failure::bad("give one of `mode` and `canary_percent`")),
    };
    let mut written = json!({
        "kind": kind, "tenant": tenant.as_str(), "owner": new.owner, "reason": new.reason, "expires": new.expires,
    });
    insert(&mut written, field.0, field.1);
    admin.put_directive(written).await
}

fn insert(written: &mut Value, key: &str, value: Value) {
    if let Some(table) = written.as_object_mut() {
        table.insert(key.to_owned(), value);
    }
}

/// Takes a tenant's mode that was set at run time out of force.
#[utoipa::path(delete, path = "/admin/v1/modes", params(OfTenant), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn remove_mode(
    State(admin): State<Arc<Admin>>,
    Params(of): Params<OfTenant>,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    let (tenant, _) = admin.tenant(of.tenant.as_deref())?;
    admin.remove_directive(&What::Mode(Mode::Off).key(tenant), &word).await
}

/// Another policy for one user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOverride {
    /// The keys of `[policy]` that differ, such as `limit`.
    policy: Map<String, Value>,
    expires: Option<Timestamp>,
    owner: String,
    reason: String,
}

/// Gives one user another policy.
#[utoipa::path(put, path = "/admin/v1/users/{uid}/override", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = NewOverride,
    responses((status = 200, body = Holds), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn set_override(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(new): Body<NewOverride>,
) -> Result<Json<Holds>, Failure> {
    let written = json!({
        "kind": "override", "tenant": tenant.as_str(), "uid": user.as_str(), "policy": new.policy,
        "owner": new.owner, "reason": new.reason, "expires": new.expires,
    });
    admin.put_directive(written).await
}

/// Takes a user's override out of force.
#[utoipa::path(delete, path = "/admin/v1/users/{uid}/override", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn remove_override(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    admin.remove_directive(&What::Override { user, policy: Map::new() }.key(&tenant), &word).await
}

/// Sessions of one user that are not ended.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewExemption {
    /// `ignored`: they neither count nor are ended; `counted`: they count and are not ended.
    #[schema(pattern = "^(ignored|counted)$", example = "ignored")]
    effect: Option<String>,
    expires: Timestamp,
    owner: String,
    reason: String,
}

/// Keeps all sessions of a user from being ended.
#[utoipa::path(put, path = "/admin/v1/users/{uid}/exempt", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = NewExemption,
    responses((status = 200, body = Holds), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn exempt(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(new): Body<NewExemption>,
) -> Result<Json<Holds>, Failure> {
    let effect = new.effect.as_deref().unwrap_or(ExemptionEffect::Ignored.as_str());
    let written = json!({
        "kind": "exemption", "tenant": tenant.as_str(), "who": { "uid": user.as_str(), "effect": effect },
        "owner": new.owner, "reason": new.reason, "expires": new.expires,
    });
    admin.put_directive(written).await
}

/// Takes a user's exemption out of force.
#[utoipa::path(delete, path = "/admin/v1/users/{uid}/exempt", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn remove_exemption(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    let who = Map::from_iter([("uid".to_owned(), json!(user.as_str()))]);
    admin.remove_directive(&What::Exemption { who }.key(&tenant), &word).await
}

/// One session that is not ended, and counts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPin {
    /// 32 hex digits.
    #[schema(pattern = "^[0-9A-Fa-f]{32}$")]
    session: String,
    expires: Option<Timestamp>,
    owner: String,
    reason: String,
}

/// Keeps one session of a user.
#[utoipa::path(put, path = "/admin/v1/users/{uid}/pin", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = NewPin,
    responses((status = 200, body = Holds), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn pin(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(new): Body<NewPin>,
) -> Result<Json<Holds>, Failure> {
    let written = json!({
        "kind": "pin", "tenant": tenant.as_str(), "uid": user.as_str(), "session": new.session,
        "owner": new.owner, "reason": new.reason, "expires": new.expires,
    });
    admin.put_directive(written).await
}

/// Lets a session be ended again that was kept.
#[utoipa::path(delete, path = "/admin/v1/users/{uid}/pin/{session}",
    params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), ("session" = String, Path, pattern = "^[0-9A-Fa-f]{32}$"), OfTenant), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn unpin(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    NamedSession(session): NamedSession,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    admin.remove_directive(&What::Pin { user, session }.key(&tenant), &word).await
}

#[derive(Serialize, ToSchema)]
pub(super) struct ContendedUsers {
    /// The directives that say so, with their users.
    contended: Vec<Value>,
}

/// The users whose devices end each other for ever, and from whom nothing is ended for a while.
#[utoipa::path(get, path = "/admin/v1/contended",
    responses((status = 200, body = ContendedUsers), (status = 401), (status = 403), (status = 404)))]
async fn contended(State(admin): State<Arc<Admin>>) -> Result<Json<ContendedUsers>, Problem> {
    let entries = admin.deciding()?.control.entries();
    let contended = entries.iter().filter(|entry| matches!(entry.what, What::Contended { .. }));
    Ok(Json(ContendedUsers { contended: contended.map(shown_entry).collect() }))
}

/// Lets the evictions of a contended user go on at once.
#[utoipa::path(delete, path = "/admin/v1/contended/{uid}", params(("uid" = String, Path, pattern = "^[A-Za-z0-9_-]{1,50}$"), OfTenant), request_body = Word,
    responses((status = 200, body = Removed), (status = 400), (status = 401), (status = 403), (status = 404),
        (status = 408), (status = 413), (status = 415), (status = 503)))]
async fn release(
    State(admin): State<Arc<Admin>>,
    Subject { tenant, user, .. }: Subject,
    Body(word): Body<Word>,
) -> Result<Json<Removed>, Failure> {
    admin.remove_directive(&What::Contended { user }.key(&tenant), &word).await
}
