//! Gives the descriptors of this node's front door to other nodes of the same user, and takes theirs.
//!
//! A node answers at a name of the abstract namespace, which the kernel frees when the process ends. Any process of the
//! machine may take a free name, so both sides check that the other is of the same user, who could take the descriptors
//! anyway. Where there is a `cluster_secret`, other users do not know the name before it is in use.
//!
//! Invariant: M1 no other process can make a node wait: connecting does not wait for a place in a queue, and nothing is
//! read before the user is known.
//! Not here: what is done with them, and how the end of a process is noticed (`accept.rs`).

use crate::types::NodeId;
use crate::wire::authentication::Key;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;
use uuid::Uuid;

/// Sockets of one node at most: one for each address of the front door.
const SOCKETS_MAX: usize = 8;
/// A node of this host answers at once, unless it is frozen.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// Where a node gives its descriptors.
#[derive(Clone, Debug)]
pub struct DescriptorSocket {
    pub cluster: Uuid,
    pub port: u16,
    /// Made of the `cluster_secret`.
    pub key: Option<Key>,
}

impl DescriptorSocket {
    /// The name of the node's process `pid`, as that process knows its number.
    fn name(&self, id: NodeId, pid: u32) -> String {
        let (cluster, port) = (self.cluster, self.port);
        let known = match &self.key {
            None => cluster.to_string(),
            Some(key) => {
                let derived = key.derive(format!("front door {cluster} {port} {id} {pid}").as_bytes());
                derived.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
            }
        };
        format!("phalanx/{known}/{port}/{}", id.0)
    }

    pub fn listen(&self, me: NodeId, pid: u32) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(self.name(me, pid))?)
    }

    /// Takes the sockets of a node, with the connection, which ends when its process does.
    ///
    /// # Errors
    /// `ConnectionRefused`: there is no such process. `PermissionDenied`: another user has taken its name.
    pub fn take(&self, id: NodeId, pid: u32) -> io::Result<(UnixStream, Vec<TcpListener>)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new_abstract_name(self.name(id, pid).as_bytes())?)?;
        let stream = UnixStream::from(socket);
        check_user(&stream)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let sockets = receive(&stream)?;
        Ok((stream, sockets))
    }
}

/// Gives the sockets to the process that has connected, if it is of the same user.
pub fn give(stream: &UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    check_user(stream)?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let descriptors: Vec<_> = sockets.iter().take(SOCKETS_MAX).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for {SOCKETS_MAX}");
    sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors.map(TcpListener::from));
        }
    }
    if sockets.is_empty() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(sockets) }
}

fn check_user(stream: &UnixStream) -> io::Result<()> {
    match sockopt::socket_peercred(stream)?.uid == rustix::process::geteuid() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    #[test]
    fn clients_of_a_socket_are_accepted_by_whoever_has_it_and_a_dead_process_refuses() {
        let socket = DescriptorSocket { cluster: Uuid::new_v4(), port: 1, key: None };
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let listener = socket.listen(NodeId(3), 7).unwrap();
        std::thread::scope(|scope| {
            let giver = scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                give(&stream, std::slice::from_ref(&door)).unwrap();
                stream
            });
            let (mut stream, sockets) = socket.take(NodeId(3), 7).unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            sockets[0].accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
            drop(giver.join().unwrap());
            assert_eq!(stream.read(&mut byte).unwrap(), 0, "the connection ends with the process");
        });
        drop(listener);
        assert_eq!(socket.take(NodeId(3), 7).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn nobody_makes_a_node_wait_by_taking_a_name() {
        let socket = DescriptorSocket { cluster: Uuid::new_v4(), port: 1, key: None };
        let name = SocketAddrUnix::new_abstract_name(socket.name(NodeId(3), 7).as_bytes()).unwrap();
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &name).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // It never accepts, and its queue is full.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let plain_socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut waiting = vec![plain_socket()];
        while connect(waiting.last().unwrap(), &name).is_ok() {
            waiting.push(plain_socket());
        }
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(socket.take(NodeId(3), 7).map(|_| ()).map_err(|e| e.kind())));
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(Err(io::ErrorKind::WouldBlock)));
    }

    #[test]
    fn with_a_secret_the_name_is_known_to_nodes_only_and_new_for_each_process() {
        let (cluster, port) = (Uuid::new_v4(), 8080);
        let with = |secret: &str| DescriptorSocket { cluster, port, key: Some(Key::of(secret)) };
        let name = with("a").name(NodeId(3), 7);
        assert_eq!(name, with("a").name(NodeId(3), 7));
        assert!(name.len() < 100 && name.ends_with("/8080/3") && !name.contains(&cluster.to_string()), "{name}");
        let others = [with("b").name(NodeId(3), 7), with("a").name(NodeId(4), 7), with("a").name(NodeId(3), 8)];
        assert!(!others.contains(&name) && others[0] != others[2], "{others:?}");
    }
}
