//! Replaces the policies of a running service by those of a configuration that was read again.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::ExposeSecret;

use crate::config::{Config, LoginRadiusSection, NotifyFormat, RabbitmqConfig};
use crate::directives::LiveDirectives;

/// The policies of a running service, to be replaced while it runs.
pub struct RunningPolicies {
    directives: Arc<LiveDirectives>,
    /// What the service runs with, except for its policies.
    started: Config,
}

impl RunningPolicies {
    pub(super) fn new(directives: Arc<LiveDirectives>, started: Config) -> Self {
        Self { directives, started }
    }

    /// From now on the policies of this configuration hold; a tenant that it no longer has keeps the policy in force.
    /// The answer names what else has changed: that needs a restart.
    pub fn replace(&self, config: &Config) -> anyhow::Result<BTreeSet<String>> {
        self.directives.rewrite(config.written_policies())?;
        Ok(needs_restart(&self.started, config))
    }
}

/// The options that differ and are no policy.
fn needs_restart(started: &Config, now: &Config) -> BTreeSet<String> {
    let shown = |config: &Config| -> BTreeSet<(String, String)> {
        let options = config.effective().iter().filter(|option| !is_policy(&option.path));
        options.map(|option| (option.path.clone(), option.value.clone())).collect()
    };
    let (before, after) = (shown(started), shown(now));
    let mut changed: BTreeSet<String> = before.symmetric_difference(&after).map(|(path, _)| path.clone()).collect();
    for tenant in started.tenants.keys().filter(|tenant| !now.tenants.contains_key(tenant)) {
        changed.retain(|path| !path.starts_with(&format!("tenants.{tenant}.")));
        changed.insert(format!("the removal of tenant {tenant} (its policy stays as it is)"));
    }
    // Secrets are not shown, so they are compared here.
    if broker_secrets(&started.queue.rabbitmq) != broker_secrets(&now.queue.rabbitmq) {
        changed.insert("the secrets in queue.rabbitmq".to_owned());
    }
    if notify_secrets(started) != notify_secrets(now) {
        changed.insert("the secrets in notify".to_owned());
    }
    for (tenant, was) in &started.tenants {
        let section = if was.policy_path == "policy" { String::new() } else { format!("tenants.{tenant}.") };
        if now.tenants.get(tenant).is_some_and(|is| secrets(&is.loginradius) != secrets(&was.loginradius)) {
            changed.insert(format!("the secrets in {section}loginradius"));
        }
    }
    changed
}

fn is_policy(path: &str) -> bool {
    path.starts_with("policy.") || (path.starts_with("tenants.") && path.contains(".policy."))
}

fn secrets(section: &LoginRadiusSection) -> Vec<&str> {
    let keys = [&section.api_key, &section.api_secret].into_iter().chain(&section.webhook_secrets);
    keys.map(ExposeSecret::expose_secret).collect()
}

fn broker_secrets(section: &RabbitmqConfig) -> Vec<&str> {
    section.urls.iter().chain(&section.password).map(ExposeSecret::expose_secret).collect()
}

fn notify_secrets(config: &Config) -> Vec<&str> {
    // The path of an address is not shown either.
    let secrets = config.notify.iter().map(|endpoint| match &endpoint.format {
        NotifyFormat::Standard { secret } => [endpoint.url.as_str(), secret.expose_secret()],
        NotifyFormat::Caep { .. } => [endpoint.url.as_str(), ""],
    });
    secrets.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::ConfigSources;
    use crate::directives::Directives as _;
    use crate::model::{TenantId, UserId};
    use crate::policy::Mode;

    fn config(options: &[(&str, &str)]) -> Config {
        let required = [("SOLOIST_LOGINRADIUS__API_KEY", "key"), ("SOLOIST_LOGINRADIUS__API_SECRET", "one")];
        let env = required.iter().chain(options).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(&ConfigSources { env: env.collect(), ..ConfigSources::default() }).unwrap()
    }

    #[test]
    fn only_what_is_no_policy_needs_a_restart() {
        let restart = |options: &[(&str, &str)]| -> Vec<String> {
            needs_restart(&config(&[]), &config(options)).into_iter().collect()
        };
        assert!(restart(&[("SOLOIST_POLICY__LIMIT", "3"), ("SOLOIST_POLICY__MODE", "observe")]).is_empty());
        assert_eq!(restart(&[("SOLOIST_WEBHOOK__LISTEN", "127.0.0.1:1")]), ["webhook.listen"]);
        let secret = restart(&[("SOLOIST_LOGINRADIUS__API_SECRET", "two")]);
        assert_eq!(secret, ["the secrets in loginradius"]);
        let broker = |password| {
            [("SOLOIST_QUEUE__RABBITMQ__URL", "amqp://worker@rabbit"), ("SOLOIST_QUEUE__RABBITMQ__PASSWORD", password)]
        };
        let told = needs_restart(&config(&broker("old")), &config(&broker("new")));
        assert_eq!(told.into_iter().collect::<Vec<_>>(), ["the secrets in queue.rabbitmq"]);
    }

    #[test]
    fn a_tenant_that_is_removed_keeps_the_policy_in_force() {
        let acme = |mode| {
            config(&[
                ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_KEY", "key"),
                ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_SECRET", "secret"),
                ("SOLOIST_TENANTS__ACME__POLICY__MODE", mode),
            ])
        };
        let started = acme("enforce");
        let directives = LiveDirectives::own(started.written_policies(), Vec::new(), Clock::start()).unwrap();
        let directives = Arc::new(directives);
        let running = RunningPolicies::new(Arc::clone(&directives), started);

        assert!(running.replace(&acme("observe")).unwrap().is_empty());
        let waiting = running.replace(&config(&[])).unwrap();

        let tenant = TenantId::parse("acme").unwrap();
        let policies = directives.current(&tenant, &UserId::parse("ann").unwrap()).unwrap().policies;
        assert!(policies.all().all(|policy| policy.policy.mode == Mode::Observe));
        let told: Vec<String> = waiting.into_iter().collect();
        assert_eq!(told, ["the removal of tenant acme (its policy stays as it is)"]);
    }
}
