//! The Redis door: what Redis clients speak, on any node, with pipelining, transactions and plain lines.
//!
//! The tour: `door.rs` accepts connections; `conn.rs` is the thread of one: it reads, takes commands apart and hands
//! them to the node in runs without waiting; `outbox.rs` keeps the order of replies and sends them from whichever thread
//! has them, `drain.rs` to clients that are slow. `resp/protocol/parse.rs` reads requests, `resp/protocol/reply.rs` writes replies; `resp/commands/mod.rs` lists the
//! commands, `resp/commands/keys.rs` turns those on keys into the store's operations and `reply_plan.rs` its answers into replies;
//! `resp/commands/connection.rs` and `resp/commands/server.rs` are the commands that the door answers itself, `resp/commands/scripts.rs` the few Lua texts it knows,
//! `cursors.rs` the places of SCANs, `resp/commands/glob.rs` patterns of names, `resp/protocol/fuzz.rs` broken requests for the tests.
//! Not here: what operations do (`services/kv/`), how a run reaches the log (`node/`).

pub mod commands;
pub mod conn;
pub mod cursors;
pub mod door;
pub mod drain;
pub mod outbox;
pub mod protocol;
pub mod reply_plan;

pub use door::serve;
