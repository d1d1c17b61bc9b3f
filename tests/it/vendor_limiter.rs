//! The vendor's own session limiter: noticed wherever it shows itself, said once, and never a reason to end anybody.

use soloist::sandbox::{Faults, LoginError, Sandbox, SandboxConfig, Traits};

use crate::support::service::Service;

/// A rule by roles makes the service ask for profiles.
const ASKS_FOR_PROFILES: (&str, &str) = ("SOLOIST_POLICY__RULES", r#"[{ role = "family", limit = 3 }]"#);

fn signs(service: &Service, sign: &str) -> u64 {
    service.metric(&format!("soloist_vendor_limiter_total{{tenant=\"default\",sign=\"{sign}\"}}"))
}

async fn shown(service: &Service) -> serde_json::Value {
    service.admin("GET", "/admin/v1/status").await.1["tenants"][0]["vendor_limiter"].clone()
}

#[tokio::test]
async fn a_limit_in_a_profile_tells_of_the_limiter_and_changes_no_decision() {
    let service = Service::start_with(SandboxConfig::default(), &[ASKS_FOR_PROFILES]).await;
    assert_eq!(shown(&service).await, serde_json::Value::Null);
    service.sandbox.set_traits("ann", Traits { sessions_limit: Some(3), ..Traits::default() }).unwrap();
    for _ in 0..3 {
        service.sandbox.login("ann", None).unwrap();
    }
    service.settled().await;
    assert!(signs(&service, "sessions_limit") >= 1);
    assert_eq!((signs(&service, "error_1338"), shown(&service).await), (0, "sessions_limit".into()));
    assert_eq!(service.sandbox.sessions("ann").len(), 1, "our limit holds, whatever theirs is");
    service.stop().await;
}

#[tokio::test]
async fn a_call_that_meets_the_limiter_is_tried_again_and_nothing_is_lost() {
    let service = Service::start().await;
    let operations = vec!["list".to_owned()];
    service.sandbox.set_faults(Faults { login_limited_percent: 100.0, operations, ..Faults::default() });
    service.sandbox.login("ann", None).unwrap();
    service.sandbox.login("ann", None).unwrap();
    service.until("a sign of the limiter", async |service| signs(service, "error_1338") > 0).await;
    assert_eq!((service.sandbox.sessions("ann").len(), shown(&service).await), (2, "error_1338".into()));
    service.sandbox.set_faults(Faults::default());
    service.settled().await;
    assert_eq!(service.sandbox.sessions("ann").len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn the_sandboxs_limiter_refuses_the_new_login_and_goes_by_the_users_own_limit() {
    let config = SandboxConfig { login_limit: Some(1), ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    sandbox.set_traits("bob", Traits { sessions_limit: Some(2), ..Traits::default() }).unwrap();
    let first = sandbox.login("ann", None).unwrap();
    assert_eq!(sandbox.login("ann", None), Err(LoginError::Limited));
    assert!(sandbox.login("bob", None).is_ok() && sandbox.login("bob", None).is_ok());
    assert_eq!(sandbox.login("bob", None), Err(LoginError::Limited));
    assert!(sandbox.logout(&first.access_token) && sandbox.login("ann", None).is_ok());
    sandbox.stop().await;
}
