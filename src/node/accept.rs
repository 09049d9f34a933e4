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
const BACKOFF: Duration = Duration::from_millis(20);

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
    let mut reserve = File::open("/dev/null").ok();
    loop {
        let accepted = listener.accept();
        if is_stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                take(Arrival::Client(stream, peer));
            }
            Err(error) if is_of_one_client(&error) => take(Arrival::Failed),
            Err(error) => {
                take(Arrival::Failed);
                warn_seldom!("cannot accept {what} err=\"{error}\"");
                drop(reserve.take());
                if is_out_of_descriptors(&error)
                    && let Ok((stream, _)) = listener.accept()
                {
                    take(Arrival::NoRoom(stream));
                }
                std::thread::sleep(BACKOFF);
                reserve = File::open("/dev/null").ok();
            }
        }
    }
}

/// The client was gone before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
