//! How fast peers answer: from a heartbeat that wants an answer until `core` handles that answer.
//!
//! One heartbeat at a time is measured for each peer, so that a round of reads costs one comparison for a peer whose
//! answer is still missing. Not here: what the figures are for (`node/reports/metrics.rs`, `link_loss.rs`).

use crate::lock::{Mutex, lock};
use crate::node::views::latency::CoarseRecorder;
use crate::raft::{Body, Message};
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A heartbeat without an answer for so long is lost: the next one is measured instead.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The shortest time of a peer is that of the present and the last of these spans: the network may change.
const SHORTEST_SPAN: Duration = Duration::from_secs(60);
/// It is assumed before the first answer.
const SHORTEST_ASSUMED: Duration = Duration::from_millis(200);

/// The times of each peer, as the metrics show them.
type Published = Mutex<BTreeMap<NodeId, Arc<CoarseRecorder>>>;

/// The heartbeat to each peer whose answer is being waited for, and the times of those that were answered.
#[derive(Default)]
pub(super) struct RoundTrips {
    sent: BTreeMap<NodeId, (u64, Instant)>,
    times: BTreeMap<NodeId, Arc<CoarseRecorder>>,
    shortest: BTreeMap<NodeId, Shortest>,
}

/// The shortest times of two spans.
struct Shortest {
    since: Instant,
    present: Duration,
    last: Duration,
}

impl Shortest {
    fn add(&mut self, now: Instant, time: Duration) {
        if now.duration_since(self.since) >= SHORTEST_SPAN {
            *self = Shortest { since: now, present: time, last: self.present };
        }
        self.present = self.present.min(time);
    }
}

impl RoundTrips {
    /// Whether the answer of this peer has taken longer than `slack` and twice the shortest time.
    pub(super) fn is_overdue(&self, id: NodeId, now: Instant, slack: Duration) -> bool {
        let shortest = self.shortest.get(&id).map_or(SHORTEST_ASSUMED, |it| it.present.min(it.last));
        self.sent.get(&id).is_some_and(|(_, at)| now.saturating_duration_since(*at) > slack + shortest * 2)
    }

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
            let (now, time) = (Instant::now(), at.elapsed());
            self.times.entry(id).or_insert_with(publish).record(time);
            let first = Shortest { since: now, present: time, last: time };
            self.shortest.entry(id).or_insert(first).add(now, time);
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

    #[test]
    fn an_answer_is_overdue_by_the_shortest_time_of_its_peer() {
        let mut trips = RoundTrips::default();
        let (peer, slack, published) = (NodeId(2), Duration::from_millis(60), Published::default());
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let beat = message(1, 2, Body::Heartbeat { round: 1, commit: Index(0) });
        assert!(!trips.is_overdue(peer, after(5000), slack), "nothing was asked");
        trips.on_sent(&beat);
        assert!(!trips.is_overdue(peer, after(400), slack) && trips.is_overdue(peer, after(500), slack));
        trips.on_received(&message(2, 1, Body::HeartbeatReply { round: 1 }), &published);
        assert!(!trips.is_overdue(peer, after(500), slack), "it was answered");
        trips.on_sent(&beat);
        assert!(!trips.is_overdue(peer, after(50), slack) && trips.is_overdue(peer, after(120), slack));
        let mut shortest = Shortest { since: after(0), present: slack, last: slack };
        shortest.add(after(70_000), slack * 9);
        shortest.add(after(140_000), slack * 9);
        assert_eq!((shortest.present, shortest.last), (slack * 9, slack * 9), "the network has become slower");
    }
}
