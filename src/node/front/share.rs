//! Gives the descriptors of this node's front door to other nodes of the same user, and takes theirs.
//!
//! A node answers at a name of the abstract namespace, which the kernel frees when the process ends: a name that refuses
//! is that of a dead process. Both sides check that the other is a process of the same user, who could take the
//! descriptors anyway.
//! Not here: what is done with them (`aid.rs`).

use crate::types::NodeId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
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
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    pub cluster: Uuid,
    pub port: u16,
}

impl Meeting {
    fn address(&self, id: NodeId) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("phalanx/{}/{}/{}", self.cluster, self.port, id.0))
    }

    pub fn listen(&self, me: NodeId) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&self.address(me)?)
    }

    /// Takes the sockets of a node, with the connection, which ends when its process does.
    ///
    /// # Errors
    /// `ConnectionRefused`: there is no such process.
    pub fn take(&self, id: NodeId) -> io::Result<(UnixStream, Vec<TcpListener>)> {
        let stream = UnixStream::connect_addr(&self.address(id)?)?;
        check_user(&stream)?;
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
        let meeting = Meeting { cluster: Uuid::new_v4(), port: 1 };
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let listener = meeting.listen(NodeId(3)).unwrap();
        std::thread::scope(|scope| {
            let giver = scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                give(&stream, std::slice::from_ref(&door)).unwrap();
                stream
            });
            let (mut stream, sockets) = meeting.take(NodeId(3)).unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            sockets[0].accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
            drop(giver.join().unwrap());
            assert_eq!(stream.read(&mut byte).unwrap(), 0, "the connection ends with the process");
        });
        drop(listener);
        assert_eq!(meeting.take(NodeId(3)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
