//! An event that is made durable before it is known whether anybody wants it, so that nobody waits for the disk then.

use tokio::sync::oneshot;

use super::QueueError;

/// Handed out to nobody before it is wanted; dropped before that, it is taken back. A crash in between leaves it to be handed
/// out, as a look too many.
#[must_use = "dropped, it is taken back"]
pub struct Reserved {
    durable: oneshot::Receiver<Result<(), QueueError>>,
    /// Says whether it is wanted.
    end: Option<Box<dyn FnOnce(bool) + Send>>,
}

impl Reserved {
    /// `durable` is answered once it is; `end` is called once, with whether it is wanted.
    pub(super) fn new(
        durable: oneshot::Receiver<Result<(), QueueError>>,
        end: impl FnOnce(bool) + Send + 'static,
    ) -> Self {
        Self { durable, end: Some(Box::new(end)) }
    }

    /// Has it handed out: durable when it returns, which is at once where it was before. Whoever stops waiting has it handed
    /// out all the same.
    ///
    /// # Errors
    /// When it could not be made durable; then nothing is left of it.
    pub async fn wanted(mut self) -> Result<(), QueueError> {
        // First: what is promised to others who ask for the same must not depend on who waits here.
        if let Some(end) = self.end.take() {
            end(true);
        }
        (&mut self.durable).await.map_err(|_dropped| QueueError::Stopped)?
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(false);
        }
    }
}
