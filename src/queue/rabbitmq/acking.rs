//! A channel with what it has delivered and not been told the end of.

use std::collections::BTreeSet;

use lapin::Channel;
use lapin::options::BasicAckOptions;

use super::trouble::Trouble;

pub(super) struct Acking {
    pub(super) channel: Channel,
    pub(super) unacked: BTreeSet<u64>,
}

impl Acking {
    /// Acks these tags: with one frame as far as nothing older is out, one by one beyond.
    pub(super) async fn ack(&mut self, tags: &[u64]) -> Result<(), Trouble> {
        let mut tags: Vec<u64> = tags.iter().copied().filter(|tag| self.unacked.remove(tag)).collect();
        tags.sort_unstable();
        let oldest_out = self.unacked.first().copied().unwrap_or(u64::MAX);
        let together = tags.iter().take_while(|tag| **tag < oldest_out).count();
        let (together, apart) = tags.split_at(together);
        if let Some(last) = together.last() {
            self.channel.basic_ack(*last, BasicAckOptions { multiple: true }).await?;
        }
        for tag in apart {
            self.channel.basic_ack(*tag, BasicAckOptions { multiple: false }).await?;
        }
        Ok(())
    }
}
