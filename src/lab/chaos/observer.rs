//! Notes which node leads in which term, as the nodes themselves say, a few times in a second.

use super::super::{Cluster, LabError, Result, poll, web};
use crate::node::spawn;
use crate::node::views::status::Status;
use crate::raft::Role;
use crossbeam_channel::{Receiver, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pause between two rounds: a status costs a node little, but not nothing.
const EVERY: Duration = Duration::from_millis(25);

/// A node that was seen to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    pub term: u64,
    pub node: u64,
    /// First and last seen.
    pub from: Duration,
    pub to: Duration,
}

/// What was seen: at most one leader of each term, or it is a violation.
#[derive(Clone, Debug, Default)]
pub struct Leads {
    /// In the order of terms.
    pub leads: Vec<Lead>,
    /// Terms with two leaders.
    pub doubled: Vec<String>,
}

pub struct Observer {
    stop: Arc<AtomicBool>,
    result: Receiver<Leads>,
}

impl Observer {
    /// # Errors
    /// The system refuses a thread.
    pub fn start(cluster: &Cluster, begun: Instant) -> Result<Observer> {
        let (stop, (to, result)) = (Arc::new(AtomicBool::new(false)), bounded(1));
        let (should_stop, addresses) = (Arc::clone(&stop), cluster.addresses());
        let observe = move || {
            let mut seen: BTreeMap<u64, Lead> = BTreeMap::new();
            let mut doubled = Vec::new();
            while !should_stop.load(Ordering::Relaxed) {
                for status in addresses.iter().filter_map(|address| status_of(address)) {
                    if status.node.role == Role::Leader {
                        let (term, node, at) = (status.cluster.term.0, status.node.id.0, begun.elapsed());
                        let lead = seen.entry(term).or_insert(Lead { term, node, from: at, to: at });
                        lead.to = at;
                        if lead.node != node {
                            doubled.push(format!("nodes {} and {node} both led in term {term}", lead.node));
                        }
                    }
                }
                poll::pause(EVERY);
            }
            let _ = to.send(Leads { leads: seen.into_values().collect(), doubled });
        };
        spawn::spawn("observer", observe).map_err(LabError::io("start the observer"))?;
        Ok(Observer { stop, result })
    }

    pub fn finish(self) -> Leads {
        self.stop.store(true, Ordering::Relaxed);
        self.result.recv().expect("the observer does not panic")
    }
}

/// The status of the node at an address, if it answers at once.
fn status_of(address: &str) -> Option<Status> {
    let answer = web::get(address, "/v1/status", Duration::from_millis(200)).ok()?;
    serde_json::from_slice(&answer.body).ok()
}
