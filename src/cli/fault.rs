//! An error of the command line: what went wrong, which exit code says so, and what to do next.
//!
//! Every message that ends a command passes here, so that each one carries advice, and all exit codes are in one place.
//! Not here: errors of the modules below, which have enums of their own.

use super::term;
use std::fmt;

/// Exit codes of all subcommands.
pub mod code {
    use crate::outcome::codes;

    /// Failed, and certainly not applied.
    pub const FAILED: u8 = codes::FAILED.exit;
    /// Wrong usage or settings.
    pub const USAGE: u8 = 2;
    /// The disk is damaged, or failed to read or write.
    pub const DISK: u8 = 3;
    /// No quorum, no leader, or no node reachable.
    pub const UNREACHABLE: u8 = codes::UNAVAILABLE.exit;
    /// May or may not be applied.
    pub const UNKNOWN: u8 = codes::UNKNOWN.exit;
    /// `status --check` found the cluster unhealthy.
    pub const UNHEALTHY: u8 = 7;
    /// A checker found a violation.
    pub const VIOLATION: u8 = 8;
    /// A checker could not decide.
    pub const UNDECIDED: u8 = 9;
}

/// What ends a command early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exit code.
    pub code: u8,
    /// What went wrong, lower case, with the values.
    pub message: String,
    /// What the user should do next; empty when the message says it.
    pub next: String,
}

impl Fault {
    /// An error with its advice.
    pub fn new(code: u8, message: impl fmt::Display, next: impl fmt::Display) -> Fault {
        Fault { code, message: message.to_string(), next: next.to_string() }
    }

    /// [`code::FAILED`], without advice.
    pub fn failed(message: impl fmt::Display) -> Fault {
        Fault::new(code::FAILED, message, "")
    }

    /// Prints it to stderr and gives its exit code. A fault without a message only carries its code.
    pub fn report(&self) -> u8 {
        if !self.message.is_empty() {
            // A node's message may quote a user's text.
            let message = term::plain_lines_err(&self.message);
            eprintln!("{} {message}", term::paint_err("error:", term::Colour::Red));
        }
        if !self.next.is_empty() {
            eprintln!("{}  {}", term::paint_err("next:", term::Colour::Cyan), term::plain_lines_err(&self.next));
        }
        self.code
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (exit code {}; next: {})", self.message, self.code, self.next)
    }
}

impl std::error::Error for Fault {}
