//! An event that is made durable before it is known whether anybody wants it, so that nobody waits for the disk then.

use tokio::sync::oneshot;

use super::QueueError;

/// Handed out to nobody before it is wanted; dropped before that, it is taken back. A crash in between leaves it to be handed
/// out, as a look too many.
#[must_use = "dropped, it is taken back"]
pub struct Reserved {
    durable: oneshot::Receiver<Result<(), QueueError>>,
    /// Says whether it is wanted.
    end: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Reserved {
    /// `durable` is answered once it is; `end` is called once, with whether it is wanted.
    pub(super) fn new(
        durable: oneshot::Receiver<Result<(), QueueError>>,
        end: impl FnOnce(bool) + Send + Sync + 'static,
    ) -> Self {
        Self { durable, end: Some(Box::new(end)) }
    }

    /// Has it handed out: durable when it returns, which is at once where it was before.
    ///
    /// # Errors
    /// When it could not be made durable; then it is taken back.
    pub async fn wanted(mut self) -> Result<(), QueueError> {
        (&mut self.durable).await.map_err(|_dropped| QueueError::Stopped)??;
        if let Some(end) = self.end.take() {
            end(true);
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(false);
        }
    }
}
