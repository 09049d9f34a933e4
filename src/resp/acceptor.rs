//! Accepts Redis clients and gives each connection a thread.
//!
//! Limits are checked before a thread exists, and a client that exceeds them gets an error. When the node stops,
//! nothing more is read, requests that were read are answered, and the connections end.
//! Not here: what a connection does (`dispatch.rs`), accepting (`node/accept.rs`), starting threads (`node/spawn.rs`).

use super::clients::Clients;
use super::dispatch::serve_connection;
use super::drain;
use super::outbox::Client;
use super::protocol::reply;
use super::shared::ServerState;
use crate::limits::RESP_DRAIN_INBOX_MAX;
use crate::node::Connections;
use crate::node::Handle;
use crate::node::Listener;
use crate::node::accept::{self, Arrival};
use crossbeam_channel::bounded;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Idle time after which the system checks whether the client is still there, as in Redis.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Body of the `resp` thread: serves until the node stops, which ends the accept.
pub fn serve(listener: Listener, handle: Handle) {
    let (slow, inbox) = bounded(RESP_DRAIN_INBOX_MAX);
    let shared = Arc::new(ServerState::new(handle.clone(), slow));
    let clients = Arc::new(Clients::default());
    let weak = Arc::downgrade(&clients);
    if let Err(error) = handle.spawn_own("resp-drain", move || drain::run(&weak, &inbox)) {
        log::warn!("cannot start the thread for slow clients; they will be disconnected err=\"{error}\"");
    }
    let is_stopping = || handle.is_stopping();
    accept::accept_all(&listener, "redis connections", is_stopping, |arrival| match arrival {
        Arrival::Client(stream, peer) => {
            shared.counts.accepted.fetch_add(1, Relaxed);
            start(&shared, &clients, stream, peer);
        }
        Arrival::NoRoom(stream) => refuse_connection(&shared, &stream, "too many open files"),
        Arrival::Failed => {}
    });
    for client in clients.all() {
        client.stop_reading();
    }
}

fn start(shared: &Arc<ServerState>, clients: &Arc<Clients>, stream: TcpStream, peer: SocketAddr) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    let prepared =
        stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if prepared.is_err() {
        // The client was gone before it was accepted.
        return;
    }
    let id = shared.counts.accepted.load(Relaxed);
    let memory = shared.handle.memory().reservation();
    let client = Arc::new(Client::new(id, stream, peer, Arc::clone(shared), memory));
    clients.insert(Arc::clone(&client));
    let listed = Listed { clients: Arc::clone(clients), id };
    let job = {
        let (shared, client) = (Arc::clone(shared), Arc::clone(&client));
        move |_| {
            let listed = listed;
            serve_connection(&shared, &listed.clients, &client);
        }
    };
    if let Err(why) = shared.handle.spawn_connection("resp-conn", None, Box::new(job)) {
        refuse_connection(shared, &client.stream, &why);
    }
}

/// A connection is listed until its thread ends, or never starts.
struct Listed {
    clients: Arc<Clients>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.clients.remove(self.id);
    }
}

/// Tells a client that there is no room, without waiting for it.
fn refuse_connection(shared: &ServerState, stream: &TcpStream, why: &str) {
    shared.counts.rejected.fetch_add(1, Relaxed);
    log::debug!("redis client rejected: {why}");
    let mut text = Vec::new();
    reply::error(&mut text, "ERR max number of clients reached");
    if stream.set_nonblocking(true).is_ok() && io::Write::write_all(&mut &*stream, &text).is_ok() {
        // What the client has sent is read, so that closing does not reset the connection under the answer.
        let _ = io::Read::read(&mut &*stream, &mut [0; 1024]);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
