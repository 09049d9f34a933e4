//! What the design stands on, enforced by reading the sources and the documents: the rules marked ✓ in the style guide.
//!
//! Each rule is a function from a text to the faults found in it, so that each can be shown to fail on a bad snippet
//! (second half of each file); then all run over the real tree. Not here: formatting and lints (`cargo fmt`,
//! `cargo clippy`).
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod circles;
mod documents;
mod fault;
mod layout;
mod new_service;
mod source;

// As in `src/lib.rs`: the example of docs/services.md names what it uses as a service in the tree does.
use phalanx::types;

mod services {
    pub use phalanx::services::{Replicated, Reply, Service};

    pub mod polls;
}
