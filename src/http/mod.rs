//! The door that browsers and scripts use: HTTP/1.1 on blocking sockets, one thread per connection.
//!
//! The tour: `acceptor.rs` accepts and spawns; `http/protocol/conn.rs` is one connection with all its deadlines; `http/protocol/parse.rs` turns bytes
//! into a [`protocol::parse::Head`] or refuses them; `http/protocol/guard.rs` keeps other web sites out; `paths.rs` is the table of all paths, by
//! which `routes.rs` finds the answer, which
//! `http/api/mod.rs` (JSON), `http/api/kv.rs` and `http/api/locks.rs` (the store; `http/protocol/idempotency.rs` names their writes), `http/api/jobs.rs`, `http/api/job_output.rs` and `http/api/job_waiting.rs` (people's
//! programs), `http/db/mod.rs` and `http/db/files.rs` (the database, in the spelling of `http/db/rqlite_json.rs`), `http/pages/static_files.rs` and `http/pages/monitor_stream.rs` (the
//! never-ending ones) give; `http/protocol/params.rs` reads what stands behind a question mark, `http/protocol/lines.rs` another node's stream; `chat/` is the
//! chat, `http/pages/chat_page.rs` its page; `http/pages/monitor.rs` writes the page;
//! `front.rs` is the redirecting front door; `http/protocol/reply.rs` writes a bounded answer; `host.rs` is all this room knows of the
//! node behind it, small enough to be faked in tests.
//! Not here: threads (`node/`), what the figures mean (`node/views/status.rs`), the page's own files (`static/`).

pub mod acceptor;
pub mod api;
pub mod db;
pub mod front;
pub mod host;
pub mod pages;
pub(crate) mod password_hasher;

mod chat;
mod paths;
pub mod protocol;
mod routes;
pub mod server;

pub use self::host::{Host, HostSession};
pub use self::protocol::conn::Deadlines;
pub use self::routes::{serve, serve_host};
pub use self::server::Server;
