//! A voter that a node hosts, because its process is dead.
//!
//! Not here: what happens to it (`sim/steps/takeover.rs`).

use crate::cluster::takeover::HostedVoter;
use crate::types::Term;
use std::collections::BTreeMap;

/// A voter that a node hosts.
pub struct Hosting {
    pub voter: HostedVoter,
    /// Until it is false, no process and no other node can open the folder.
    pub has_lock: bool,
    /// Term in which it led before the step that runs.
    pub led: Option<Term>,
    /// When it was opened.
    pub since: u64,
}

/// Which nodes host which: (host, node of the voter).
pub type AllHosted = BTreeMap<(usize, usize), Hosting>;
