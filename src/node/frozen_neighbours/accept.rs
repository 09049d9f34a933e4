//! Accepts the clients of the front door of nodes of this host that are silent: frozen, or so busy that they do not
//! answer. It sleeps while none is.
//!
//! A descriptor keeps a socket open after its process has ended: then the kernel would go on giving it clients. So the
//! connection over which the descriptor came is watched; it ends with the process, and a socket of a dead process is
//! emptied and shut down, for all who have it.
//!
//! Invariant: E1 who has given descriptors keeps the connection as long as it lives, so that its end proves that the
//! process has ended. Nothing else does: another user may take the name of a dead process.
//! Not here: who is silent (`node/threads/gossip.rs`).

use super::Neighbour;
use super::descriptors::{DescriptorSocket, give};
use crate::node::listener::Listener;
use crate::node::shared::Shared;
use crate::types::NodeId;
use crate::warn_seldom;
use log::{debug, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Descriptors that could not be had are asked for again after this time, so often.
const RETRY: (Duration, u32) = (Duration::from_millis(100), 50);
/// Pause after a failed accept, until descriptors may be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Connections of nodes to which descriptors were given. More: the new one is closed, and its node asks again.
const GIVEN_MAX: usize = 256;

/// Body of the thread that gives this node's descriptors to other nodes.
pub fn share(shared: &Shared, door: &Listener) {
    let listener = match descriptor_socket(shared).listen(shared.me.id, std::process::id()) {
        Ok(listener) => listener,
        Err(e) => return warn!("other nodes cannot help out at the front door while this one is frozen err={e}"),
    };
    let mut given: Vec<UnixStream> = Vec::new();
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(RETRY.0);
            continue;
        };
        if let Err(e) = give_and_keep(&mut given, stream, door.sockets()) {
            debug!("descriptors not given err={e}");
        }
    }
}

/// Gives the sockets, unless too many have them (E1).
fn give_and_keep(given: &mut Vec<UnixStream>, stream: UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    given.retain(|other| !has_ended(other));
    if given.len() >= GIVEN_MAX {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    give(&stream, sockets)?;
    given.push(stream);
    Ok(())
}

fn descriptor_socket(shared: &Shared) -> DescriptorSocket {
    DescriptorSocket { cluster: shared.cluster, port: shared.settings.service_port, key: shared.peer_key.clone() }
}

/// Whether the other side has closed the connection.
fn has_ended(stream: &UnixStream) -> bool {
    let mut waiting = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Descriptors of another node, or how often asking for them failed.
enum Door {
    /// Until the process that gave them ends, which `stream` tells: heartbeats tell of a new process later.
    Held {
        stream: UnixStream,
        sockets: Vec<TcpListener>,
    },
    Missing {
        pid: u32,
        tries: u32,
    },
}

/// Body of the thread that accepts clients of silent nodes, until this node stops.
pub fn serve_silent(shared: &Shared, take: impl Fn(TcpStream, SocketAddr)) {
    let Ok((mut woken, wake)) = UnixStream::pair() else { return };
    let is_set = woken.set_nonblocking(true).and_then(|()| wake.set_nonblocking(true));
    if is_set.is_err() {
        return;
    }
    shared.neighbours.waken_by(wake);
    let mut acceptor = NeighbourAcceptor { socket: descriptor_socket(shared), doors: BTreeMap::new() };
    while !shared.is_stopping() {
        let neighbours = shared.neighbours.all();
        let has_missing = acceptor.follow(&neighbours);
        acceptor.wait(&woken, &neighbours, has_missing);
        // What woke the thread; there may be several bytes.
        while woken.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        acceptor.serve(&neighbours, &take);
        acceptor.drop_dead(&take);
    }
}

struct NeighbourAcceptor {
    socket: DescriptorSocket,
    doors: BTreeMap<NodeId, Door>,
}

impl NeighbourAcceptor {
    /// Gets the descriptors of nodes that were started; returns whether some are still missing.
    fn follow(&mut self, neighbours: &[Neighbour]) -> bool {
        let mut has_missing = false;
        for it in neighbours {
            let tries = match self.doors.get(&it.id) {
                Some(Door::Held { .. }) => continue,
                Some(Door::Missing { pid, tries }) if *pid == it.pid => *tries,
                _ => 0,
            };
            if tries >= RETRY.1 {
                continue;
            }
            let door = match self.socket.take(it.id, it.pid) {
                Ok((stream, sockets)) => Door::Held { stream, sockets },
                Err(e) => {
                    debug!("no descriptors of the front door of node {} err={e}", it.id);
                    has_missing = true;
                    Door::Missing { pid: it.pid, tries: tries + 1 }
                }
            };
            self.doors.insert(it.id, door);
        }
        has_missing
    }

    fn is_silent(neighbours: &[Neighbour], id: NodeId) -> bool {
        neighbours.iter().any(|it| it.id == id && it.is_silent)
    }

    /// Waits until there is something to do.
    fn wait(&self, woken: &UnixStream, neighbours: &[Neighbour], has_missing: bool) {
        let mut waiting = vec![PollFd::new(woken, PollFlags::IN)];
        for (id, door) in &self.doors {
            if let Door::Held { stream, sockets } = door {
                waiting.push(PollFd::new(stream, PollFlags::IN));
                if NeighbourAcceptor::is_silent(neighbours, *id) {
                    waiting.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
                }
            }
        }
        let retry = Timespec { tv_sec: 0, tv_nsec: RETRY.0.subsec_nanos().into() };
        // An error means that it looks again.
        let _ = poll(&mut waiting, has_missing.then_some(&retry));
    }

    /// Accepts the clients that wait at the doors of silent nodes.
    fn serve(&self, neighbours: &[Neighbour], take: &impl Fn(TcpStream, SocketAddr)) {
        for (id, door) in &self.doors {
            if let Door::Held { sockets, .. } = door
                && NeighbourAcceptor::is_silent(neighbours, *id)
            {
                let count: usize = sockets.iter().map(|socket| accept_waiting(socket, take)).sum();
                if count > 0 {
                    debug!("accepted {count} clients of the front door of node {id}");
                }
            }
        }
    }

    /// Gives up the doors of processes that have ended (E1).
    fn drop_dead(&mut self, take: &impl Fn(TcpStream, SocketAddr)) {
        for (id, door) in &mut self.doors {
            let Door::Held { stream, sockets } = door else { continue };
            if !has_ended(stream) {
                continue;
            }
            let left: usize = sockets.iter().map(|socket| accept_waiting(socket, take)).sum();
            info!("front door of a process that has ended is closed node={id} clients_taken_over={left}");
            for socket in sockets {
                // Fails if another node has done so.
                let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
            }
            *door = Door::Missing { pid: 0, tries: 0 };
        }
    }
}

/// Accepts all pending connections of a socket; returns how many.
fn accept_waiting(socket: &TcpListener, take: &impl Fn(TcpStream, SocketAddr)) -> usize {
    // The flag is shared with the owner, which then waits in another way (`node/listener.rs`).
    if socket.set_nonblocking(true).is_err() {
        return 0;
    }
    let mut count = 0;
    loop {
        match socket.accept() {
            Ok((stream, mut peer)) => {
                peer.set_ip(peer.ip().to_canonical());
                take(stream, peer);
                count += 1;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return count,
            Err(e) => {
                warn_seldom!("cannot accept a client of another front door err={e}");
                std::thread::sleep(ACCEPT_PAUSE);
                return count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn socket() -> DescriptorSocket {
        DescriptorSocket { cluster: Uuid::new_v4(), port: 1, key: None }
    }

    #[test]
    fn the_door_of_a_dead_process_is_closed_whoever_has_taken_its_name() {
        let (socket, id) = (socket(), NodeId(3));
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let listener = socket.listen(id, 7).unwrap();
        let mut given = Vec::new();
        let mut acceptor = NeighbourAcceptor { socket: socket.clone(), doors: BTreeMap::new() };
        std::thread::scope(|scope| {
            let giving = scope.spawn(|| {
                give_and_keep(&mut given, listener.accept().unwrap().0, std::slice::from_ref(&door)).unwrap();
            });
            assert!(!acceptor.follow(&[Neighbour { id, pid: 7, is_silent: false }]));
            giving.join().unwrap();
        });
        let taken = std::cell::Cell::new(0);
        let take = |_: TcpStream, _: SocketAddr| taken.set(taken.get() + 1);
        let _first = TcpStream::connect(address).unwrap();
        acceptor.drop_dead(&take);
        assert!(matches!(acceptor.doors[&id], Door::Held { .. }) && taken.get() == 0, "it lives");
        // It ends, and another process is faster than the nodes.
        drop((given, listener));
        let _squatter = socket.listen(id, 7).unwrap();
        acceptor.drop_dead(&take);
        assert!(matches!(acceptor.doors[&id], Door::Missing { .. }) && taken.get() == 1, "{}", taken.get());
        assert!(TcpStream::connect(address).is_err(), "the kernel gives it no more clients");
    }

    #[test]
    fn who_has_descriptors_keeps_its_connection() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut given, mut takers) = (Vec::new(), Vec::new());
        let mut come = |given: &mut Vec<UnixStream>| {
            let (stream, taker) = UnixStream::pair().unwrap();
            takers.push(taker);
            (give_and_keep(given, stream, std::slice::from_ref(&door)).is_ok(), takers.len())
        };
        for _ in 0..GIVEN_MAX {
            assert!(come(&mut given).0);
        }
        assert!(!come(&mut given).0, "one more than there is room for");
        assert_eq!(given.len(), GIVEN_MAX, "nobody who has descriptors lost its connection");
        given.pop();
        assert!(come(&mut given).0);
    }
}
