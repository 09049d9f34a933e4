//! What is known of a connection's client, for CLIENT LIST.

use std::net::SocketAddr;
use std::time::Instant;

/// What is known of a connection's client.
#[derive(Debug)]
pub struct Profile {
    pub peer: SocketAddr,
    /// When it connected.
    pub since: Instant,
    /// When it last sent a command that this endpoint handles itself (not commands on keys: those are too frequent to
    /// record).
    pub active: Instant,
    /// The name that it gave itself.
    pub name: String,
    /// Name of its client library.
    pub lib_name: String,
    /// Version of its client library.
    pub lib_ver: String,
    /// Version of the protocol: 2 or 3.
    pub resp: u8,
    /// Commands in its transaction; `None`: none is open.
    pub multi: Option<usize>,
    /// Keys that it watches.
    pub watch: usize,
    /// Channels and patterns that it subscribes to.
    pub channels: usize,
    pub patterns: usize,
    /// Its last command that this endpoint handled itself, with the subcommand: `client|list`.
    pub command: String,
}

impl Profile {
    pub fn new(peer: SocketAddr, now: Instant) -> Profile {
        Profile {
            peer,
            since: now,
            active: now,
            name: String::new(),
            lib_name: String::new(),
            lib_ver: String::new(),
            resp: 2,
            multi: None,
            watch: 0,
            channels: 0,
            patterns: 0,
            command: "NULL".to_string(),
        }
    }

    pub fn is_subscriber(&self) -> bool {
        self.channels + self.patterns > 0
    }
}
