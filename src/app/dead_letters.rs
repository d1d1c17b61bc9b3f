//! The dead letters of all processes, as the control process keeps them in its journal.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::model::TenantId;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{DeadLetter, DeadLetters, QueueError, Selection};

/// Dead letters that one look takes.
const PAGE: usize = 1_000;

/// Puts back only what somebody will take from there: messages of tenants that are configured.
pub(super) struct KeptDeadLetters {
    pub(super) journal: EmbeddedQueue,
    pub(super) tenants: BTreeSet<TenantId>,
}

#[async_trait]
impl DeadLetters for KeptDeadLetters {
    async fn list(&self, selection: &Selection, after: u64, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.journal.list(selection, after, limit).await
    }

    async fn redrive(&self, selection: &Selection) -> Result<u64, QueueError> {
        let is_ours = |dead: &DeadLetter| dead.event.as_ref().is_some_and(|event| self.tenants.contains(&event.tenant));
        let (mut after, mut redriven) = (0, 0);
        loop {
            let page = self.journal.list(selection, after, PAGE).await?;
            let ids: Vec<u64> = page.iter().filter(|dead| is_ours(dead)).map(|dead| dead.id).collect();
            if !ids.is_empty() {
                redriven += self.journal.redrive(&Selection::Ids(ids)).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.id,
                _ => return Ok(redriven),
            }
        }
    }

    async fn discard(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.journal.discard(selection).await
    }
}
