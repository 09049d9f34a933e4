//! Which cluster uses the front door's port. All nodes of a host share it (`SO_REUSEPORT`), so the kernel lets the
//! nodes of another cluster share it as well, and distributes the clients of both over both. Before a node looks for
//! its cluster, and again before it listens, it asks the process that answers there for its cluster, and refuses to
//! start if that is another one. A running node checks now and then, because two clusters may start at the same moment.
//!
//! Not here: answering (`http/front_door.rs`), binding (`start.rs`).

use crate::address;
use crate::cluster::discovery::FrontOwner;
use crate::node::shared::Shared;
use crate::wire::handshake::DeadlineReader;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Path at which a front door reports its cluster.
pub const PROBE_PATH: &str = "/v1/front";
/// Each connection reaches one of the listeners at random: this many miss one half of them once in 250 times.
const PROBES: u32 = 8;
/// A process that has not answered by then is ignored: a frozen node must not prevent others from starting.
const PROBES_MAX: Duration = Duration::from_millis(400);
/// Longest wait for one whole answer: any process may listen there.
const PROBE_MAX: Duration = Duration::from_millis(150);
/// Largest answer.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Time between two checks of a running node.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A cluster but this one whose nodes listen at the front door `address`; `None`: any cluster.
pub fn other_owner(address: &str, but: Option<Uuid>) -> Option<FrontOwner> {
    let begun = Instant::now();
    for _ in 0..PROBES {
        match probe(address) {
            Ok(owner) if but != Some(owner.cluster) => return Some(owner),
            // Nothing listens there.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return None,
            _ if begun.elapsed() >= PROBES_MAX => return None,
            _ => {}
        }
    }
    None
}

fn probe(address: &str) -> io::Result<FrontOwner> {
    let mut stream = address::connect(address, PROBE_MAX)?;
    let deadline = Instant::now() + PROBE_MAX;
    stream.set_write_timeout(Some(PROBE_MAX))?;
    // In one piece: the kernel would hold back a second one until the first is acknowledged.
    let head = format!("GET {PROBE_PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    DeadlineReader::new(&stream, deadline).take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    match head.starts_with("HTTP/1.1 200") {
        true => serde_json::from_str(body).map_err(io::Error::from),
        // An older version, or some other program.
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Checks now and then whether another cluster shares the port, and reports each cluster once.
#[derive(Debug, Default)]
pub struct FrontDoorCheck {
    checked: Option<Instant>,
    reported: Option<Uuid>,
}

impl FrontDoorCheck {
    /// Checks if it is time; to be called often.
    pub fn maybe_check(&mut self, shared: &Arc<Shared>) {
        if self.checked.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return;
        }
        self.checked = Some(Instant::now());
        let Ok(owner) = probe(&shared.settings.local_front_door()) else { return };
        if owner.cluster == shared.cluster || self.reported == Some(owner.cluster) {
            return;
        }
        self.reported = Some(owner.cluster);
        let door = shared.settings.front_door();
        let text = format!(
            "the front door {door} is shared with another cluster, {:?} ({}): clients reach either of them; set \
             service_port to another port in one of them",
            owner.name, owner.cluster
        );
        log::warn!("{text}");
        shared.event("failure", None, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_process_that_answers_byte_by_byte_keeps_no_node_from_starting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dripping = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Ends when the other side has closed.
            (0..200)
                .take_while(|_| {
                    std::thread::park_timeout(PROBE_MAX / 4);
                    stream.write_all(b"x").is_ok()
                })
                .count()
        });
        assert!(probe(&address).is_err());
        let written = dripping.join().unwrap();
        assert!(written < 100, "{written} bytes were waited for");
    }
}
