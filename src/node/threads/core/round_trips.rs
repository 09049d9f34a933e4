//! How fast peers answer: from a heartbeat that wants an answer until `core` handles that answer.
//!
//! One heartbeat at a time is measured for each peer, so that a round of reads costs one comparison for a peer whose
//! answer is still missing. Not here: what the figures are for (`node/reports/metrics.rs`).

use crate::lock::{Mutex, lock};
use crate::node::views::latency::CoarseRecorder;
use crate::raft::{Body, Message};
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A heartbeat without an answer for so long is lost: the next one is measured instead.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The times of each peer, as the metrics show them.
type Published = Mutex<BTreeMap<NodeId, Arc<CoarseRecorder>>>;

/// The heartbeat to each peer whose answer is being waited for, and the times of those that were answered.
#[derive(Default)]
pub(super) struct RoundTrips {
    sent: BTreeMap<NodeId, (u64, Instant)>,
    times: BTreeMap<NodeId, Arc<CoarseRecorder>>,
}

impl RoundTrips {
    /// A message leaves.
    pub(super) fn on_sent(&mut self, message: &Message) {
        let Body::Heartbeat { round, .. } = message.body else { return };
        let is_measured = self.sent.get(&message.to.id).is_some_and(|(_, at)| at.elapsed() < LOST_AFTER);
        if round > 0 && !is_measured {
            self.sent.insert(message.to.id, (round, Instant::now()));
        }
    }

    /// A message has arrived. An answer to a later round proves that the measured one was lost, or overtaken.
    pub(super) fn on_received(&mut self, message: &Message, published: &Published) {
        let Body::HeartbeatReply { round } = message.body else { return };
        let id = message.from.id;
        let sent = self.sent.get(&id).copied().filter(|(measured, _)| round >= *measured);
        let Some((measured, at)) = sent else { return };
        self.sent.remove(&id);
        if round == measured {
            let publish = || Arc::clone(lock(published).entry(id).or_default());
            self.times.entry(id).or_insert_with(publish).record(at.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, Index, Term};
    use uuid::Uuid;

    fn message(from: u64, to: u64, body: Body) -> Message {
        let who = |id: u64| Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) };
        Message { from: who(from), to: who(to), term: Term(1), body }
    }

    #[test]
    fn the_answer_to_the_measured_heartbeat_counts_and_no_other() {
        let published = Published::default();
        let mut trips = RoundTrips::default();
        let beat = |round| message(1, 2, Body::Heartbeat { round, commit: Index(0) });
        let answer = |round| message(2, 1, Body::HeartbeatReply { round });
        let counted = || -> Vec<u64> {
            let count = |times: &Arc<CoarseRecorder>| times.by_factor_of_four().iter().map(|(_, count)| count).sum();
            lock(&published).values().map(count).collect()
        };
        trips.on_sent(&beat(0));
        trips.on_received(&answer(0), &published);
        trips.on_sent(&beat(3));
        trips.on_sent(&beat(4));
        trips.on_received(&answer(2), &published);
        assert!(counted().is_empty(), "no answer to a measured heartbeat yet");
        trips.on_received(&answer(3), &published);
        trips.on_received(&answer(4), &published);
        trips.on_sent(&beat(5));
        // Round 5 was lost.
        trips.on_received(&answer(6), &published);
        trips.on_sent(&beat(7));
        trips.on_received(&answer(7), &published);
        assert_eq!(counted(), [2]);
    }
}
