//! The clocks of this machine.
//!
//! Not here: log time, which all nodes share (`cluster/log_clock.rs`).

use crate::faults::switch;
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock in milliseconds since 1970. In a lab it may be off.
pub fn now_ms() -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    now_ms.saturating_add_signed(switch::clock_ms())
}

/// Microseconds since this machine started, its sleep included; no wall clock that is set moves it.
pub fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}
