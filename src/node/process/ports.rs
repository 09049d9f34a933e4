//! The listening sockets of a node, bound before anything is started; clients can connect once the node has a cluster.
//!
//! `localhost` is one of two addresses, and programs differ in which one they try first, or at all: a node on loopback
//! listens on both. A host name is bound at each of its addresses that this machine has.
//!
//! Not here: who accepts (`node/accept.rs`, `node/peer/acceptor.rs`), other clusters on the front door
//! (`front_door.rs`).

use crate::address;
use crate::faults::switch;
use crate::node::listener::Listener;
use crate::node::peer::discovery_client::wake;
use crate::settings::Settings;
use crate::types::NodeId;
use log::warn;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A thread that waits for datagrams sees within this time that the node has stopped, if it is not woken.
const DATAGRAM_WAIT: Duration = Duration::from_secs(1);
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
    pub peer: Listener,
    pub http: Listener,
    pub resp: Listener,
    pub front: Listener,
    /// On the peer port; none on loopback, or where the port is taken.
    pub datagrams: Vec<UdpSocket>,
}

impl Ports {
    /// Binds all, and listens on the peer port.
    ///
    /// # Errors
    /// When one is taken, or the system refuses.
    pub fn bind(settings: &Settings, id: NodeId) -> Result<Ports, PortError> {
        let ports = settings.ports(id);
        let error = |port, what, key, hint| {
            let address = address::join(&settings.host, port);
            move |source| PortError { address, what, key, hint, source }
        };
        let take = |port, what, key, is_shared| {
            let hint = if is_shared { SHARED_PORT_HINT } else { "" };
            bind(&settings.host, port, is_shared).map_err(error(port, what, key, hint))
        };
        let (what, key) = ("nodes", "leader_port_base");
        let peer = take(ports.peer, what, key, false)?;
        peer.listen(BACKLOG).map_err(error(ports.peer, what, key, ""))?;
        Ok(Ports {
            peer,
            http: take(ports.http, "HTTP", "service_port_base", false)?,
            resp: take(ports.kv, "Redis protocol", "kv_port_base", false)?,
            front: take(settings.service_port, "front door", "service_port", true)?,
            datagrams: bind_datagrams(&settings.host, ports.peer),
        })
    }

    /// Whether the peer port of node `id` can be bound.
    pub fn is_free(settings: &Settings, id: NodeId) -> bool {
        bind(&settings.host, settings.ports(id).peer, false).is_ok_and(|peer| peer.listen(BACKLOG).is_ok())
    }

    /// Lets clients connect.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen_for_clients(&self) -> io::Result<()> {
        for socket in [&self.http, &self.resp, &self.front] {
            socket.listen(BACKLOG)?;
        }
        Ok(())
    }
}

/// The addresses to bind for a host, and whether the host is that one address.
fn addresses_of(host: &str, port: u16) -> io::Result<Vec<(SocketAddr, bool)>> {
    let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let mut all: Vec<(IpAddr, bool)> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![(ip, true)],
        Err(_) if host.eq_ignore_ascii_case("localhost") => vec![(both[0], true)],
        Err(_) => (host, port).to_socket_addrs()?.map(|at| (at.ip(), false)).collect(),
    };
    if all.iter().any(|(ip, _)| both.contains(ip)) {
        all.extend(both.map(|ip| (ip, false)));
    }
    let mut seen = BTreeSet::new();
    all.retain(|(ip, _)| seen.insert(*ip));
    Ok(all.into_iter().map(|(ip, is_all)| (SocketAddr::new(ip, port), is_all)).collect())
}

fn bind(host: &str, port: u16, is_shared: bool) -> io::Result<Listener> {
    let (mut sockets, mut failed) = (Vec::new(), io::Error::from(ErrorKind::AddrNotAvailable));
    for (at, is_all) in addresses_of(host, port)? {
        match bind_one(at, is_shared) {
            Ok(socket) => sockets.push(socket),
            Err(e) if is_all || (e.kind() == ErrorKind::AddrInUse && !at.ip().is_loopback()) => return Err(e),
            Err(e) => {
                if e.kind() == ErrorKind::AddrInUse {
                    warn!("another program uses {at}: clients that connect to localhost may reach it instead");
                }
                failed = e;
            }
        }
    }
    if sockets.is_empty() { Err(failed) } else { Listener::new(sockets) }
}

/// `SO_REUSEPORT` lets all nodes of a host share the front door; `SO_REUSEADDR` lets a restarted node have its ports
/// back. `::` also accepts IPv4.
fn bind_one(at: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    if at.is_ipv6() {
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// The sockets for datagrams. A node without any goes on over its connections alone.
fn bind_datagrams(host: &str, port: u16) -> Vec<UdpSocket> {
    let addresses = addresses_of(host, port).unwrap_or_default();
    let mut sockets = Vec::new();
    for (at, _) in addresses.into_iter().filter(|(at, _)| !at.ip().is_loopback() || switch::get().is_some()) {
        let bound = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP)).and_then(|socket| {
            if at.is_ipv6() {
                socket.set_only_v6(!at.ip().is_unspecified())?;
            }
            socket.bind(&at.into())?;
            socket.set_read_timeout(Some(DATAGRAM_WAIT))?;
            Ok(UdpSocket::from(socket))
        });
        match bound {
            Ok(socket) => sockets.push(socket),
            Err(e) => warn!("no datagrams at UDP port {at}: links that lose packets will be slow err={e}"),
        }
    }
    sockets
}

/// Closes a listener and ends the `accept` that waits on it. Connecting to wake it is only done where the system does
/// not support this shutdown (macOS): a connection to the front door may reach another node of this host.
pub fn close(listener: &Listener) {
    for address in listener.shut_down() {
        wake(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_both_addresses_and_others_are_what_they_are() {
        let ips = |host: &str| -> Vec<String> {
            addresses_of(host, 1).unwrap().into_iter().map(|(at, _)| at.ip().to_string()).collect()
        };
        for host in ["127.0.0.1", "localhost", "LOCALHOST"] {
            assert_eq!(ips(host), ["127.0.0.1", "::1"], "{host}");
        }
        assert_eq!(ips("::1"), ["::1", "127.0.0.1"]);
        for host in ["127.0.0.2", "0.0.0.0", "::", "10.0.0.1"] {
            assert_eq!(ips(host), [host]);
        }
    }

    #[test]
    fn one_socket_of_every_address_accepts_both_kinds() {
        let Ok(listener) = bind("::", 0, false) else { return eprintln!("skipped: this system has no IPv6") };
        listener.listen(1).unwrap();
        let port = listener.address().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), IpAddr::from(Ipv4Addr::LOCALHOST), "an IPv4 client has an IPv4 address");
    }
}
