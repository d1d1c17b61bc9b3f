//! The ledger is evidence: it survives restarts, and enforcement does not wait for one that is damaged.

use soloist::sandbox::SandboxConfig;

use crate::support::service::Service;

#[tokio::test]
async fn a_damaged_ledger_is_set_aside_and_enforcement_goes_on() {
    let service = Service::start().await;
    for _ in 0..3 {
        service.sandbox.login("ann", None).unwrap();
    }
    service.settled().await;
    let (sandbox, data_dir) = service.stop().await;
    let path = data_dir.path().join("ledger.db");
    assert!(!data_dir.path().join("ledger.db-wal").exists(), "a stop leaves one whole file");
    let mut bytes = std::fs::read(&path).unwrap();
    let behind_the_header = 4096;
    bytes[behind_the_header..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();

    let service = Service::start_on(sandbox, data_dir, &[]).await;
    for _ in 0..3 {
        service.sandbox.login("bob", None).unwrap();
    }
    service.until("bob's surplus to end", async |service| service.sandbox.sessions("bob").len() == 1).await;

    assert!(service.data_dir.path().join("ledger.db.damaged-1").exists());
    service.stop().await;
}

#[tokio::test]
async fn what_was_decided_is_there_after_a_restart() {
    let service = Service::start_with(SandboxConfig::default(), &[]).await;
    for _ in 0..2 {
        service.sandbox.login("ann", None).unwrap();
    }
    service.settled().await;
    let (sandbox, data_dir) = service.stop().await;

    let service = Service::start_on(sandbox, data_dir, &[]).await;

    let (_, answer) = service.admin("GET", "/admin/v1/users/ann/decisions").await;
    assert_eq!(answer["decisions"][0]["outcomes"][0]["ended"], serde_json::json!("revoked"));
    assert_eq!(answer["decisions"][0]["executed"], serde_json::json!(true));
    service.stop().await;
}
