//! Waits for conditions, with a deadline: the only place that polls.
//!
//! A test never sleeps for a fixed time; it names the condition, the longest wait and the probe.
//! Not here: waiting inside a node (channels with timeouts, `node/`).

use super::{LabError, Result};
use std::time::{Duration, Instant};

/// First pause between two probes; each next one is longer, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between two probes.
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// Calls `probe` repeatedly until it returns a value, at most for `within`.
///
/// # Errors
/// [`LabError::Timeout`], naming `what`.
pub fn wait_until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    wait_explained(what, within, || probe().ok_or_else(String::new))
}

/// Like [`wait_until`], for a probe that reports what is missing; the last such text is in the error.
///
/// # Errors
/// [`LabError::Timeout`], naming `what` and what was missing at the last probe.
pub fn wait_explained<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause_now = PAUSE_MIN;
    loop {
        // The probe always runs once more after the last pause, so that a slow machine does not fail needlessly.
        let is_last = Instant::now() >= deadline;
        match probe() {
            Ok(value) => return Ok(value),
            Err(missing) if is_last => {
                let detail = if missing.is_empty() { String::new() } else { format!(" (last probe: {missing})") };
                return Err(LabError::Timeout { what: what.into(), after: within, detail });
            }
            Err(_) => pause(pause_now.min(deadline.saturating_duration_since(Instant::now()))),
        }
        pause_now = (pause_now * 3 / 2).min(PAUSE_MAX);
    }
}

/// Waits for a fixed time. Only for pacing (a command every 5 ms, a table every half second), never for a condition.
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// Waits until a moment; returns at once if it has passed.
pub fn pause_until(moment: Instant) {
    pause(moment.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_as_soon_as_it_is_there() {
        let mut probes = 0;
        let got = wait_until("three probes", Duration::from_secs(5), || {
            probes += 1;
            (probes == 3).then_some(probes)
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn a_timed_out_wait_reports_what_was_missing() {
        let started = Instant::now();
        let err = wait_explained::<()>("pigs fly", Duration::from_millis(30), || Err("no wings".into())).unwrap_err();
        assert_eq!(err.to_string(), "timed out after 30ms waiting until pigs fly (last probe: no wings)");
        assert!(started.elapsed() >= Duration::from_millis(30));
    }
}
