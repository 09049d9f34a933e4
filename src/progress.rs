//! Progress of an operation that a user waits for: on stderr, and only where that is a terminal.
//!
//! A step without a known end shows the time that it has taken, one with an end also the rate and the remaining time.
//! Where stderr is not a terminal, only the lines are written, so that a log shows what was done.
//! Not here: the operations themselves.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::time::Duration;

/// Time between two redraws: long, because measurements may run at the same time.
const TICK: Duration = Duration::from_millis(250);

/// The current step, shown at the bottom of the terminal; removed when it is dropped.
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

    /// Writes a line and begins a step whose length is unknown.
    pub fn begin(&self, text: &str) {
        self.print_line(text);
        self.restart(None);
    }

    /// Writes a line and begins a step that takes about this long.
    pub fn begin_timed(&self, text: &str, span: Duration) {
        self.print_line(text);
        self.bar.set_style(style(&format!("{{spinner}} {{elapsed}} of {} s", span.as_secs())));
        self.bar.unset_length();
        self.bar.reset();
    }

    /// Writes a line and begins a step of `total` parts.
    pub fn begin_counted(&self, text: &str, total: u64) {
        self.print_line(text);
        self.restart(Some(total));
    }

    /// Begins a step of `total` parts.
    pub fn count(&self, total: u64) {
        self.restart(Some(total));
    }

    fn restart(&self, total: Option<u64>) {
        let template = match total {
            Some(_) => "[{bar:30}] {human_pos} of {human_len}, {rate}, {eta} left",
            None => "{spinner} {elapsed}",
        };
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            write!(out, "{:.1}/s", state.per_sec()).expect("a String takes all");
        };
        self.bar.set_style(style(template).with_key("rate", rate));
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.reset();
    }

    /// Writes a line and continues the step.
    pub fn print_line(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// This many more parts are done.
    pub fn advance(&self, parts: u64) {
        self.bar.inc(parts);
    }

    /// This many parts are done in total.
    pub fn set(&self, parts: u64) {
        self.bar.set_position(parts);
    }

    /// Removes the progress while `write` writes to the terminal.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of our own").progress_chars("=> ")
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
