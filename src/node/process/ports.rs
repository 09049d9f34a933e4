//! The listening sockets of a node, bound before anything is started; clients can connect once the node has a cluster.
//!
//! Not here: who accepts (`node/accept.rs`, `node/peer/acceptor.rs`), other clusters on the front door
//! (`front_port.rs`).

use crate::node::peer::discovery_client::wake;
use crate::settings::Settings;
use crate::types::NodeId;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{TcpListener, ToSocketAddrs};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A rule of the system for ports that several processes share.
const SHARED_PORT_HINT: &str = ". If other nodes of this host use it: a port can be shared only by processes of one \
     user, so start all nodes as the same user";

/// A port that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {address} ({what}) cannot be used: {source}; stop the process that listens there, or change {key} in \
     settings.json{hint}"
)]
pub struct PortError {
    /// `host:port`.
    address: String,
    /// What the port is used for.
    what: &'static str,
    /// The setting that changes it.
    key: &'static str,
    /// Another possible cause.
    hint: &'static str,
    source: io::Error,
}

/// A listener for each port of a node.
pub struct Ports {
    pub peer: TcpListener,
    pub http: TcpListener,
    pub resp: TcpListener,
    pub front: TcpListener,
}

impl Ports {
    /// Binds all, and listens on the peer port.
    ///
    /// # Errors
    /// When one is taken, or the system refuses.
    pub fn bind(settings: &Settings, id: NodeId) -> Result<Ports, PortError> {
        let addresses = settings.addresses(id);
        let error = |address: &str, what, key, hint| {
            let address = address.to_string();
            move |source| PortError { address, what, key, hint, source }
        };
        let take = |address: &str, what, key, is_shared| {
            let hint = if is_shared { SHARED_PORT_HINT } else { "" };
            bind_one(address, is_shared).map_err(error(address, what, key, hint))
        };
        let (what, key) = ("nodes", "leader_port_base");
        let peer = take(&addresses.peer, what, key, false)?;
        let listening = rustix::net::listen(&peer, BACKLOG).map_err(io::Error::from);
        listening.map_err(error(&addresses.peer, what, key, ""))?;
        Ok(Ports {
            peer,
            http: take(&addresses.http, "HTTP", "service_port_base", false)?,
            resp: take(&addresses.kv, "Redis protocol", "kv_port_base", false)?,
            front: take(&settings.front_door(), "front door", "service_port", true)?,
        })
    }

    /// Lets clients connect.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen_for_clients(&self) -> io::Result<()> {
        for socket in [&self.http, &self.resp, &self.front] {
            rustix::net::listen(socket, BACKLOG)?;
        }
        Ok(())
    }
}

/// `SO_REUSEPORT` lets all nodes of a host share the front door; `SO_REUSEADDR` lets a restarted node have its ports
/// back.
fn bind_one(address: &str, is_shared: bool) -> io::Result<TcpListener> {
    let at = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Closes a listener and ends the `accept` that waits on it. Connecting to wake it is only done where the system does
/// not support this shutdown (macOS): a connection to the front door may reach another node of this host.
pub fn close(listener: TcpListener) {
    if rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).is_err()
        && let Ok(address) = listener.local_addr()
    {
        wake(address);
    }
}
