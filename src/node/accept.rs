//! Accepting clients, for every endpoint: an error of one client, or a lack of file descriptors, does not end the
//! endpoint.
//!
//! One descriptor is kept in reserve, so that even when there are none a client gets an answer.
//! Not here: what an endpoint does with a client (`http/acceptor.rs`, `resp/acceptor.rs`), the peer port (`node/peer/acceptor.rs`).

use crate::store::error::is_out_of_descriptors;
use crate::warn_seldom;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Pause after a failed accept: descriptors do not come back in less.
const BACKOFF: Duration = Duration::from_millis(20);

/// What came of one accept.
#[derive(Debug)]
pub enum Arrival {
    /// A client.
    Client(TcpStream, SocketAddr),
    /// A client for which no descriptor is left: it is to be answered with `too many open files`.
    NoRoom(TcpStream),
    /// The accept failed and there is no client: for endpoints that count failures.
    Failed,
}

/// Accepts until the node stops, which ends the accept; `what` comes in, for the log.
pub fn accept_all(listener: &TcpListener, what: &str, is_stopping: impl Fn() -> bool, take: impl Fn(Arrival)) {
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

/// The client was gone before it was accepted: nothing to wait for.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
