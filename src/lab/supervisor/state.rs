//! The faults of the node, how long each lasts, and which of them the node has in force.

use crate::faults::control::{ActiveFault, FaultUpdate, send};
use crate::faults::{Fault, FaultKind};
use crate::types::NodeId;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Faults of one node at most: each pair of a cluster of nine may have some.
const FAULTS_MAX: usize = 256;
/// Longest time for which a fault may be asked: a week. Beyond, it is meant to stay.
const FOR_MS_MAX: u64 = 7 * 86_400_000;

/// What happens to the process by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Start,
    Thaw,
}

struct Timed {
    fault: Fault,
    until: Option<Instant>,
}

pub struct State {
    id: NodeId,
    faults: Vec<Timed>,
    due: Option<(Instant, Due)>,
    /// Counts changes of the faults.
    number: u64,
    obeyed: u64,
    follower: Option<TcpStream>,
}

impl State {
    pub fn new(id: NodeId) -> State {
        State { id, faults: Vec::new(), due: None, number: 1, obeyed: 0, follower: None }
    }

    /// Replaces what was to happen to the process by itself; nothing will if there is no time.
    pub fn later(&mut self, due: Due, for_ms: Option<u64>, now: Instant) {
        self.due = for_ms.map(|ms| (now + Duration::from_millis(ms.min(FOR_MS_MAX)), due));
    }

    pub fn forget_due(&mut self) {
        self.due = None;
    }

    /// What is due for the process; faults that are over end.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        let before = self.faults.len();
        self.faults.retain(|timed| timed.until.is_none_or(|until| now < until));
        if self.faults.len() < before {
            self.tell();
        }
        let (at, due) = self.due?;
        (now >= at).then(|| {
            self.due = None;
            due
        })
    }

    /// Adds faults; returns the number of this change.
    ///
    /// # Errors
    /// One does not concern this node, or there are too many.
    pub fn add(&mut self, faults: &[Fault], for_ms: Option<u64>, now: Instant) -> Result<u64, String> {
        let is_foreign =
            |fault: &&Fault| matches!(fault, Fault::Link { from, to, .. } if *from != self.id && *to != self.id);
        if let Some(foreign) = faults.iter().find(is_foreign) {
            return Err(format!("\"{foreign}\" is not a link of node {}", self.id.0));
        }
        if self.faults.len() + faults.len() > FAULTS_MAX {
            return Err(format!("it has {} faults, {FAULTS_MAX} are possible: heal some first", self.faults.len()));
        }
        let until = for_ms.map(|ms| now + Duration::from_millis(ms.min(FOR_MS_MAX)));
        self.faults.extend(faults.iter().map(|fault| Timed { fault: fault.clone(), until }));
        self.tell();
        Ok(self.number)
    }

    /// Ends all faults or those of one kind; returns the number of this change.
    pub fn heal(&mut self, kind: Option<FaultKind>) -> u64 {
        self.faults.retain(|timed| kind.is_some_and(|kind| timed.fault.kind() != kind));
        self.tell();
        self.number
    }

    /// Ends the faults of the links to and from these nodes; returns the number of this change.
    pub fn heal_links(&mut self, nodes: &[NodeId]) -> u64 {
        let concerns =
            |fault: &Fault| matches!(fault, Fault::Link { from, to, .. } if nodes.contains(from) || nodes.contains(to));
        self.faults.retain(|timed| !concerns(&timed.fault));
        self.tell();
        self.number
    }

    /// The node listens here for its faults.
    pub fn followed_by(&mut self, stream: TcpStream) {
        self.follower = Some(stream);
        self.tell();
    }

    /// The node has ended.
    pub fn unfollowed(&mut self) {
        self.follower = None;
    }

    pub fn has_follower(&self) -> bool {
        self.follower.is_some()
    }

    fn tell(&mut self) {
        self.number += 1;
        let faults = self.faults.iter().map(|timed| timed.fault.clone()).collect();
        let update = FaultUpdate { number: self.number, faults };
        if self.follower.as_ref().is_some_and(|follower| send(follower, &update).is_err()) {
            self.follower = None;
        }
    }

    pub fn obeyed(&mut self, number: u64) {
        self.obeyed = self.obeyed.max(number);
    }

    /// Whether the node has the faults of this change in force.
    pub fn is_obeyed(&self, number: u64) -> bool {
        self.obeyed >= number
    }

    /// Milliseconds until something happens to the process by itself.
    pub fn left_ms(&self, now: Instant) -> Option<u64> {
        self.due.map(|(at, _)| left_ms(at, now))
    }

    pub fn shown(&self, now: Instant) -> Vec<ActiveFault> {
        let shown = |timed: &Timed| ActiveFault {
            fault: timed.fault.clone(),
            left_ms: timed.until.map(|until| left_ms(until, now)),
        };
        self.faults.iter().map(shown).collect()
    }
}

fn left_ms(at: Instant, now: Instant) -> u64 {
    at.saturating_duration_since(now).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::LinkQuality;

    #[test]
    fn faults_end_in_time_and_by_kind() {
        let (mut state, now) = (State::new(NodeId(1)), Instant::now());
        state.add(&[Fault::FullDisk], Some(100), now).unwrap();
        let first = state.add(&[Fault::Clock { offset_ms: 5 }], None, now).unwrap();
        assert!(!state.is_obeyed(first));
        state.obeyed(first);
        assert!(state.is_obeyed(first));
        assert_eq!(state.shown(now).iter().map(|it| it.left_ms).collect::<Vec<_>>(), [Some(100), None]);
        state.due(now + Duration::from_millis(100));
        assert_eq!(state.shown(now).len(), 1, "the one for 100 ms is over");
        assert!(!state.is_obeyed(state.number), "and the node is told");
        state.heal(Some(FaultKind::Disk));
        assert_eq!(state.shown(now).len(), 1);
        state.heal(None);
        assert!(state.shown(now).is_empty());
    }

    #[test]
    fn links_to_a_node_that_is_healed_are_healed() {
        let (mut state, now) = (State::new(NodeId(1)), Instant::now());
        let link = |from, to| Fault::Link { from: NodeId(from), to: NodeId(to), quality: LinkQuality::default() };
        state.add(&[link(1, 2), link(2, 1), link(1, 3), Fault::FullDisk], None, now).unwrap();
        state.heal_links(&[NodeId(2)]);
        let left: Vec<Fault> = state.shown(now).into_iter().map(|it| it.fault).collect();
        assert_eq!(left, [link(1, 3), Fault::FullDisk]);
    }

    #[test]
    fn a_link_of_others_is_refused_and_so_are_too_many_faults() {
        let (mut state, now) = (State::new(NodeId(1)), Instant::now());
        let foreign = Fault::Link { from: NodeId(2), to: NodeId(3), quality: LinkQuality::default() };
        assert!(state.add(&[foreign], None, now).unwrap_err().contains("not a link of node 1"));
        assert!(state.add(&vec![Fault::FullDisk; FAULTS_MAX + 1], None, now).is_err());
    }

    #[test]
    fn the_process_has_one_thing_to_happen() {
        let (mut state, now) = (State::new(NodeId(1)), Instant::now());
        state.later(Due::Start, Some(10), now);
        state.later(Due::Thaw, Some(20), now);
        assert_eq!(state.due(now + Duration::from_millis(19)), None);
        assert_eq!(state.due(now + Duration::from_millis(20)), Some(Due::Thaw));
        assert_eq!(state.due(now + Duration::from_millis(20)), None);
        state.later(Due::Start, None, now);
        assert_eq!(state.due(now + Duration::from_secs(9)), None);
    }
}
