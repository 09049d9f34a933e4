//! Accepts connections and gives each a thread; also the counts of the door.
//!
//! Caps are checked before a thread exists, and whoever comes too many is told so in one line instead of being left to
//! time out.
//! Not here: what a connection says (`routes.rs`, `front.rs`), accepting (`node/accept.rs`), starting threads
//! (`node/spawn.rs`).

use super::host::Host;
use super::password_hasher::Passwords;
use super::protocol::conn::{Conn, Deadlines};
use super::protocol::reply::Reply;
use super::{front, routes};
use crate::node::Handle;
use crate::node::accept::{self, Arrival};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time that the acceptor itself spends on telling one client that there is no room.
const REFUSAL_DEADLINE: Duration = Duration::from_millis(50);

/// Threads of connections to the node itself, not to its front door: the reserved slots are for these.
const NODE_CONNECTION: &str = "http-conn";

/// What all connections of one door share.
pub struct Door {
    /// The node behind it.
    pub host: Arc<dyn Host>,
    /// How long each phase of a connection may take.
    pub deadlines: Deadlines,
    /// For `/metrics`.
    pub counts: Counts,
    /// The newest frame as a table for people with curl, with the sequence number that it was made from.
    pub(crate) table: Mutex<(u64, Arc<str>)>,
    /// Passwords of the chat that are being hashed.
    pub(crate) passwords: Passwords,
    /// Somebody loads a database: one at a time.
    pub(crate) is_loading: AtomicBool,
}

/// Counts of one door since its start.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub turned_away: AtomicU64,
    pub accept_errors: AtomicU64,
    pub open: AtomicU64,
    pub requests: AtomicU64,
    pub refused_requests: AtomicU64,
    pub slow_readers_dropped: AtomicU64,
}

impl Door {
    /// A door in front of a node.
    pub fn new(host: Arc<dyn Host>, deadlines: Deadlines) -> Arc<Door> {
        Arc::new(Door {
            host,
            deadlines,
            counts: Counts::default(),
            table: Mutex::new((0, "".into())),
            passwords: Passwords::default(),
            is_loading: AtomicBool::new(false),
        })
    }
}

/// Body of the `http` thread: serves until the node stops; the stopping node wakes the accept by connecting.
pub fn serve(listener: TcpListener, handle: Handle) {
    let door = Door::new(Arc::new(handle), Deadlines::default());
    accept_all(&listener, &door, NODE_CONNECTION, routes::serve_connection);
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &TcpListener, door: &Arc<Door>) {
    accept_all(listener, door, NODE_CONNECTION, routes::serve_connection);
}

/// Accepts until the node stops; each connection gets a thread that runs `run`.
pub(crate) fn accept_all(listener: &TcpListener, door: &Arc<Door>, name: &'static str, run: fn(&Arc<Door>, Conn)) {
    let is_stopping = || door.host.is_stopping();
    accept::accept_all(listener, "connections", is_stopping, |arrival| match arrival {
        Arrival::Client(stream, peer) => {
            door.counts.accepted.fetch_add(1, Relaxed);
            start(door, stream, peer, name, run);
        }
        Arrival::NoRoom(stream) => turn_away(door, &stream, "too many open files"),
        Arrival::Failed => {
            door.counts.accept_errors.fetch_add(1, Relaxed);
        }
    });
}

fn start(door: &Arc<Door>, stream: TcpStream, peer: SocketAddr, name: &'static str, run: fn(&Arc<Door>, Conn)) {
    let stream = Arc::new(stream);
    let job = {
        let (door, stream) = (door.clone(), stream.clone());
        move |slot| {
            let _open = Open::new(&door);
            let memory = door.host.memory().reservation();
            if let Ok(conn) = Conn::new(stream, peer, door.deadlines, slot, memory) {
                run(&door, conn);
            }
        }
    };
    let client = (name == NODE_CONNECTION).then(|| (peer.ip(), stream.clone()));
    if let Err(why) = door.host.spawn_connection(name, client, Box::new(job)) {
        turn_away(door, &stream, &why);
    }
}

/// Says that there is no room, without letting a slow client hold up the next one.
fn turn_away(door: &Door, stream: &TcpStream, why: &str) {
    door.counts.turned_away.fetch_add(1, Relaxed);
    let mut answer = Vec::new();
    Reply::error(503, why, "refused", None).write(&mut answer, false, true, None);
    let said =
        stream.set_write_timeout(Some(REFUSAL_DEADLINE)).and_then(|()| io::Write::write_all(&mut &*stream, &answer));
    if said.is_ok() {
        // What the client has sent is read, so that closing does not reset the connection under the answer.
        let _ = stream.set_nonblocking(true).and_then(|()| io::Read::read(&mut &*stream, &mut [0; 1024]));
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a Door);

impl Open<'_> {
    fn new(door: &Door) -> Open<'_> {
        door.counts.open.fetch_add(1, Relaxed);
        Open(door)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Relaxed);
    }
}

/// The front door's acceptor for any host; see [`front::serve`].
pub fn serve_front_host(listener: &TcpListener, door: &Arc<Door>) {
    accept_all(listener, door, "door-conn", front::serve_connection);
}
