//! The `core` thread: owner of Raft. Takes inputs one by one, and carries out each step's effects in order.
//!
//! Everything that may block is elsewhere: `disk` syncs, `apply` runs services, each `send-m` waits for its socket.
//! `core` hands them work without waiting; what a full inbox does not take stays in an [`outbox::Outbox`], which raft's flow
//! control bounds. Its messages to peers it writes itself, once a turn, as far as the sockets take them at once. Others
//! may wait on `core`; since it waits for no other thread, there is no cycle.
//!
//! Invariants: C1 a step's promises leave from `disk`, after the sync of its persist: they travel in the same job.
//! C2 `apply` receives every index once, in order, with the requests that wait for it.
//!
//! `state.rs` is what the thread owns; `turns.rs` takes the inputs of a turn, `effects.rs` carries out what raft answers,
//! `peers.rs` knows who and where the peers are, `leading.rs` is what only a leader does. `pending_requests.rs` keeps the
//! requests that are not answered yet, `leadership_events.rs` puts raft's events into words.
//! Not here: the links' threads (`node/peer/dialer.rs`).

mod effects;
mod leadership_events;
mod leading;
mod outbox;
mod peers;
mod pending_requests;
mod state;
mod turns;

pub use self::state::Core;
