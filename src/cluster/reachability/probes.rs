//! Questions to the nodes that clients are being sent to, so that one that vanished or froze is noticed within a moment
//! and not only by its missing heartbeats. A redirect never waits for an answer: a node counts as silent while a
//! question to it has been unanswered for longer than its answers take.
//!
//! Nothing is asked while no clients come. A silent node is asked again now and then, until it answers.
//! Not here: sending (`node/handle.rs`), what a silent node is not given (`cluster/dispatch.rs`).

use crate::types::NodeId;
use std::collections::BTreeMap;

/// A node that clients are sent to is asked so often at most.
const ASK_EVERY_MS: u64 = 50;
/// A silent one is asked again after this time.
const ASK_AGAIN_MS: u64 = 200;
/// An answer that takes no longer than this is never late: a busy machine delays answers.
const ANSWER_MIN_MS: u64 = 150;
/// The same holds for one that takes this many times the longest time that one took lately.
const ANSWER_FACTOR: u64 = 3;
/// However long answers took, this is late.
const ANSWER_MAX_MS: u64 = 2000;

/// The questions to one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    /// When the oldest question without an answer was sent.
    waits_since_ms: Option<u64>,
    asked_ms: Option<u64>,
    /// The longest time that an answer took, forgotten slowly.
    longest_ms: u64,
}

impl Probe {
    /// Whether a question is to be sent now; if so, it is counted as sent.
    pub fn ask(&mut self, now_ms: u64) -> bool {
        let pause_ms = if self.waits_since_ms.is_some() { ASK_AGAIN_MS } else { ASK_EVERY_MS };
        if self.asked_ms.is_some_and(|at| now_ms.saturating_sub(at) < pause_ms) {
            return false;
        }
        self.asked_ms = Some(now_ms);
        self.waits_since_ms.get_or_insert(now_ms);
        true
    }

    /// An answer has arrived. It may be to an earlier question: then the time is overestimated, and bounded.
    pub fn answered(&mut self, now_ms: u64) {
        if let Some(since) = self.waits_since_ms.take() {
            let took_ms = now_ms.saturating_sub(since).min(ANSWER_MAX_MS);
            self.longest_ms = took_ms.max(self.longest_ms - self.longest_ms / 8);
        }
    }

    /// Whether a question has been unanswered for too long.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        let late_ms = (ANSWER_FACTOR * self.longest_ms).clamp(ANSWER_MIN_MS, ANSWER_MAX_MS);
        self.waits_since_ms.is_some_and(|since| now_ms.saturating_sub(since) > late_ms)
    }
}

/// The questions to all nodes.
#[derive(Clone, Debug, Default)]
pub struct Probes(BTreeMap<NodeId, Probe>);

impl Probes {
    /// Forgets the nodes for which `is_known` is false.
    pub fn retain(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.0.retain(|id, _| is_known(*id));
    }

    /// As [`Probe::ask`].
    pub fn ask(&mut self, now_ms: u64, id: NodeId) -> bool {
        self.0.entry(id).or_default().ask(now_ms)
    }

    /// As [`Probe::answered`].
    pub fn answered(&mut self, now_ms: u64, id: NodeId) {
        if let Some(probe) = self.0.get_mut(&id) {
            probe.answered(now_ms);
        }
    }

    /// As [`Probe::is_silent`].
    pub fn is_silent(&self, now_ms: u64, id: NodeId) -> bool {
        self.0.get(&id).is_some_and(|probe| probe.is_silent(now_ms))
    }

    /// Whether any node is silent: usually none is.
    pub fn has_silent(&self, now_ms: u64) -> bool {
        self.0.values().any(|probe| probe.is_silent(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_question_makes_a_node_silent_until_it_answers() {
        let mut probe = Probe::default();
        assert!(probe.ask(0) && !probe.ask(199), "one question at a time");
        assert!(!probe.is_silent(150) && probe.is_silent(151));
        assert!(probe.ask(200) && probe.is_silent(201), "asking again makes it no less silent");
        probe.answered(210);
        assert!(!probe.is_silent(9999), "nothing is unanswered");
    }

    #[test]
    fn a_node_that_answers_is_asked_seldom_and_a_slow_one_is_waited_for() {
        let mut probe = Probe::default();
        assert!(probe.ask(0));
        probe.answered(2);
        assert!(!probe.ask(49) && probe.ask(50));
        probe.answered(350);
        assert!(probe.ask(400));
        assert!(!probe.is_silent(1300) && probe.is_silent(1301), "three times 300 ms");
        // An answer after a long absence does not make every later one wait as long for ever.
        probe.answered(90_000);
        assert!(probe.ask(90_100));
        assert!(!probe.is_silent(92_100) && probe.is_silent(92_101));
        // Since then each answer has taken 99 ms.
        for n in 0..60 {
            probe.answered(92_200 + 100 * n);
            probe.ask(92_201 + 100 * n);
        }
        let asked_ms = 92_201 + 100 * 59;
        assert!(!probe.is_silent(asked_ms + 297) && probe.is_silent(asked_ms + 298), "{probe:?}");
    }
}
