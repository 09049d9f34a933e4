//! Accepts Redis clients and gives each connection a thread; what all connections of the node share.
//!
//! Caps are checked before a thread exists, and whoever comes too many is told so. When the node stops, nothing more is
//! read from anyone, what was read is answered, and the connections end by themselves.
//! Not here: what a connection says (`conn.rs`), accepting (`node/accept.rs`), starting threads (`node/spawn.rs`).

use super::commands::scripts::Loaded;
use super::cursors::Cursors;
use super::outbox::Client;
use super::protocol::reply;
use super::{conn, drain};
use crate::limits::RESP_DRAIN_INBOX_MAX;
use crate::node::Handle;
use crate::node::accept::{self, Arrival};
use crate::node::shared::lock;
use crossbeam_channel::{Sender, bounded};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What one value is taken to come to, until larger ones are seen.
const VALUE_BYTES_MIN: usize = 4 << 10;
/// Idle time after which the system asks whether the other side is still there, as Redis does.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// See the module.
pub struct Door {
    /// The node behind it.
    pub handle: Handle,
    /// Places of SCANs.
    pub cursors: Cursors,
    /// Scripts that clients loaded.
    pub scripts: Loaded,
    /// For INFO.
    pub counts: Counts,
    /// When it opened.
    pub started: Instant,
    /// Drawn when it opened.
    pub run_id: Uuid,
    /// Bytes of the largest value that went in or out here: how much replies to reads may come to.
    largest: AtomicUsize,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    slow: Sender<u64>,
}

/// Counts since the start.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub turned_away: AtomicU64,
    pub commands: AtomicU64,
    pub protocol_errors: AtomicU64,
}

impl Door {
    /// All connections, oldest first.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn clients_count(&self) -> usize {
        self.lock().len()
    }

    /// One connection.
    pub fn client(&self, id: u64) -> Option<Arc<Client>> {
        self.lock().get(&id).cloned()
    }

    /// Takes note of a value's size.
    pub fn note_size(&self, bytes: usize) {
        if bytes > self.largest.load(Relaxed) {
            self.largest.fetch_max(bytes, Relaxed);
        }
    }

    /// What one value may come to, as far as this node knows: never less than a few KiB. What its clients have just sent may
    /// be larger than anything in the store so far.
    pub fn value_bytes(&self) -> usize {
        self.largest.load(Relaxed).max(self.handle.largest_value()).max(VALUE_BYTES_MIN)
    }

    /// Leaves what a client's socket did not take to `resp-drain`; `false`: that has too much to do.
    pub fn drain(&self, client: u64) -> bool {
        self.slow.try_send(client).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        lock(&self.clients)
    }
}

/// Body of the `resp` thread: serves until the node stops, which ends the accept.
pub fn serve(listener: TcpListener, handle: Handle) {
    let (slow, inbox) = bounded(RESP_DRAIN_INBOX_MAX);
    let run_id = Uuid::new_v4();
    let door = Arc::new(Door {
        handle: handle.clone(),
        cursors: Cursors::new(run_id.as_u64_pair().1),
        scripts: Loaded::default(),
        counts: Counts::default(),
        started: Instant::now(),
        run_id,
        largest: AtomicUsize::new(0),
        clients: Mutex::default(),
        slow,
    });
    let weak = Arc::downgrade(&door);
    if let Err(error) = handle.spawn_own("resp-drain", move || drain::run(&weak, &inbox)) {
        log::warn!("no thread for slow clients, they will be closed err=\"{error}\"");
    }
    let is_stopping = || door.handle.is_stopping();
    accept::accept_all(&listener, "redis connections", is_stopping, |arrival| match arrival {
        Arrival::Client(stream, peer) => {
            door.counts.accepted.fetch_add(1, Relaxed);
            start(&door, stream, peer);
        }
        Arrival::NoRoom(stream) => turn_away(&door, &stream, "too many open files"),
        Arrival::Failed => {}
    });
    for client in door.clients() {
        client.stop_reading();
    }
}

fn start(door: &Arc<Door>, stream: TcpStream, peer: SocketAddr) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    let prepared =
        stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if prepared.is_err() {
        // The client was gone before it was accepted.
        return;
    }
    let id = door.counts.accepted.load(Relaxed);
    let memory = door.handle.memory().reservation();
    let client = Arc::new(Client::new(id, stream, peer, Arc::clone(door), memory));
    door.lock().insert(id, Arc::clone(&client));
    let listed = Listed { door: Arc::clone(door), id };
    let job = {
        let client = Arc::clone(&client);
        move |_| {
            let listed = listed;
            conn::serve(&listed.door, &client);
        }
    };
    if let Err(why) = door.handle.spawn_connection("resp-conn", None, job) {
        turn_away(door, &client.stream, &why);
    }
}

/// A connection is listed until its thread ends, or never starts.
struct Listed {
    door: Arc<Door>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.door.lock().remove(&self.id);
    }
}

/// Says that there is no room, without waiting for the client.
fn turn_away(door: &Door, stream: &TcpStream, why: &str) {
    door.counts.turned_away.fetch_add(1, Relaxed);
    log::debug!("redis client turned away: {why}");
    let mut text = Vec::new();
    reply::error(&mut text, "ERR max number of clients reached");
    if stream.set_nonblocking(true).is_ok() && io::Write::write_all(&mut &*stream, &text).is_ok() {
        // What the client has sent is read, so that closing does not reset the connection under the answer.
        let _ = io::Read::read(&mut &*stream, &mut [0; 1024]);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
