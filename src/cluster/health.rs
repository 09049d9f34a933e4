//! The health of the cluster: one word, and reasons on which an operator can act.
//!
//! `unavailable`: no leader, or one that refuses writes as its disk is nearly full, or no majority of the voters is
//! reachable. `degraded`: serves, but a known member is offline, corrupt, does not catch up or has no connection to the
//! leader, its disk is nearly full, a voter is missing, a node in `peers` cannot join, or the loss of one voter would
//! stop it. `healthy`: every known member is online and the cluster can lose at least one of them and as many as its
//! number of voters allows. So a cluster of one node, or of two voters, is never healthy: it cannot lose any.
//! Not here: who is online (`gossip.rs`, and raft's view on the leader), the JSON form (`node/views/status.rs`).

use crate::raft::quorum;
use crate::types::{Index, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Whether the cluster serves, and how many failures it tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The cluster serves, and tolerates as many failures as its size allows.
    Healthy,
    /// The cluster serves, but tolerates fewer failures than its size allows.
    Degraded,
    /// The cluster does not serve writes.
    Unavailable,
}

/// Input of [`assess`].
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Leader, if this node knows one.
    pub leader: Option<NodeId>,
    /// Voters of the newest membership, and whether each is reachable.
    pub voters: Vec<(NodeId, bool)>,
    /// Learners, and whether each is reachable.
    pub learners: Vec<(NodeId, bool)>,
    /// The learners that are gateways and never vote.
    pub gateways: BTreeSet<NodeId>,
    /// The members that are witnesses: they vote, and lead only until a full node has their log.
    pub witnesses: BTreeSet<NodeId>,
    /// The witnesses that have cut their logs although too few full nodes hold the entries, each with the index up to
    /// which it did.
    pub cut_logs: BTreeMap<NodeId, Index>,
    /// Setting `voters_max`: with fewer voters, a learner that is online will become a voter.
    pub voters_max: u32,
    /// Messages about exhausted quotas.
    pub quotas: Vec<String>,
    /// If this node is no longer a member: a message with what to do. Its view of the others is out of date.
    pub outsider: Option<String>,
    /// Nodes that are online and do not catch up, each with the last index of its log and the one that it should have.
    pub stuck: BTreeMap<NodeId, (Index, Index)>,
    /// Nodes that are online and have no working connection to the leader, each with the node through which it reaches
    /// the leader, if there is one.
    pub cut_off: BTreeMap<NodeId, Option<NodeId>>,
    /// Nodes that are online with a nearly full disk: each refuses writes once it leads.
    pub disk_low: BTreeSet<NodeId>,
    /// Nodes with a state that differs from the majority's.
    pub corrupt: BTreeSet<NodeId>,
    /// Addresses in `peers` at which a node cannot join, with the reason.
    pub mismatched_peers: BTreeMap<String, String>,
    /// If no majority has the same state: a message with what to do.
    pub split: Option<String>,
    /// Which voters of dead processes this node hosts, or why it cannot host those that a majority needs.
    pub takeover: Option<String>,
    /// On the leader: whether a quorum has answered recently. `None` on other nodes.
    pub has_quorum: Option<bool>,
}

/// The health of the cluster with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The health as one word.
    pub health: Health,
    /// Messages for the operator; empty when healthy.
    pub reasons: Vec<String>,
    /// Number of further voters that may fail before the cluster stops serving.
    pub failure_tolerance: u32,
    /// Whether enough voters are reachable to commit.
    pub has_quorum: bool,
}

impl HealthReport {
    /// Formats the report as one line: `healthy: can lose 2 more`, `degraded: node 3 is offline; ...`.
    pub fn line(&self) -> String {
        let word = self.health.word();
        let rest = match self.health {
            Health::Healthy => format!("can lose {} more", self.failure_tolerance),
            Health::Degraded | Health::Unavailable => self.reasons.join("; "),
        };
        format!("{word}: {rest}")
    }
}

impl Health {
    /// Returns the word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        }
    }
}

/// Derives the health with its reasons.
pub fn assess(situation: &Situation) -> HealthReport {
    let voters = situation.voters.len();
    let online = situation.voters.iter().filter(|(_, is_online)| *is_online);
    // A node that does not catch up answers, but lacks the newest entries: it cannot replace one that is lost. Neither
    // can one that does not reach the leader.
    let is_behind = |id: &NodeId| situation.stuck.contains_key(id) || situation.cut_off.get(id) == Some(&None);
    let stuck = online.clone().filter(|(id, _)| is_behind(id)).count();
    let reachable = online.count() - stuck;
    let needed = quorum(voters);
    let has_quorum = voters > 0 && reachable >= needed && situation.has_quorum != Some(false);
    let spare = reachable.saturating_sub(needed);
    let mut reasons = Vec::new();
    if let Some(why) = &situation.outsider {
        reasons.push(why.clone());
        return HealthReport { health: Health::Unavailable, reasons, failure_tolerance: 0, has_quorum: false };
    }
    if voters > 0 && reachable < needed {
        let level = if stuck > 0 { " and up to date" } else { "" };
        reasons.push(format!("{reachable} of {voters} voters reachable{level}, {needed} needed"));
    } else if situation.has_quorum == Some(false) {
        reasons.push(format!("fewer than {needed} of {voters} voters answer the leader"));
    }
    if situation.leader.is_none() {
        reasons.push("no leader is known".into());
    }
    reasons.extend(situation.takeover.clone());
    reasons.extend(situation.split.clone());
    let corrupt = situation.corrupt.iter();
    reasons.extend(corrupt.map(|id| format!("node {}'s state differs from the majority's; it is being rebuilt", id.0)));
    let is_leader_low = situation.leader.is_some_and(|id| situation.disk_low.contains(&id));
    let passing_on = situation.leader.filter(|id| situation.witnesses.contains(id));
    let can_write = situation.split.is_none() && !is_leader_low && passing_on.is_none();
    let is_serving = has_quorum && situation.leader.is_some() && can_write;
    let roomy = roomy_voters(situation);
    reasons.extend(disk_reasons(situation, &roomy));
    reasons.extend(witness_reasons(situation, passing_on));
    reasons.extend(member_reasons(situation));
    reasons.extend(without_vote(&voteless(situation)));
    if let (1, Some((only, false))) = (voters, situation.voters.first()) {
        reasons.push(format!(
            "node {0} has the only vote: start it (phalanx node --id {0}), or, if its folder is lost, see phalanx recover",
            only.0
        ));
    }
    if is_serving && spare == 0 {
        reasons.push(match (voters, reachable) {
            (1, _) => "a single node cannot lose any".into(),
            (2, _) => "two voters cannot lose any".into(),
            _ => format!("{reachable} of {voters} voters are online"),
        });
    }
    reasons.extend(situation.mismatched_peers.iter().map(|(peer, why)| format!("{peer} in peers cannot join: {why}")));
    reasons.extend(situation.quotas.iter().cloned());
    let health = match (is_serving, reasons.is_empty()) {
        (false, _) => Health::Unavailable,
        (true, false) => Health::Degraded,
        (true, true) => Health::Healthy,
    };
    // The last voter with free disk space cannot be lost either: any other leader refuses writes.
    let may_fail = spare.min(roomy.len().saturating_sub(1));
    let failure_tolerance = if is_serving { may_fail as u32 } else { 0 };
    HealthReport { health, reasons, failure_tolerance, has_quorum }
}

/// Returns messages about members that are offline, behind, out of the leader's reach or not voters yet.
fn member_reasons(situation: &Situation) -> Vec<String> {
    let members = situation.voters.iter().chain(&situation.learners);
    let offline: BTreeSet<NodeId> = members.filter(|(_, is_online)| !is_online).map(|(id, _)| *id).collect();
    let is_offline = |id: &NodeId| offline.contains(id);
    let mut reasons: Vec<String> = offline.iter().map(|id| format!("node {} is offline", id.0)).collect();
    for (id, (end, committed)) in situation.stuck.iter().filter(|(id, _)| !is_offline(id)) {
        reasons
            .push(format!("node {} does not catch up: its log ends at {end}, the commit index is {committed}", id.0));
    }
    reasons.extend(situation.cut_off.iter().filter(|(id, _)| !is_offline(id)).map(|(id, through)| match through {
        Some(through) => format!("node {} reaches the leader through node {}", id.0, through.0),
        None => format!("node {} cannot reach the leader", id.0),
    }));
    if situation.voters.len() < situation.voters_max as usize {
        let waiting =
            situation.learners.iter().filter(|(id, is_online)| *is_online && !situation.gateways.contains(id));
        reasons.extend(waiting.map(|(id, _)| format!("node {} is not a voter yet", id.0)));
    }
    reasons
}

/// Returns the learners that are offline and will have a vote when they are back: they gave it back when they stopped, or
/// were dead for long. None if there are as many voters as there should be.
fn voteless(situation: &Situation) -> Vec<NodeId> {
    let is_short = !situation.voters.is_empty() && situation.voters.len() < situation.voters_max as usize;
    let offline = situation.learners.iter().filter(|(id, is_online)| !is_online && !situation.gateways.contains(id));
    offline.filter(|_| is_short).map(|(id, _)| *id).collect()
}

/// Which nodes have no vote, as text.
fn without_vote(nodes: &[NodeId]) -> Option<String> {
    let texts: Vec<String> = nodes.iter().map(|id| id.0.to_string()).collect();
    match texts.split_last()? {
        (only, []) => Some(format!("node {only} has no vote until it is back")),
        (last, first) => Some(format!("nodes {} and {last} have no vote until they are back", first.join(", "))),
    }
}

/// Returns the voters that are reachable and have enough disk space to lead and accept writes.
fn roomy_voters(situation: &Situation) -> Vec<NodeId> {
    let is_roomy = |id: &NodeId| !situation.stuck.contains_key(id) && !situation.disk_low.contains(id);
    let can_lead = |id: &NodeId| is_roomy(id) && !situation.witnesses.contains(id);
    let online = situation.voters.iter().filter(|(_, is_online)| *is_online).map(|(id, _)| *id);
    online.filter(can_lead).collect()
}

/// Returns messages about witnesses.
fn witness_reasons(situation: &Situation, leader: Option<NodeId>) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    reasons.extend(leader.map(|id| {
        format!(
            "writes wait: node {}, a witness, leads until a full node has its log; if none gets it, start the full node \
             that had the newest, or, if its folder is lost, see phalanx recover",
            id.0
        )
    }));
    reasons.extend(situation.cut_logs.iter().map(|(id, cut)| {
        format!(
            "node {}, a witness, has cut its log at {cut}, and too few full voters hold the entries up to there: start \
             those that are offline",
            id.0
        )
    }));
    reasons
}

/// Returns messages about nodes with a nearly full disk and the consequences.
fn disk_reasons(situation: &Situation, roomy: &[NodeId]) -> Vec<String> {
    let mut reasons = Vec::new();
    let low_leader = situation.leader.filter(|id| situation.disk_low.contains(id));
    if let Some(leader) = low_leader {
        let when = if roomy.is_empty() {
            "and no other voter that could lead has room"
        } else {
            "until a voter that has room leads"
        };
        reasons.push(format!(
            "writes are refused: the disk of node {}, which leads, is nearly full, {when}: \
             make room there, or lower disk_reserve_mb",
            leader.0
        ));
    }
    let others = situation.disk_low.iter().filter(|id| Some(**id) != low_leader);
    reasons.extend(others.map(|id| format!("node {}'s disk is nearly full: make room there", id.0)));
    if let (false, None, [last]) = (situation.disk_low.is_empty(), low_leader, roomy) {
        reasons.push(format!("writes need node {}: no other voter that could lead has room", last.0));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use crate::cluster::health::*;

    /// `voters`: ids, negative when offline.
    fn situation(leader: u64, voters: &[i64], learners: &[i64]) -> Situation {
        let rows = |all: &[i64]| all.iter().map(|n| (NodeId(n.unsigned_abs()), *n > 0)).collect();
        let leader = (leader > 0).then_some(NodeId(leader));
        Situation { leader, voters: rows(voters), learners: rows(learners), voters_max: 5, ..Situation::default() }
    }

    #[test]
    fn a_table_of_situations() {
        type Case = (u64, &'static [i64], &'static [i64], &'static str, u32);
        let cases: [Case; 15] = [
            (5, &[1, 2, 3, 4, 5], &[], "healthy: can lose 2 more", 2),
            (5, &[1, 2, 3, 4, 5], &[6], "healthy: can lose 2 more", 2),
            (3, &[1, 2, 3], &[], "healthy: can lose 1 more", 1),
            (4, &[1, 2, 3, 4], &[], "healthy: can lose 1 more", 1),
            (5, &[1, 2, -3, 4, 5], &[], "degraded: node 3 is offline", 1),
            (
                5,
                &[1, 2, -3, -4, 5],
                &[],
                "degraded: node 3 is offline; node 4 is offline; \
              3 of 5 voters are online",
                0,
            ),
            (
                3,
                &[1, 2, 3],
                &[4, -5],
                "degraded: node 5 is offline; node 4 is not a voter yet; node 5 has no vote until it is back",
                1,
            ),
            (5, &[1, 2, 3, 4, 5], &[-6], "degraded: node 6 is offline", 2),
            (1, &[1], &[], "degraded: a single node cannot lose any", 0),
            (
                5,
                &[5],
                &[-1, -2, -3],
                "degraded: node 1 is offline; node 2 is offline; node 3 is offline; nodes 1, 2 and 3 have no vote until \
                 they are back; a single node cannot lose any",
                0,
            ),
            (
                0,
                &[-5],
                &[1, 2],
                "unavailable: 0 of 1 voters reachable, 1 needed; no leader is known; node 5 is offline; node 1 is not a \
                 voter yet; node 2 is not a voter yet; node 5 has the only vote: start it (phalanx node --id 5), or, if \
                 its folder is lost, see phalanx recover",
                0,
            ),
            (2, &[1, 2], &[], "degraded: two voters cannot lose any", 0),
            (0, &[1, 2, 3], &[], "unavailable: no leader is known", 0),
            (
                0,
                &[1, 2, -3, -4, -5],
                &[],
                "unavailable: 2 of 5 voters reachable, 3 needed; no leader is known; \
              node 3 is offline; node 4 is offline; node 5 is offline",
                0,
            ),
            (0, &[], &[], "unavailable: no leader is known", 0),
        ];
        for (leader, voters, learners, line, tolerance) in cases {
            let report = assess(&situation(leader, voters, learners));
            assert_eq!(report.line(), line, "{leader} {voters:?} {learners:?}");
            assert_eq!(report.failure_tolerance, tolerance, "{line}");
        }
    }

    #[test]
    fn a_node_cut_off_from_the_leader_is_reported_and_counts_if_relayed() {
        let cut_off = |through: Option<NodeId>| {
            let cut_off = BTreeMap::from([(NodeId(1), through)]);
            assess(&Situation { cut_off, ..situation(3, &[1, 2, 3], &[]) })
        };
        let relayed = cut_off(Some(NodeId(2)));
        assert_eq!(relayed.line(), "degraded: node 1 reaches the leader through node 2");
        assert_eq!((relayed.failure_tolerance, relayed.has_quorum), (1, true));
        let alone = cut_off(None);
        assert_eq!(alone.line(), "degraded: node 1 cannot reach the leader; 2 of 3 voters are online");
        assert_eq!((alone.failure_tolerance, alone.has_quorum), (0, true));
        let offline = BTreeMap::from([(NodeId(1), None)]);
        let gone = assess(&Situation { cut_off: offline, ..situation(3, &[-1, 2, 3], &[]) });
        assert_eq!(gone.reasons, ["node 1 is offline", "2 of 3 voters are online"]);
    }

    #[test]
    fn differing_states_are_reported() {
        let corrupt = Situation { corrupt: BTreeSet::from([NodeId(2)]), ..situation(3, &[1, 2, 3], &[]) };
        let line = "degraded: node 2's state differs from the majority's; it is being rebuilt";
        assert_eq!(assess(&corrupt).line(), line);
        let split = Situation { split: Some("read-only: ...".into()), ..situation(3, &[1, 2, 3], &[]) };
        assert_eq!(assess(&split).line(), "unavailable: read-only: ...");
    }

    #[test]
    fn a_witness_counts_as_a_vote_and_not_as_a_leader() {
        let with = |leader, voters: &[i64]| {
            let witnesses = BTreeSet::from([NodeId(9)]);
            let report = assess(&Situation { witnesses, voters_max: 3, ..situation(leader, voters, &[]) });
            (report.line(), report.failure_tolerance)
        };
        assert_eq!(with(2, &[1, 2, 9]), ("healthy: can lose 1 more".into(), 1));
        let (line, left) = with(2, &[-1, 2, 9]);
        assert_eq!((line.as_str(), left), ("degraded: node 1 is offline; 2 of 3 voters are online", 0));
        let (line, left) = with(9, &[-1, 2, 9]);
        assert!(line.starts_with("unavailable: writes wait: node 9, a witness, leads until a full node"), "{line}");
        assert_eq!(left, 0);
        let (witnesses, cut_logs) = (BTreeSet::from([NodeId(9)]), BTreeMap::from([(NodeId(9), Index(40))]));
        let cut = assess(&Situation { witnesses, cut_logs, voters_max: 3, ..situation(2, &[1, 2, 9], &[]) });
        assert!(cut.line().starts_with("degraded: node 9, a witness, has cut its log at 40"), "{}", cut.line());
    }

    #[test]
    fn a_nearly_full_disk_is_reported_and_stops_a_leaders_writes() {
        let low = |ids: &[u64], leader: u64, voters: &[i64]| {
            let disk_low = ids.iter().map(|id| NodeId(*id)).collect();
            assess(&Situation { disk_low, ..situation(leader, voters, &[]) })
        };
        let follower = low(&[1], 3, &[1, 2, 3]);
        assert_eq!(follower.line(), "degraded: node 1's disk is nearly full: make room there");
        assert_eq!(follower.failure_tolerance, 1);
        let followers = low(&[1, 2], 3, &[1, 2, 3]);
        assert_eq!(followers.failure_tolerance, 0, "writes end with node 3");
        assert_eq!(followers.reasons[2], "writes need node 3: no other voter that could lead has room");
        let leader = low(&[3], 3, &[1, 2, 3]);
        assert_eq!((leader.health, leader.has_quorum, leader.failure_tolerance), (Health::Unavailable, true, 0));
        assert_eq!(
            leader.line(),
            "unavailable: writes are refused: the disk of node 3, which leads, is nearly full, \
             until a voter that has room leads: make room there, or lower disk_reserve_mb"
        );
        let all = low(&[1, 2, 3], 3, &[1, 2, 3]);
        assert_eq!(all.health, Health::Unavailable);
        let why = "is nearly full, and no other voter that could lead has room: make room there";
        assert!(all.reasons[0].contains(why), "{}", all.line());
        assert_eq!(all.reasons[1..], [1, 2].map(|id| format!("node {id}'s disk is nearly full: make room there")));
        // A node that is offline cannot become leader.
        assert!(low(&[3], 3, &[1, 3, -2]).line().contains("until a voter"));
        assert!(low(&[1, 3], 3, &[1, 3, -2]).line().contains("no other voter"));
    }

    #[test]
    fn a_leader_without_answers_does_not_serve() {
        let mismatched_peers = BTreeMap::from([("10.0.0.5:5705".to_string(), "cluster_secret differs".to_string())]);
        let mismatched = assess(&Situation { mismatched_peers, ..situation(1, &[1, 2, 3], &[]) });
        assert_eq!(mismatched.line(), "degraded: 10.0.0.5:5705 in peers cannot join: cluster_secret differs");
        let quotas = vec!["quota_kv_mb is reached".to_string()];
        let full = assess(&Situation { quotas, ..situation(1, &[1, 2, 3], &[]) });
        assert_eq!(full.line(), "degraded: quota_kv_mb is reached");
        let outsider = Some("this node was removed".to_string());
        let removed = assess(&Situation { outsider, ..situation(0, &[1, 2, 3], &[]) });
        assert_eq!(removed.line(), "unavailable: this node was removed");
        assert!(!removed.has_quorum);
        let stuck = BTreeMap::from([(NodeId(3), (Index(10), Index(120)))]);
        let behind = assess(&Situation { stuck: stuck.clone(), ..situation(1, &[1, 2, 3], &[]) });
        assert_eq!((behind.health, behind.failure_tolerance), (Health::Degraded, 0), "{}", behind.line());
        assert_eq!(behind.reasons[0], "node 3 does not catch up: its log ends at 10, the commit index is 120");
        let worse = assess(&Situation { stuck, ..situation(1, &[1, -2, 3], &[]) });
        assert_eq!((worse.health, worse.has_quorum), (Health::Unavailable, false), "{}", worse.line());
        let cut_off = Situation { has_quorum: Some(false), ..situation(1, &[1, 2, 3], &[]) };
        let report = assess(&cut_off);
        assert_eq!((report.health, report.has_quorum), (Health::Unavailable, false));
        assert_eq!(report.reasons, ["fewer than 2 of 3 voters answer the leader"]);
    }
}
