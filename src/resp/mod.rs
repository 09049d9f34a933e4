//! The Redis server: the Redis protocol on any node, with pipelining, transactions and plain lines.
//!
//! The tour: `acceptor.rs` accepts connections; `dispatch.rs` is the thread of one: it reads (`input.rs`) and
//! dispatches requests, `transactions.rs` those between MULTI and EXEC; `conn.rs` is its state and gathers commands on
//! keys into batches, which are submitted without waiting; `outbox.rs` keeps the order of replies and sends them from
//! whichever thread has them, `drain.rs` to slow clients; `profile.rs` is what CLIENT LIST shows. `protocol/` converts
//! bytes to requests and replies to bytes; `commands/` has the table of commands and what each does; `reply_plan.rs`
//! converts the store's answers to replies; `shared.rs` and `clients.rs` are what connections share.
//! Not here: what operations do (`services/kv/`), how a batch reaches the log (`node/`).

pub(crate) mod acceptor;
pub(crate) mod clients;
pub(crate) mod commands;
pub(crate) mod conn;
pub(crate) mod dispatch;
pub(crate) mod drain;
pub(crate) mod input;
pub(crate) mod outbox;
mod profile;
pub mod protocol;
pub(crate) mod reply_plan;
pub(crate) mod shared;
mod transactions;

pub use acceptor::serve;
