//! The servers that browsers and scripts use: HTTP/1.1 on blocking sockets, one thread per connection.
//!
//! The tour, from the bottom: `protocol/` turns bytes into a [`protocol::parse::Head`] and a [`protocol::response::Response`]
//! or [`protocol::error::ApiError`] into bytes, keeps deadlines (`protocol/conn.rs`) and other web sites out
//! (`protocol/guard.rs`). `outcome.rs` makes errors of the node's reasons. `server.rs` is what all connections of one listener
//! share, the node behind it among it; `request.rs` what a handler is given and gives back.
//! Handlers: `api/` (JSON: cluster, key-value store, locks, jobs), `db/` (SQL as rqlite's clients know it), `chat/`, `pages/`
//! (the monitor page, the chat's page, and their streams).
//! On top: `routes.rs` is the one table of routes, by which `router.rs` finds the handler of a request; `front.rs` is the
//! redirector; `acceptor.rs` accepts for both.
//! Not here: threads (`node/`), what the figures mean (`node/views/status.rs`), the page's own files (`static/`).

pub mod front;
pub(crate) mod protocol;

mod acceptor;
mod api;
mod chat;
mod db;
mod outcome;
mod pages;
mod password_hasher;
mod request;
mod router;
mod routes;
mod server;

pub use self::protocol::conn::Deadlines;
pub use self::router::{serve, serve_host};
pub use self::server::{Counts, Host, Server};
