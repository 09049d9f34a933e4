//! The peer protocol as discovery needs it: ask an address who leads, ask a leader to join, and answer other nodes that
//! ask while this node is still looking for its cluster.
//!
//! Not here: which addresses are asked, how often, and what follows from the answers (`cluster/discovery/`).

use crate::address;
use crate::cluster::config::file::read;
use crate::cluster::discovery::{Claims, Grant, JoinAnswer};
use crate::faults::switch;
use crate::limits::HANDSHAKE_DEADLINE;
use crate::node::lab::link;
use crate::node::listener::Listener;
use crate::node::shared::Shared;
use crate::raft::Promise;
use crate::settings::Settings;
use crate::types::{Addresses, Identity, NodeKind};
use crate::wire::authentication::{ConnectionTags, Key};
use crate::wire::codec::{WireError, read_tagged, write_tagged};
use crate::wire::handshake::{self, DeadlineReader, HelloReply};
use crate::wire::{DiscoveryAnswer, Frame, Hello, PROTOCOL, Purpose};
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait for a connection to this node itself.
const WAKE_TIMEOUT: Duration = Duration::from_millis(300);
/// Questions that are answered at the same time; further ones wait. Where packets are lost, each node asks several
/// times.
const ANSWERS_MAX: usize = 64;
/// Largest answer to a question.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A node that asks others.
#[derive(Clone, Debug)]
pub struct Asker {
    pub me: Identity,
    /// The cluster it must find, if it was in one.
    pub cluster: Option<Uuid>,
    /// Where it can be reached.
    pub addresses: Addresses,
    pub kind: NodeKind,
    /// Setting `cluster_name`.
    pub name: String,
    /// Made of the setting `cluster_secret`.
    pub key: Option<Key>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the leader to make us a learner.
    pub join_timeout: Duration,
}

impl Asker {
    /// A running node, which looks for other members of its cluster.
    pub fn of(shared: &Shared) -> Asker {
        Asker::new(&shared.settings, shared.peer_key.clone(), shared.me, Some(shared.cluster), shared.kind)
    }

    /// A node that looks for its cluster, with the key of its settings' secret.
    pub fn new(settings: &Settings, key: Option<Key>, me: Identity, cluster: Option<Uuid>, kind: NodeKind) -> Asker {
        Asker {
            me,
            cluster,
            addresses: settings.addresses(me.id),
            kind,
            name: settings.cluster_name.clone(),
            key,
            connect_timeout: Duration::from_millis(settings.discovery_timeout_ms),
            join_timeout: Duration::from_millis(settings.request_timeout_ms),
        }
    }

    /// Asks one address who leads.
    ///
    /// # Errors
    /// When no process listens there, the answer does not come in time, or the other side declines.
    pub fn ask(&self, address: &str) -> Result<DiscoveryAnswer, WireError> {
        let (welcomed, answer) = self.who_is_at(address)?;
        Ok(DiscoveryAnswer { remembered: welcomed.remembered, who: Some(welcomed.who), ..answer })
    }

    /// Asks a leader to make this node a learner.
    ///
    /// # Errors
    /// As [`Asker::ask`]; a refusal (the id is in use) comes as [`WireError::Rejected`].
    pub fn join(&self, address: &str) -> Result<JoinAnswer, WireError> {
        let (stream, _, mut tags) = self.dial(address, Purpose::Join { kind: self.kind })?;
        let mut from = DeadlineReader::new(&stream, Instant::now() + self.join_timeout);
        match read_tagged(&mut from, ANSWER_BYTES_MAX, &mut tags.incoming)? {
            Frame::Joined { cluster, members, identities } => Ok(JoinAnswer::Joined { cluster, members, identities }),
            Frame::DiscoveryAnswer(answer) => Ok(JoinAnswer::Elsewhere(answer)),
            Frame::Reject { why } => Err(WireError::Rejected(why)),
            _ => Err(WireError::Unexpected("answer to a join")),
        }
    }

    /// Who answers at an address, and what it knows.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn who_is_at(&self, address: &str) -> Result<(HelloReply, DiscoveryAnswer), WireError> {
        self.exchange(address, Purpose::Ask)
    }

    fn exchange(&self, address: &str, purpose: Purpose) -> Result<(HelloReply, DiscoveryAnswer), WireError> {
        let (stream, welcomed, mut tags) = self.dial(address, purpose)?;
        let mut from = DeadlineReader::new(&stream, Instant::now() + HANDSHAKE_DEADLINE);
        match read_tagged(&mut from, ANSWER_BYTES_MAX, &mut tags.incoming)? {
            Frame::DiscoveryAnswer(answer) => Ok((welcomed, answer)),
            _ => Err(WireError::Unexpected("answer to a question")),
        }
    }

    /// Claims the right to bootstrap; returns what the node there knows, with this claim if it grants it.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn claim(&self, address: &str, claim: Uuid) -> Result<DiscoveryAnswer, WireError> {
        Ok(self.exchange(address, Purpose::Claim { claim })?.1)
    }

    fn dial(&self, address: &str, purpose: Purpose) -> Result<(TcpStream, HelloReply, ConnectionTags), WireError> {
        let connect = |within| address::connect(address, within);
        let stream = match switch::get().and_then(|switch| Some((switch, switch.node_at(address)?))) {
            Some((switch, peer)) if peer != self.me.id => link::connect(switch, peer, self.connect_timeout, connect)?.0,
            _ => connect(self.connect_timeout)?,
        };
        stream.set_nodelay(true)?;
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: self.cluster,
            from: self.me,
            addresses: self.addresses.clone(),
            opening: Vec::new(),
            purpose,
        };
        let (welcomed, tags) = handshake::dial(&stream, hello, None, self.key.as_ref())?;
        Ok((stream, welcomed, tags))
    }
}

/// Answers other nodes on the peer port while this node has no cluster yet.
pub struct DiscoveryResponder {
    is_over: Arc<AtomicBool>,
    port: std::net::SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl DiscoveryResponder {
    /// Starts answering.
    ///
    /// # Errors
    /// When the listener cannot be shared or no thread can be had.
    pub fn start(listener: &Listener, asker: Asker, claims: Arc<Claims>) -> std::io::Result<DiscoveryResponder> {
        let port = listener.address()?;
        let listener = listener.try_clone()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = crate::node::spawn::spawn("lookout", move || {
            let mut answers: Vec<std::thread::JoinHandle<()>> = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::Acquire) {
                    break;
                }
                // On a slow network a handshake takes seconds. Each has its deadline.
                answers.retain(|thread| !thread.is_finished());
                let (asker, claims) = (asker.clone(), Arc::clone(&claims));
                let work = move || _ = answer(&stream, &asker, &claims);
                match answers.len() < ANSWERS_MAX {
                    true => answers.extend(crate::node::spawn::spawn("answer", work)),
                    false => work(),
                }
            }
            // Later, this node answers as a member: nothing of what it said before may come after that.
            for thread in answers {
                let _ = thread.join();
            }
        })?;
        Ok(DiscoveryResponder { is_over, port, thread: Some(thread) })
    }
}

impl Drop for DiscoveryResponder {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        wake(self.port);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Wakes a thread that waits in `accept`.
pub fn wake(listening: std::net::SocketAddr) {
    let mut address = listening;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let _ = TcpStream::connect_timeout(&address, WAKE_TIMEOUT);
}

fn answer(stream: &TcpStream, asker: &Asker, claims: &Claims) -> Result<(), WireError> {
    let (hello, mut tags) = handshake::accept(stream, asker.me, asker.cluster, asker.key.as_ref(), None, |hello| {
        // Members dial again and again, also once this node runs.
        matches!(hello.purpose, Purpose::Ask | Purpose::Claim { .. } | Purpose::Join { .. }).then(Promise::default)
    })?;
    let mut to = stream;
    // Only full nodes bootstrap a cluster, so no node needs to wait for others.
    let id = (asker.kind == NodeKind::Full).then_some(asker.me.id);
    if let Purpose::Claim { claim } = hello.purpose {
        // The answer names the claim if it is granted. A node with data waits for its own cluster.
        let _ = asker.cluster.is_none()
            && claims.grant(Grant { to: hello.from.id, address: hello.addresses.peer.clone(), claim });
    }
    let (name, claim) = (asker.name.clone(), claims.current());
    let looking = DiscoveryAnswer { id, cluster: asker.cluster, name, claim, ..DiscoveryAnswer::default() };
    match hello.purpose {
        Purpose::Ask | Purpose::Claim { .. } | Purpose::Join { .. } => {
            write_tagged(&mut to, &Frame::DiscoveryAnswer(looking), &mut tags.outgoing)
        }
        Purpose::Peer | Purpose::Snapshot | Purpose::State => Ok(()),
    }
}

/// Peer addresses that the settings and `config.json` name.
pub fn named_addresses(settings: &Settings) -> BTreeSet<String> {
    let named = read(&settings.config_file_path).ok().flatten();
    settings.peers.iter().cloned().chain(named.iter().flat_map(|named| named.peer_addresses())).collect()
}
