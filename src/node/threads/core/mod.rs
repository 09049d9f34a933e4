//! The `core` thread: owner of Raft. Handles inputs one by one, and executes each step's effects in order.
//!
//! Everything that may block is elsewhere: `disk` syncs, `apply` runs services, each `send-m` waits for its socket.
//! `core` gives them work without waiting; what does not fit into a full inbox stays in an [`outbox::Outbox`], which
//! raft's flow control bounds. It writes its messages to peers itself, once a turn, as far as the sockets accept them
//! at once. Other threads may wait for `core`; since it waits for none of them, there is no cycle.
//!
//! Invariants: C1 `disk` sends a step's promises after it has synced the step's writes: both are in the same job.
//! C2 `apply` receives every index once, in order, with the requests that wait for it.
//!
//! `state.rs` is what the thread owns; `turns.rs` handles the inputs of a turn, `effects.rs` executes the effects of a
//! step, `peers.rs` keeps identities and addresses of the peers, `leading.rs` is what only a leader does.
//! `pending_requests.rs` keeps the requests that are not answered yet, `batches.rs` makes entries of them, and
//! `forwarding.rs` exchanges them with other nodes. `leadership_events.rs` logs raft's events, `round_trips.rs` measures
//! how fast peers answer, `link_loss.rs` concludes which links lose packets.
//! Not here: the links' threads (`node/peer/dialer.rs`).

mod batches;
mod effects;
mod forwarding;
mod leadership_events;
mod leading;
mod link_loss;
mod outbox;
mod peers;
mod pending_requests;
mod round_trips;
mod state;
mod turns;

pub use self::state::Core;
