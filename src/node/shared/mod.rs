//! What the threads of a node share: their messages, and the newest published copies of what each owns.
//!
//! State has one owner; [`Shared`] holds small values behind short locks, and the sender of each thread's inbox. A lock
//! here is held for a few loads or one clone, never across a wait. From the bottom: clocks and inboxes
//! (`clock.rs`, `inbox.rs`); the memory of clients (`memory.rs`); redirects to report
//! (`hand_outs.rs`); links to peers, requests and the threads' messages (`link.rs`, `request.rs`, `messages.rs`,
//! `inboxes.rs`); the switch that stops the process (`stopper.rs`); who is hosted (`hosted.rs`); on top `state.rs`, and
//! `cluster_state.rs` with what follows from it.
//! Not here: the owners (`node/threads/`), the shapes of what is published (`node/views/`).

pub(crate) mod clock;
pub(crate) mod cluster_state;
pub(crate) mod hand_outs;
pub(crate) mod hosted;
pub(crate) mod inbox;
pub(crate) mod inboxes;
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod messages;
pub(crate) mod request;
pub(crate) mod state;
pub(crate) mod stopper;

pub use self::state::Shared;
