//! A ledger that keeps nothing: what enforcement costs without evidence and brakes.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use soloist::ledger::{Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use soloist::model::{TenantId, UserId};

pub(crate) struct NoLedger;

#[async_trait]
impl Ledger for NoLedger {
    async fn intend(&self, _: Intent) -> Result<IntentId, LedgerError> {
        Ok(IntentId::Row(0))
    }

    fn note(&self, _: Intent) {}

    async fn outcome(&self, _: IntentId, _: &[Outcome]) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn seen(&self, _: &TenantId, _: &UserId, _: Seen) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn recent(&self, _: &TenantId, _: &UserId, _: usize) -> Result<Vec<Value>, LedgerError> {
        Ok(Vec::new())
    }

    async fn ends_since(&self, _: &TenantId, _: Timestamp) -> Result<Vec<(UserId, Value)>, LedgerError> {
        Ok(Vec::new())
    }
}
