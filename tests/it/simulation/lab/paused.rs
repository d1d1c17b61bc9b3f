//! Waiting on the paused clock, which takes no time: it jumps when everybody waits.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub(crate) async fn wait(time: Duration) {
    sleep_until(Instant::now() + time).await;
}
