//! A held lock: when it must be renewed, and when its command must be ended.

use crate::cli::client::{ClusterClient, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// Longest time from SIGTERM to SIGKILL.
pub const GRACE_MAX: Duration = Duration::from_secs(5);

/// A held lock: what the guardian needs to know of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Addresses of the nodes.
    pub endpoints: Vec<String>,
    /// What the nodes require (`client_password`); it reaches the guardian on its standard input.
    pub password: Option<String>,
    /// Longest wait for one response.
    pub patience: Duration,
    /// Path of the lock over HTTP.
    pub path: String,
    /// Its name, for people.
    pub name: String,
    /// Its time to live without renewal.
    pub ttl: Duration,
    /// The fencing token.
    pub token: u64,
    /// When the request that acquired or last renewed it was sent (L1), by [`since_boot`].
    pub held_from: Duration,
}

impl Lease {
    /// How long ago it was acquired or last renewed.
    pub fn age(&self) -> Duration {
        since_boot().saturating_sub(self.held_from)
    }

    /// When the next renewal is due.
    pub fn renew_at(&self) -> Duration {
        self.held_from + self.ttl / 3
    }

    /// When the command gets SIGTERM.
    pub fn term_at(&self) -> Duration {
        self.kill_at().saturating_sub((self.ttl / 10).min(GRACE_MAX))
    }

    /// When every process of the command must have ended: a tenth of the time to live is left for slow kernels and
    /// clocks that differ.
    pub fn kill_at(&self) -> Duration {
        self.held_from + self.ttl * 9 / 10
    }

    /// A request on this lock.
    pub fn post(&self, action: &str, body: &serde_json::Value) -> Request {
        Request::once("POST", format!("{}/{action}", self.path), Some(body.to_string().into_bytes()))
    }

    /// Renews the lock for another time to live: `Some(true)` if it is still held, `Some(false)` if it is lost, `None`
    /// if no node gave a definite answer.
    pub fn renew(&mut self, client: &ClusterClient) -> Option<bool> {
        let begun = since_boot();
        let body = json!({"token": self.token, "ttl_ms": self.ttl.as_millis() as u64});
        let raw = client.exchange(&self.post("renew", &body)).ok()?;
        match raw.status {
            200 => {
                self.held_from = begun;
                Some(true)
            }
            409 => Some(false),
            _ => None,
        }
    }
}

/// Time since the machine started, including suspension.
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    // On macOS this clock also counts during suspension.
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}
