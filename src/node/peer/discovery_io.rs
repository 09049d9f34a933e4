//! Joins discovery's decisions to the peer protocol and to this node's folder.
//!
//! Not here: the decisions (`cluster/discovery.rs`), the conversations (`discovery_client.rs`).

use super::discovery_client::{self, Asker};
use crate::cluster::discovery::{AskError, FrontOwner, JoinAnswer, World};
use crate::node::process::front_port;
use crate::node::spawn;
use crate::wire::Whereabouts;
use crate::wire::codec::WireError;
use crossbeam_channel::{Receiver, bounded};
use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Founds this node's cluster on disk.
type Bootstrap<'a> = dyn FnMut(Uuid) -> Result<(), String> + 'a;

/// The world of a node that looks for its cluster.
pub struct RealWorld<'a> {
    asker: Asker,
    /// `host:port` of the front door.
    front: String,
    stop_asked: &'a Receiver<&'static str>,
    bootstrap: RefCell<Box<Bootstrap<'a>>>,
}

impl<'a> RealWorld<'a> {
    /// A world in which `bootstrap` writes the initial state.
    pub fn new(
        asker: Asker,
        front: String,
        stop_asked: &'a Receiver<&'static str>,
        bootstrap: impl FnMut(Uuid) -> Result<(), String> + 'a,
    ) -> RealWorld<'a> {
        RealWorld { asker, front, stop_asked, bootstrap: RefCell::new(Box::new(bootstrap)) }
    }
}

impl World for RealWorld<'_> {
    fn ask_all(&self, addresses: &[String], patience: Duration) -> Vec<Result<Whereabouts, AskError>> {
        let (to, answers) = bounded(addresses.len().max(1));
        for (place, address) in addresses.iter().cloned().enumerate() {
            let (to, asker) = (to.clone(), self.asker.clone());
            // Not joined: one that hangs ends at its own deadline.
            let started = spawn::spawn("ask", move || {
                let _ = to.send((place, asker.ask(&address).map_err(to_ask_error)));
            });
            if let Err(e) = started {
                log::warn!("cannot start a thread for discovery err={e}");
            }
        }
        drop(to);
        let mut all: Vec<Result<Whereabouts, AskError>> = addresses.iter().map(|_| Err(AskError::Timeout)).collect();
        let deadline = Instant::now() + patience;
        while let Ok((place, answer)) = answers.recv_deadline(deadline) {
            all[place] = answer;
        }
        all
    }

    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError> {
        let asker = Asker { cluster: Some(cluster), ..self.asker.clone() };
        match asker.join(address).map_err(to_ask_error)? {
            discovery_client::JoinAnswer::Joined { cluster, members, identities } => {
                Ok(JoinAnswer::Joined { cluster, members, identities })
            }
            discovery_client::JoinAnswer::Elsewhere(whereabouts) => Ok(JoinAnswer::Elsewhere(whereabouts)),
        }
    }

    fn bootstrap(&self, cluster: Uuid) -> Result<(), String> {
        (self.bootstrap.borrow_mut())(cluster)
    }

    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner> {
        front_port::other_owner(&self.front, but)
    }

    fn wait(&self, time: Duration) -> bool {
        // Only looked at, not taken: the main thread still wants to know why.
        let until = Instant::now() + time;
        while Instant::now() < until {
            if !self.stop_asked.is_empty() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5).min(until.saturating_duration_since(Instant::now())));
        }
        self.stop_asked.is_empty()
    }
}

fn to_ask_error(e: WireError) -> AskError {
    match e {
        WireError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => AskError::Refused,
        WireError::Io(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            AskError::Timeout
        }
        WireError::Rejected(why) => AskError::Rejected(why),
        WireError::Unproved(why) => AskError::Unproved(why),
        other => AskError::Failed(other.to_string()),
    }
}
