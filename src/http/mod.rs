//! The door that browsers and scripts use: HTTP/1.1 on blocking sockets, one thread per connection.
//!
//! The tour: `server.rs` accepts and spawns; `conn.rs` is one connection with all its deadlines; `parse.rs` turns bytes
//! into a [`parse::Head`] or refuses them; `guard.rs` keeps other web sites out; `paths.rs` is the table of all paths, by
//! which `routes.rs` finds the answer, which
//! `api.rs` (JSON), `kv.rs` and `locks.rs` (the store; `idempotency.rs` names their writes), `jobs.rs`, `output.rs` and `waiting.rs` (people's
//! programs), `db.rs` and `db_files.rs` (the database, in the spelling of `rqlite.rs`), `static_files.rs` and `stream.rs` (the
//! never-ending ones) give; `params.rs` reads what stands behind a question mark, `lines.rs` another node's stream; `chat/` is the
//! chat, `chat_page.rs` its page; `monitor.rs` writes the page;
//! `front.rs` is the redirecting front door; `reply.rs` writes a bounded answer; `host.rs` is all this room knows of the
//! node behind it, small enough to be faked in tests.
//! Not here: threads (`node/`), what the figures mean (`node/status.rs`), the page's own files (`static/`).

pub mod conn;
pub mod front;
pub mod guard;
pub mod host;
pub mod lines;
pub mod parse;
pub mod reply;
pub mod server;
pub mod stream;

mod api;
mod chat;
mod chat_page;
mod db;
mod db_files;
mod idempotency;
mod jobs;
mod kv;
mod locks;
mod monitor;
mod output;
mod params;
mod paths;
mod routes;
mod rqlite;
mod static_files;
mod waiting;

pub use conn::Deadlines;
pub use host::{Host, HostSession};
pub use server::{Door, serve};
