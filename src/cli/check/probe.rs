//! `soloist check --probe UID`: measures with a consenting test user what the tenant's LoginRadius does, step by step.

use std::time::Duration;

use anyhow::Context as _;
use comfy_table::Table;
use reqwest::Url;
use serde_json::{Value, json};

use super::meaning;
use super::{Finding, web};
use crate::app;
use crate::cli::Usage;
use crate::cli::output::{self, note, text};
use crate::cli::web::Trust;
use crate::config::{Config, LoginRadiusSection};
use crate::model::{TenantId, UserId};
use crate::policy::Policy;
use crate::probe::{LOGIN_PATIENCE, Measured, Prober};

/// For the sandbox's control API.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to probe, and with whose leave.
pub(super) struct Probe {
    tenant: TenantId,
    user: UserId,
    /// Whether nobody has to be asked first.
    yes: bool,
}

impl Probe {
    /// # Errors
    /// [`Usage`], before anything is sent anywhere.
    pub(super) fn new(uid: &str, tenant: Option<&str>, yes: bool, config: &Config) -> anyhow::Result<Self> {
        let user = UserId::parse(uid).map_err(|error| Usage(error.to_string()))?;
        let only = || (config.tenants.len() == 1).then(|| config.tenants.keys().next().cloned()).flatten();
        let named = tenant.map_or_else(only, |name| TenantId::parse(name).ok());
        let tenant = named.or_else(|| tenant.is_none().then(TenantId::default_tenant));
        let tenant = tenant.filter(|tenant| config.tenants.contains_key(tenant));
        let tenant = tenant.ok_or_else(|| Usage("name one of the configured tenants with --tenant".to_owned()))?;
        Ok(Self { tenant, user, yes })
    }

    /// Measures, and says what it means for the configuration.
    pub(super) async fn run(&self, config: &Config) -> anyhow::Result<(Measured, Vec<Finding>)> {
        let section = config.tenants.get(&self.tenant).context("the tenant is not configured")?;
        let policies = config.policies()?;
        let policies = policies.get(&self.tenant).context("the tenant has no policy")?;
        let mut prober = match app::prober(&section.loginradius, &self.user).await {
            Ok(prober) => prober,
            Err(error) => return Ok((Measured::default(), vec![broken_off(&error, &self.user)])),
        };
        let refused = self.measure(&mut prober, &section.loginradius).await;
        let policies: Vec<&Policy> = policies.all().map(|resolved| resolved.policy.as_ref()).collect();
        let mut findings = meaning::findings(&prober.measured, &policies);
        match refused {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(broken_off(&error, &self.user)),
        }
        Ok((prober.measured, findings))
    }

    /// What kept a step from being made, if anything did.
    async fn measure(&self, prober: &mut Prober, section: &LoginRadiusSection) -> anyhow::Result<Option<Finding>> {
        let user = &self.user;
        let listed = output::counted(prober.measured.sessions_before as u64, "session");
        note(format_args!("probe of user {user}, tenant {}: {listed} listed before", self.tenant));
        let may_touch = self.may_touch();
        if may_touch {
            note("step 1 of 4: asking which of them are still alive");
            prober.look_for_dead().await?;
        }
        if is_sandbox(section).await {
            note(format_args!("step 2 of 4: this LoginRadius is a sandbox; logging {user} in there"));
            if let Some(why) = sandbox_login(section, user).await? {
                return Ok(Some(meaning::login_refused(&why)));
            }
        } else {
            let patience = LOGIN_PATIENCE.as_secs();
            note(format_args!("step 2 of 4: log in as {user} now, on any device; waiting up to {patience} s"));
        }
        if !prober.wait_for_login().await? {
            return Ok(Some(meaning::no_login()));
        }
        note("            the login is listed");
        if !may_touch {
            return Ok(Some(meaning::not_touched()));
        }
        note("step 3 of 4: refreshing the session that began just now, and watching its row");
        prober.refresh().await?;
        note("step 4 of 4: ending that session, twice, and trying to bring it back");
        prober.end().await?;
        Ok(None)
    }

    /// Whether sessions may be touched: the user's own new one, and those before by a question that may prolong them.
    fn may_touch(&self) -> bool {
        let question = format!(
            "The probe will refresh and end the session that {} begins next, and ask of those listed now whether they are alive. Has the user agreed?",
            self.user
        );
        self.yes || output::confirmed(&question).unwrap_or(false)
    }
}

fn broken_off(error: &anyhow::Error, user: &UserId) -> Finding {
    let remedy = format!(
        "do what the message says and probe again; a session that the probe began may live on: `soloist sessions {user}`"
    );
    Finding::problem("probe", format!("broken off: {error:#}"), remedy)
}

/// Whether the API is a sandbox on this machine, which logs users in when it is asked to.
async fn is_sandbox(section: &LoginRadiusSection) -> bool {
    let Some(url) = control(section, "_sandbox") else { return false };
    let Ok(client) = web::client(&url, Trust::Own, TIMEOUT) else { return false };
    let Ok(answer) = client.get(url).send().await else { return false };
    let answer = answer.bytes().await.unwrap_or_default();
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    text(&answer, "what").contains("LoginRadius emulator")
}

/// Logs the user in, without a login event; what the sandbox says where its vendor refuses.
async fn sandbox_login(section: &LoginRadiusSection, user: &UserId) -> anyhow::Result<Option<String>> {
    let url = control(section, "_sandbox/login").context("this is no sandbox")?;
    let request = web::client(&url, Trust::Own, TIMEOUT)?.post(url);
    let body = json!({ "uid": user.as_str(), "webhook": false });
    let answer = request.json(&body).send().await.map_err(reqwest::Error::without_url)?;
    let is_done = answer.status().is_success();
    let answer = answer.bytes().await.map_err(reqwest::Error::without_url)?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    Ok((!is_done).then(|| text(&answer, "error").to_owned()))
}

/// Control routes exist on this machine only, and there without TLS.
fn control(section: &LoginRadiusSection, path: &str) -> Option<Url> {
    let url = Url::parse(&section.api_url).ok().filter(|url| url.scheme() == "http")?;
    url.join(&format!("/{path}")).ok()
}

/// What was measured, in words.
pub(super) fn table(measured: &Measured) -> Table {
    let mut table = output::table(["measured", "LoginRadius of this tenant"]);
    for [what, found] in meaning::words(measured) {
        table.add_row([what, found]);
    }
    output::keep_whole(&mut table, &[0]);
    table
}
