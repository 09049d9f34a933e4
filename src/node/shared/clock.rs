//! The clocks of this machine.
//!
//! Not here: log time, which all nodes share (`cluster/log_clock.rs`).

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Microseconds since this machine started, its sleep included; no wall clock that is set moves it.
pub fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}
