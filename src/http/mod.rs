//! The HTTP servers, for browsers and scripts: HTTP/1.1 on blocking sockets, one thread per connection to a node.
//!
//! The tour, from the bottom: `protocol/` converts bytes to a [`protocol::head::Head`], and a
//! [`protocol::response::Response`] or [`protocol::error::ApiError`] to bytes, keeps deadlines (`protocol/conn.rs`) and
//! refuses requests of other web sites (`protocol/guard.rs`). `outcome.rs` converts the node's reasons to errors.
//! `access.rs` checks the password of clients. `server.rs` is what all connections of one listener share, with
//! `request_times.rs` for the metrics; `request.rs` is the input and the result of a handler. Handlers: `api/` (JSON:
//! cluster, key-value store, locks, jobs), `db/` (SQL over the API of rqlite), `chat/`, `pages/` (the monitor page, the
//! chat's page, their streams, the log-in page). On top: `routes.rs` is the table of routes, in which `router.rs` finds
//! the handler of a request; `front_door.rs` is the front door; `acceptor.rs` accepts connections and reads requests for
//! both. Connections to the front door need no thread while nothing arrives (`event_loop.rs`).
//! Not here: threads (`node/`), what the figures mean (`node/views/status.rs`), the page's own files (`static/`).

pub mod front_door;
pub(crate) mod protocol;

mod acceptor;
mod access;
mod api;
mod chat;
mod db;
#[cfg(target_os = "linux")]
mod event_loop;
mod outcome;
mod pages;
mod password_hasher;
mod request;
mod request_times;
mod router;
mod routes;
mod server;

pub use self::protocol::deadlines::Deadlines;
pub use self::router::{serve, serve_host};
pub use self::server::{Host, Server, ServerCounts};
