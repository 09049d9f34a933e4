//! Accepting connections, for every port: an error of one client, or a lack of file descriptors, does not end the
//! accept.
//!
//! One descriptor is kept in reserve, so that a client gets an answer even when there are no others.
//! Not here: what is done with a connection (`http/acceptor.rs`, `resp/acceptor.rs`, `node/peer/acceptor.rs`).

use super::listener::Listener;
use crate::store::error::is_out_of_descriptors;
use crate::warn_seldom;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Pause after a failed accept, until descriptors may be free again.
pub const BACKOFF: Duration = Duration::from_millis(20);

/// The result of one accept.
#[derive(Debug)]
pub enum Arrival {
    Client(TcpStream, SocketAddr),
    /// A client for which only the reserved descriptor was left: it is to be refused at once.
    NoRoom(TcpStream),
    /// The accept failed and there is no client: for endpoints that count failures.
    Failed,
}

/// Accepts until the node stops, which ends the accept. `what` names the connections in the log.
pub fn accept_all(listener: &Listener, what: &str, is_stopping: impl Fn() -> bool, take: impl Fn(Arrival)) {
    let mut reserve = Reserve::new();
    loop {
        let accepted = listener.accept();
        if is_stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => take(Arrival::Client(stream, peer)),
            Err(error) => {
                if reserve.on_error(&error, what, || listener.accept().ok(), &take) {
                    std::thread::sleep(BACKOFF);
                    reserve.renew();
                }
            }
        }
    }
}

/// The descriptor that is kept for refusing a client when there are no others.
pub struct Reserve(Option<File>);

impl Reserve {
    pub fn new() -> Reserve {
        Reserve(File::open("/dev/null").ok())
    }

    /// Handles a failed accept. Without descriptors, one client is accepted with `accept` and refused. Returns whether
    /// the next accept must wait for [`BACKOFF`] and [`Reserve::renew`].
    pub fn on_error(
        &mut self,
        error: &io::Error,
        what: &str,
        accept: impl FnOnce() -> Option<(TcpStream, SocketAddr)>,
        take: impl Fn(Arrival),
    ) -> bool {
        take(Arrival::Failed);
        if is_of_one_client(error) {
            return false;
        }
        warn_seldom!("cannot accept {what} err=\"{error}\"");
        drop(self.0.take());
        if is_out_of_descriptors(error)
            && let Some((stream, _)) = accept()
        {
            take(Arrival::NoRoom(stream));
        }
        true
    }

    /// Takes a descriptor again.
    pub fn renew(&mut self) {
        self.0 = File::open("/dev/null").ok();
    }
}

/// The client was gone before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
