//! The record of a run as its clients saw it.
//!
//! No `return_us` means that the outcome is unknown: the write may have happened at any time after its call, or
//! never. An operation that was certainly refused is left out: a read that sees its value is then a violation, which
//! is right. A read whose outcome is unknown says nothing and is left out as well.
//! Times are microseconds of one clock; clients of several machines need a common one.
//! Not here: the judgement (`linear.rs`).

/// One operation of one client on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who: a client has at most one operation in flight.
    pub client: u64,
    /// The register.
    pub key: String,
    /// When the client sent it, in microseconds.
    pub call_us: u64,
    /// When the client had its answer; `None`: it never had one, or was told `Unknown`.
    pub return_us: Option<u64>,
    /// What it did, or saw.
    pub action: Action,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the register.
    Write(String),
    /// Saw this value; `None`: nothing there.
    Read(Option<String>),
    /// Set the register to `to` if it held `from` (`None`: nothing). `done`: whether it did; `None`: nobody knows.
    Swap { from: Option<String>, to: String, done: Option<bool> },
    /// Added to the number that the register held, 0 if there was nothing. `sum`: what came out; `None`: nobody knows.
    Add { by: i64, sum: Option<i64> },
}
