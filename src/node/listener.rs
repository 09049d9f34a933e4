//! The listening sockets of one port: one for each address that the host has, such as both loopback addresses.
//!
//! Not here: which addresses these are (`process/ports.rs`), what is done with clients (`accept.rs`).

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// At least one listening socket; all of them have the same port.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    /// The socket that is tried first next time, so that a busy one does not starve the others.
    next: AtomicUsize,
}

impl From<TcpListener> for Listener {
    /// The socket stays as it is: blocking, unless it was made otherwise.
    fn from(socket: TcpListener) -> Listener {
        Listener { sockets: vec![socket], next: AtomicUsize::new(0) }
    }
}

impl Listener {
    /// Of bound sockets, at least one. With several of them, they are made non-blocking.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(sockets: Vec<TcpListener>) -> io::Result<Listener> {
        assert!(!sockets.is_empty(), "a listener has at least one socket");
        if sockets.len() > 1 {
            sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        }
        Ok(Listener { sockets, next: AtomicUsize::new(0) })
    }

    /// Lets clients connect; so many of them may wait to be accepted.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| Ok(rustix::net::listen(socket, backlog)?))
    }

    /// The address of the first socket.
    ///
    /// # Errors
    /// Those of the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.sockets[0].local_addr()
    }

    /// Another handle for the same sockets.
    ///
    /// # Errors
    /// Those of the system.
    pub fn try_clone(&self) -> io::Result<Listener> {
        let sockets = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        Ok(Listener { sockets, next: AtomicUsize::new(0) })
    }

    /// Waits for a client. An IPv4 client of an IPv6 socket has its IPv4 address.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let first = self.next.fetch_add(1, Relaxed);
            for at in 0..self.sockets.len() {
                let number = first.wrapping_add(at) % self.sockets.len();
                if let Some((stream, peer)) = self.accept_waiting(number)? {
                    // Not on Linux, but elsewhere a client's socket takes this over from the listening one.
                    stream.set_nonblocking(false)?;
                    return Ok((stream, peer));
                }
            }
            let mut waiting: Vec<_> = self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
            match poll(&mut waiting, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The sockets, for a thread that waits for clients on each of them and for more besides.
    pub fn sockets(&self) -> &[TcpListener] {
        &self.sockets
    }

    /// Accepts a client that has connected to the socket of this number; `None` if there is none. A blocking socket waits
    /// for one.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept_waiting(&self, number: usize) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        match self.sockets[number].accept() {
            Ok((stream, mut peer)) => {
                peer.set_ip(peer.ip().to_canonical());
                Ok(Some((stream, peer)))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Ends the `accept` that waits on any handle; returns the addresses of sockets of which the system ends none
    /// (macOS): a connection to them does.
    pub fn shut_down(&self) -> Vec<SocketAddr> {
        let is_open = |socket: &&TcpListener| rustix::net::shutdown(socket, rustix::net::Shutdown::Both).is_err();
        self.sockets.iter().filter(is_open).filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn clients_of_each_address_are_accepted_and_the_wait_ends() {
        let sockets: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let listener = Listener::new(sockets).unwrap();
        let waiting = listener.try_clone().unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(move || {
                let mut accepted = 0;
                while let Ok((mut stream, _)) = waiting.accept() {
                    // It blocks until the client has written.
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    stream.write_all(&byte).unwrap();
                    accepted += 1;
                }
                accepted
            });
            for round in 0..6_u8 {
                let mut client = TcpStream::connect(addresses[usize::from(round) % 2]).unwrap();
                client.write_all(&[round]).unwrap();
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [round]);
            }
            listener.shut_down();
            assert_eq!(accepting.join().unwrap(), 6);
        });
    }
}
