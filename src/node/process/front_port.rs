//! Whose the front door's port is. All nodes of a host share it (`SO_REUSEPORT`), so the kernel lets the nodes of another cluster
//! share it as well, and spreads the clients of both over both. A node asks the process that answers there which
//! cluster it is in before it looks for its own, and again before it listens, and refuses to start beside another; a
//! running node looks now and then, because two clusters may start at the same moment.
//!
//! Not here: answering (`http/front.rs`), binding (`start.rs`).

use crate::cluster::discovery::FrontOwner;
use crate::node::peer::dialer::resolve;
use crate::node::shared::Shared;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Where a front door says which cluster it belongs to.
pub const PROBE_PATH: &str = "/v1/front";
/// Each connection reaches any of the listeners: so many questions miss one half of them once in 250 times.
const PROBES: u32 = 8;
/// A process that does not answer by then is ignored: a frozen node must not keep others from starting.
const PROBES_MAX: Duration = Duration::from_millis(400);
/// Longest wait for one answer.
const PROBE_MAX: Duration = Duration::from_millis(150);
/// Largest answer.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Between two looks of a running node.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
    let mut at = resolve(address)?;
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let mut stream = TcpStream::connect_timeout(&at, PROBE_MAX)?;
    stream.set_read_timeout(Some(PROBE_MAX))?;
    stream.set_write_timeout(Some(PROBE_MAX))?;
    write!(stream, "GET {PROBE_PATH} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    match head.starts_with("HTTP/1.1 200") {
        true => serde_json::from_str(body).map_err(io::Error::from),
        // An older version, or some other program.
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Looks now and then whether another cluster has come to share the port; says so once.
#[derive(Debug, Default)]
pub struct FrontPortCheck {
    looked: Option<Instant>,
    said: Option<Uuid>,
}

impl FrontPortCheck {
    /// To be called often.
    pub fn look(&mut self, shared: &Arc<Shared>) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let Ok(owner) = probe(&shared.settings.front_door()) else { return };
        if owner.cluster == shared.cluster || self.said == Some(owner.cluster) {
            return;
        }
        self.said = Some(owner.cluster);
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
