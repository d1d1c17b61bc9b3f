//! When LoginRadius is out or refuses our credentials: nothing lost, nothing spent, nobody logged out, others unharmed.

use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig};

use crate::support::service::Service;

const PAUSED: &str = "soloist_tenant_paused{tenant=\"default\",cause=";

#[tokio::test]
async fn an_outage_pauses_the_tenant_and_everything_is_settled_afterwards() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { outage: Outage::Reset, ..Faults::default() });
    for user in 0..10 {
        for _ in 0..3 {
            service.sandbox.login(&format!("user-{user}"), None).unwrap();
        }
    }
    let paused = format!("{PAUSED}\"outage\"}}");
    service.until("the pause", async |service| service.metric(&paused) >= 1).await;
    let ready = service.client.get(format!("{}/readyz", service.admin_url)).send().await.unwrap();
    assert_eq!(ready.status(), 200, "a provider that is out does not make us unready");
    assert!(ready.text().await.unwrap().contains("degraded"));

    service.sandbox.set_faults(Faults::default());
    service.settled().await;

    let report = service.sandbox.report(1);
    assert_eq!((report.over_limit.len(), report.emptied.len(), report.wrong_revocations.len()), (0, 0, 0));
    assert_eq!((service.queued().await, service.metric(&paused)), ((0, 0, 0), 0));
    service.stop().await;
}

#[tokio::test]
async fn refused_credentials_pause_one_tenant_and_another_goes_on() {
    let healthy = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let url = healthy.url();
    let service = Service::start_with(
        SandboxConfig::default(),
        &[
            ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_URL", &url),
            ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_KEY", "sandbox-key"),
            ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_SECRET", "sandbox-secret"),
        ],
    )
    .await;
    healthy.set_webhook_url(Some(&format!("{}/acme", service.webhook_url))).unwrap();
    service.sandbox.set_faults(Faults { secret_rotated: true, ..Faults::default() });
    for _ in 0..3 {
        service.sandbox.login("ann", None).unwrap();
    }
    let paused = format!("{PAUSED}\"unauthorized\"}}");
    service.until("the pause", async |service| service.metric(&paused) >= 1).await;

    for _ in 0..3 {
        healthy.login("bob", None).unwrap();
    }
    service.until("the other tenant's user", async |_| healthy.sessions("bob").len() == 1).await;
    assert_eq!((service.sandbox.sessions("ann").len(), service.queued().await.2), (3, 0));

    service.sandbox.set_faults(Faults::default());
    service.settled_within(std::time::Duration::from_mins(1)).await;
    assert_eq!(service.sandbox.sessions("ann").len(), 1);
    assert_eq!(service.metric(&paused), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_pause_ends_when_any_call_succeeds_not_at_the_next_probe() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { secret_rotated: true, ..Faults::default() });
    for _ in 0..2 {
        service.sandbox.login("ann", None).unwrap();
    }
    let paused = format!("{PAUSED}\"unauthorized\"}}");
    service.until("the pause", async |service| service.metric(&paused) >= 1).await;

    service.sandbox.set_faults(Faults::default());
    assert_eq!(service.admin("GET", "/admin/v1/users/ann/sessions").await.0, 200);

    // Well before the probe, which comes after 30 s.
    service.settled_within(std::time::Duration::from_secs(20)).await;
    assert_eq!(service.sandbox.sessions("ann").len(), 1);
    service.stop().await;
}
