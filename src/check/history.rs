//! The record of a run as its clients saw it.
//!
//! No `return_us` means that the outcome is unknown: the write may have happened at any time after its call, or never.
//! An operation that was certainly refused is left out: a read that sees its value is then a violation, which is right.
//! A read whose outcome is unknown carries no information and is left out as well.
//! Times are microseconds of one clock; clients of several machines need a common one.
//! Not here: deciding whether a history is linearizable (`linear.rs`).

/// One operation of one client on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client; it has at most one operation in flight.
    pub client: u64,
    pub key: String,
    /// When the client sent it, in microseconds.
    pub call_us: u64,
    /// When the client received its answer; `None`: it never received one, or received `Unknown`.
    pub return_us: Option<u64>,
    /// What it did, or saw.
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the register to this value.
    Write(String),
    /// Read this value; `None`: the register was empty.
    Read(Option<String>),
    /// Set the register to `to` if it held `from` (`None`: it was empty). `done`: whether it did; `None`: the outcome
    /// is unknown.
    Swap { from: Option<String>, to: String, done: Option<bool> },
    /// Added `by` to the number in the register (0 if it was empty). `sum`: the result; `None`: the outcome is unknown.
    Add { by: i64, sum: Option<i64> },
}
