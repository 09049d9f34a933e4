//! The Redis door: what Redis clients speak, on any node, with pipelining, transactions and plain lines.
//!
//! The tour: `door.rs` accepts connections; `conn.rs` is the thread of one: it reads, takes commands apart and hands
//! them to the node in runs without waiting; `outbox.rs` keeps the order of replies and sends them from whichever thread
//! has them, `drain.rs` to clients that are slow. `parse.rs` reads requests, `reply.rs` writes replies; `table.rs` lists the
//! commands, `keys.rs` turns those on keys into the store's operations and `shape.rs` its answers into replies;
//! `session.rs` and `about.rs` are the commands that the door answers itself, `scripts.rs` the few Lua texts it knows,
//! `cursors.rs` the places of SCANs, `glob.rs` patterns of names, `fuzz.rs` broken requests for the tests.
//! Not here: what operations do (`services/kv/`), how a run reaches the log (`node/`).

pub mod about;
pub mod conn;
pub mod cursors;
pub mod door;
pub mod drain;
pub mod fuzz;
pub mod glob;
pub mod keys;
pub mod outbox;
pub mod parse;
pub mod reply;
pub mod scripts;
pub mod session;
pub mod shape;
pub mod table;

pub use door::serve;
