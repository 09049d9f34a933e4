//! A node with state: whether its peers remember votes or entries that its disk lacks.

use super::search::{LONG_ROUND, Search};
use super::world::Decision;
use crate::cluster::config::file::read;
use crate::raft::Promise;
use crate::types::{Identity, NodeId};
use crate::wire::DiscoveryAnswer;
use std::time::Duration;
use uuid::Uuid;

/// The same for a node that has state: it starts anyway, and the comparison with peers that answer later follows when
/// they connect.
const RESUME_ROUND_MAX: Duration = Duration::from_millis(200);
/// Number of further rounds, an election timeout apart, in which a leader must still lead before a node sets its log
/// aside for it: without a quorum, a leader steps down within two.
const LEADER_CHECK_ROUNDS: u32 = 3;

impl Search<'_> {
    /// A node with state asks the nodes that it knows, once and for a short time, what they remember of it. If none
    /// answers it does not wait: they compare again when they connect.
    ///
    /// Its log is set aside only for a leader that stays and that remembers more itself: one that has just lost its
    /// quorum still reports that it leads, and could add no node. One report is not enough to discard a log: if there
    /// are other voters, one of them must confirm that leader.
    pub(super) fn resume(&mut self, ours: Uuid) -> Decision {
        let mut lost: Option<Promise> = None;
        let (mut led, mut not_led) = ((None, 0), 0);
        loop {
            let named = read(&self.seeker.settings.config_file_path).ok().flatten();
            let addresses = self.known_addresses(named.as_ref());
            let answers = self.world.ask_all(&addresses, RESUME_ROUND_MAX);
            let answers: Vec<_> = answers.into_iter().flatten().filter(|there| there.cluster == Some(ours)).collect();
            for there in answers.iter().filter(|there| self.remembers_more(there)) {
                lost.get_or_insert_default().merge(&there.remembered);
            }
            // Kept for all rounds: the votes or entries remain lost even if the node that remembers them fails.
            let Some(known) = lost else { return Decision::Resume };
            let leader = self.leader_that_remembers_more(&answers);
            led = if leader.is_some() && leader == led.0 { (leader, led.1 + 1) } else { (leader, 0) };
            not_led = if leader.is_some() { 0 } else { not_led + 1 };
            let pause = match leader {
                Some(leader) if led.1 == LEADER_CHECK_ROUNDS => {
                    let line = "this node renames its log and joins again under a new identity";
                    let what = self.outdated(&known);
                    self.log_change(log::Level::Warn, "outdated", format!("{what}. Node {leader} leads: {line}"));
                    return Decision::Outdated;
                }
                Some(_) => Duration::from_millis(self.seeker.settings.election_timeout_ms),
                // A node may be about to become leader, or a reported leader about to step down.
                None if not_led <= LEADER_CHECK_ROUNDS => {
                    Duration::from_millis(self.seeker.settings.election_timeout_ms)
                }
                None => {
                    let line = "no confirmed leader has a newer log, perhaps because a majority of the nodes was \
                        restored from older copies. Restore the newer folders; or, to keep the older state, stop all \
                        nodes, start those with older folders first, then the others with --rejoin";
                    let what = self.outdated(&known);
                    self.log_change(log::Level::Error, "outdated", format!("{what}; {line}"));
                    LONG_ROUND
                }
            };
            if !self.world.wait(pause) {
                return Decision::Stopping;
            }
        }
    }

    /// Whether that node remembers a vote or an acknowledged entry that this node's disk has lost.
    fn remembers_more(&self, there: &DiscoveryAnswer) -> bool {
        there.remembered.is_possible_after(&self.seeker.kept) && self.seeker.kept.falls_short_of(&there.remembered)
    }

    /// Returns the leader if it answers itself and remembers more than this node's disk has, and if another voter
    /// reports the same or follows it in the same term. In a cluster of fewer than three voters, its own report is
    /// enough.
    fn leader_that_remembers_more(&self, answers: &[DiscoveryAnswer]) -> Option<NodeId> {
        let leads = |there: &DiscoveryAnswer| there.leader.as_ref().map(|(id, _)| *id);
        let is_of_another = |there: &DiscoveryAnswer, leader: Identity| {
            let who = there.who.filter(|who| ![leader.id, self.seeker.me.id].contains(&who.id));
            // Who has proved the secret may have come after this folder's time.
            let has_secret = self.seeker.settings.cluster_secret.is_some();
            who.is_some_and(|who| has_secret || self.seeker.voters.get(&who.id) == Some(&who.uuid))
        };
        let is_backed = |word: &DiscoveryAnswer, leader: Identity| {
            self.seeker.voters.len() < 3
                || answers.iter().filter(|there| is_of_another(there, leader)).any(|there| {
                    self.remembers_more(there) || (leads(there) == Some(leader.id) && there.term == word.term)
                })
        };
        let words =
            answers.iter().filter(|there| self.remembers_more(there)).filter_map(|there| Some((there, there.who?)));
        let leaders = words.filter(|(there, who)| leads(there) == Some(who.id) && who.id != self.seeker.me.id);
        leaders.filter(|(there, who)| is_backed(there, *who)).max_by_key(|(there, _)| there.term).map(|(_, who)| who.id)
    }

    /// Returns a message about what this node's folder lacks.
    fn outdated(&self, known: &Promise) -> String {
        let (me, kept) = (self.seeker.me.id.0, &self.seeker.kept);
        format!(
            "the data folder of node {me} is outdated: its log ends in term {} at entry {}, \
             but its peers have seen it in term {} at entry {}",
            kept.term, kept.index, known.term, known.index
        )
    }
}
