//! The commands of the Redis server: what there is, and what each does.
//!
//! The tour: `table.rs` has a row for each command, `spec.rs` says what the columns mean. Commands on keys are
//! translated to operations of the store (`store/`). The server answers the others itself: `connection.rs`,
//! `client.rs`, `server.rs`, `info.rs`, `command.rs`, `pubsub.rs`.
//! Not here: what an operation of the store does (`services/kv/`), transactions (`resp/dispatch.rs`).

mod client;
mod command;
pub(crate) mod connection;
mod info;
mod pubsub;
mod server;
mod spec;
pub(crate) mod store;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::spec::{Control, Handler, Spec, WORD_BYTES_SHOWN};
pub(crate) use self::store::context::SYNTAX;
pub(crate) use self::table::{TABLE, find};
