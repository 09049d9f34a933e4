//! Progress of what a user waits for: on stderr, and only where that is a terminal.
//!
//! A step without a known end shows the time that it has taken, one with an end also the rate and the remaining time. Anywhere
//! else than on a terminal only the lines are written, so that a log shows what was done.
//! Not here: what takes long.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Between two pictures while nothing is counted: rare, because it runs beside measurements.
const TICK: Duration = Duration::from_millis(250);

/// The step that is being done, at the bottom of the terminal; dropped, it disappears.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Without a step yet.
    pub fn new() -> Progress {
        let bar = ProgressBar::no_length();
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        let progress = Progress { bar };
        progress.restart(None);
        progress
    }

    /// Begins a step whose end nobody knows, with a line.
    pub fn begin(&self, text: &str) {
        self.say(text);
        self.restart(None);
    }

    /// Begins a step of `total` parts, with a line.
    pub fn begin_counted(&self, text: &str, total: u64) {
        self.say(text);
        self.restart(Some(total));
    }

    /// Begins a step of `total` parts.
    pub fn count(&self, total: u64) {
        self.restart(Some(total));
    }

    fn restart(&self, total: Option<u64>) {
        let template = match total {
            Some(_) => "[{bar:30}] {human_pos} of {human_len}, {per_sec}, {eta} left",
            None => "{spinner} {elapsed}",
        };
        self.bar
            .set_style(ProgressStyle::with_template(template).expect("a template of our own").progress_chars("=> "));
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.reset();
    }

    /// Writes a line and goes on with the step.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// So many parts more are done.
    pub fn advance(&self, parts: u64) {
        self.bar.inc(parts);
    }

    /// So many parts are done in all.
    pub fn set(&self, parts: u64) {
        self.bar.set_position(parts);
    }

    /// Lets something else write to the terminal.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
