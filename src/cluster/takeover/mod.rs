//! Voter takeover: a node goes on in place of voters whose processes are dead, if it can prove that they are.
//!
//! While a process lives, also while it is frozen, it holds the lock of its data folder. So a node that holds the lock
//! of another voter's folder knows that this voter's process is dead, and that no other can start meanwhile. It then does
//! what a restart of that process would do: it opens the folder and runs the voter in it, with the promises that are on
//! its disk. Such a voter is *hosted*. To the protocol nothing has happened but that a voter restarted and can be reached
//! by one node alone: it votes by its own log, and what it acknowledges is on its own disk. So two nodes that try the same
//! need two majorities, and there is no second one; and an interrupted takeover leaves folders as a crash does.
//! A hosted voter is made a learner as soon as the membership allows it, and its folder is released.
//!
//! `rule.rs` decides when a node tries and when it ends, `hosted_voter.rs` runs one voter on one folder,
//! `folder_claims.rs` finds and locks folders.
//! Not here: the thread, the messages' ways (`node/takeover/`).

pub(crate) mod folder_claims;
pub(crate) mod hosted_voter;
pub(crate) mod rule;

pub use folder_claims::ClaimedFolder;
pub use hosted_voter::{HostedError, HostedVoter, Observed};
