//! Connects discovery with the peer protocol and with this node's folder.
//!
//! Not here: the decisions (`cluster/discovery/`), the protocol (`discovery_client.rs`).

use super::discovery_client::Asker;
use crate::cluster::discovery::{AskError, Claims, FrontOwner, JoinAnswer, World};
use crate::node::process::front_door;
use crate::node::spawn;
use crate::wire::DiscoveryAnswer;
use crate::wire::codec::WireError;
use crossbeam_channel::{Receiver, bounded};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time between the first two attempts to ask an address within a round; each further gap is half as long again. A
/// question takes some five packets each way, of which each may be lost.
const ATTEMPT_GAP: Duration = Duration::from_millis(200);
/// The most of them: a running node has a place for all of seven nodes.
const ATTEMPTS_MAX: usize = 6;

/// Bootstraps this node's cluster on disk.
type Bootstrap<'a> = dyn FnMut(Uuid) -> Result<(), String> + 'a;

/// Sockets, clock and disk for a node that looks for its cluster.
pub struct RealWorld<'a> {
    asker: Asker,
    claims: Arc<Claims>,
    /// `host:port` of the front door.
    front: String,
    stop_asked: &'a Receiver<&'static str>,
    bootstrap: RefCell<Box<Bootstrap<'a>>>,
}

impl<'a> RealWorld<'a> {
    /// `bootstrap` writes the initial state.
    pub fn new(
        asker: Asker,
        claims: Arc<Claims>,
        front: String,
        stop_asked: &'a Receiver<&'static str>,
        bootstrap: impl FnMut(Uuid) -> Result<(), String> + 'a,
    ) -> RealWorld<'a> {
        RealWorld { asker, claims, front, stop_asked, bootstrap: RefCell::new(Box::new(bootstrap)) }
    }

    /// Asks all addresses at the same time; returns the answers in the same order. One that has not answered is asked
    /// again over a new connection, beside the first: where packets are lost, TCP waits a second for the first answer.
    fn all(
        &self,
        addresses: &[String],
        patience: Duration,
        question: impl Fn(&Asker, &str) -> Result<DiscoveryAnswer, WireError> + Clone + Send + 'static,
    ) -> Vec<Result<DiscoveryAnswer, AskError>> {
        let (to, answers) = bounded(addresses.len().max(1) * ATTEMPTS_MAX);
        let attempt = |place: usize, address: &String| {
            let (to, asker, question) = (to.clone(), self.asker.clone(), question.clone());
            let address = address.clone();
            // Not joined: a thread that hangs ends at its own deadline.
            let started = spawn::spawn("ask", move || {
                let _ = to.try_send((place, question(&asker, &address).map_err(to_ask_error)));
            });
            if let Err(e) = started {
                log::warn!("cannot start a thread for discovery err={e}");
            }
        };
        let mut all: Vec<Option<Result<DiscoveryAnswer, AskError>>> = addresses.iter().map(|_| None).collect();
        let (deadline, mut attempts) = (Instant::now() + patience, 0);
        let (mut next, mut gap) = (Instant::now(), ATTEMPT_GAP);
        while all.iter().any(Option::is_none) {
            if attempts < ATTEMPTS_MAX && Instant::now() >= next {
                let open = addresses.iter().enumerate().filter(|(place, _)| all[*place].is_none());
                open.for_each(|(place, address)| attempt(place, address));
                (attempts, next, gap) = (attempts + 1, next + gap, gap * 3 / 2);
            }
            let until = if attempts < ATTEMPTS_MAX { next.min(deadline) } else { deadline };
            match answers.recv_deadline(until) {
                Ok((_, Err(AskError::Timeout))) => {}
                Ok((place, answer)) => _ = all[place].get_or_insert(answer),
                Err(_) if Instant::now() >= deadline => break,
                Err(_) => {}
            }
        }
        all.into_iter().map(|answer| answer.unwrap_or(Err(AskError::Timeout))).collect()
    }
}

impl World for RealWorld<'_> {
    fn ask_all(&self, addresses: &[String], patience: Duration) -> Vec<Result<DiscoveryAnswer, AskError>> {
        self.all(addresses, patience, Asker::ask)
    }

    fn claim_all(
        &self,
        addresses: &[String],
        claim: Uuid,
        patience: Duration,
    ) -> Vec<Result<DiscoveryAnswer, AskError>> {
        self.all(addresses, patience, move |asker, address| asker.claim(address, claim))
    }

    fn claims(&self) -> &Claims {
        &self.claims
    }

    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError> {
        Asker { cluster: Some(cluster), ..self.asker.clone() }.join(address).map_err(to_ask_error)
    }

    fn bootstrap(&self, cluster: Uuid) -> Result<(), String> {
        (self.bootstrap.borrow_mut())(cluster)
    }

    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner> {
        front_door::other_owner(&self.front, but)
    }

    fn wait(&self, time: Duration) -> bool {
        // The reason stays in the channel for the main thread.
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
        WireError::Differs { what, cluster } => AskError::Differs { what, cluster },
        other => AskError::Failed(other.to_string()),
    }
}
