//! Runs parts side by side; one that ends before it was told to ends them all.

use std::collections::HashMap;
use std::future::Future;

use anyhow::{Context as _, anyhow};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

pub(super) struct Parts {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
}

impl Parts {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new(), names: HashMap::new() }
    }

    pub(super) fn add(&mut self, name: &str, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let id = self.tasks.spawn(part).id();
        self.names.insert(id, name.to_owned());
    }

    /// Waits until every part has ended. The first failure is the result; the others are logged.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (id, ended) = match ended {
                Ok((id, ended)) => (id, ended),
                Err(panicked) => (panicked.id(), Err(anyhow!("it panicked"))),
            };
            let name = self.names.remove(&id).unwrap_or_default();
            let ended = match ended {
                Ok(()) if !self.stop.is_cancelled() => Err(anyhow!("it ended by itself")),
                other => other,
            };
            self.stop.cancel();
            if let Err(error) = ended.with_context(|| format!("the {name} failed")) {
                if result.is_ok() {
                    result = Err(error);
                } else {
                    tracing::error!("{error:#}");
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_that_end_when_told_to_end_well() {
        let stop = CancellationToken::new();
        let mut parts = Parts::new(stop.clone());
        for name in ["one", "two"] {
            let stop = stop.clone();
            parts.add(name, async move {
                stop.cancelled().await;
                Ok(())
            });
        }
        stop.cancel();
        parts.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_part_that_ends_fails_or_panics_stops_the_others_and_fails_the_run() {
        for (way, expected) in [(0, "ended by itself"), (1, "out of paper"), (2, "panicked")] {
            let stop = CancellationToken::new();
            let mut parts = Parts::new(stop.clone());
            parts.add("printer", async move {
                match way {
                    0 => Ok(()),
                    1 => Err(anyhow!("out of paper")),
                    _ => panic!("on purpose"),
                }
            });
            let stopped = stop.clone();
            parts.add("reader", async move {
                stopped.cancelled().await;
                Ok(())
            });
            let error = format!("{:#}", parts.run().await.unwrap_err());
            assert!(error.contains("the printer failed") && error.contains(expected), "{error}");
        }
    }
}
