//! Figures for `/metrics` that belong to no thread, and the frames of peers that are counted instead of accepted.
//!
//! Not here: the text of `/metrics` (`node/reports/metrics.rs`), the histograms (`node/views/latency.rs`).

use crate::lock::Mutex;
use crate::node::shared::clock::mono_us;
use crate::node::views::latency::{CoarseRecorder, Recorder};
use crate::raft::Refused;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two log lines about frames that were not accepted.
const REFUSED_FRAME_LINE_GAP: Duration = Duration::from_secs(10);

/// Figures for `/metrics` that belong to no thread.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes on the peer port that failed.
    pub peer_handshakes_failed: AtomicU64,
    /// Frames from identities that this node does not know.
    pub frames_of_unknown_senders: AtomicU64,
    /// Messages with a term that no honest sequence of elections leads to.
    pub frames_with_absurd_term: AtomicU64,
    /// Messages that contradict themselves.
    pub frames_malformed: AtomicU64,
    /// When a line about such a frame was last written, in ms since this machine started; 0: never.
    pub refused_frame_logged_ms: AtomicU64,
    /// Syncs of the log.
    pub syncs: Recorder,
    /// From the append to this leader's log until the entry was committed.
    pub commits: Recorder,
    /// Applying one entry to the services.
    pub applies: Recorder,
    /// Writing this node's snapshot to its disk, sending one to a follower, and installing a received one.
    pub snapshots_saved: CoarseRecorder,
    pub snapshots_sent: CoarseRecorder,
    pub snapshots_installed: CoarseRecorder,
    /// By peer: from a heartbeat until its answer was handled, while this node leads.
    pub round_trips: Mutex<BTreeMap<NodeId, Arc<CoarseRecorder>>>,
    /// Redirects by the front door.
    pub dispatched: AtomicU64,
    /// Changes of leader that this node has seen.
    pub failovers: AtomicU64,
    /// Frames between two other nodes that this one has passed on.
    pub relays_passed_on: AtomicU64,
    /// Frames to this node that another one has passed on.
    pub relays_received: AtomicU64,
    /// Frames that could not be passed on, or came late.
    pub relays_dropped: AtomicU64,
}

impl Counters {
    /// Counts a frame that was not accepted, and logs it. At most one line per [`REFUSED_FRAME_LINE_GAP`] reports such
    /// frames: their sender must not be able to fill the log.
    pub fn refuse_frame(&self, why: Refused) {
        let (counter, text) = match why {
            Refused::UnknownSender(who) => (
                &self.frames_of_unknown_senders,
                format!("node {who:?} is not a member of this cluster: its frames are dropped"),
            ),
            Refused::TermJump(who, term) => (
                &self.frames_with_absurd_term,
                format!("node {who:?} sent term {term}, which is implausibly high: its message is dropped"),
            ),
            Refused::Malformed(who) => {
                (&self.frames_malformed, format!("a message of node {who:?} is inconsistent and is dropped"))
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (now_ms, last_ms) = ((mono_us() / 1000).max(1), self.refused_frame_logged_ms.load(Ordering::Relaxed));
        let is_due = last_ms == 0 || now_ms - last_ms.min(now_ms) >= REFUSED_FRAME_LINE_GAP.as_millis() as u64;
        let swap = |logged: &AtomicU64| logged.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap(&self.refused_frame_logged_ms).is_ok() {
            log::warn!("{text}; more are counted in phalanx_peer_frames_refused_total");
        }
    }
}
