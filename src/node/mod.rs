//! One running node: its threads, what they share, and what endpoints see of it. The only module that spawns threads.
//!
//! From the bottom:
//! - `spawn.rs` starts threads; `process/logging.rs` makes log lines, with `process/log_queue.rs` to write them without
//!   blocking the thread that logs, and `process/log_limit.rs` to limit the lines that unknown senders cause.
//! - `views/` are the values that threads publish: events, jobs, chat, sessions, integrity, the status, the newest
//!   frame.
//! - `shared/` is what all threads share: locks, inboxes and their messages, requests, links to peers, and on top
//!   [`shared::Shared`]. `client_access.rs` checks clients' passwords; `quota.rs` checks what the services may hold;
//!   `sql/reader_pool.rs` has the connections that read the database, `pubsub.rs` the channels of PUBLISH,
//!   `scan_cursors.rs` the positions of SCANs.
//! - `datagrams/` repeats small frames of links that lose packets.
//! - `reports/` builds the heartbeat row, the status and the metrics from it.
//! - `snapshots/` writes, sends and compares the services' state; `peer/` are the connections between nodes.
//! - `threads/` are the bodies of the threads: `core/` owns raft, `threads/disk.rs` the store, `threads/apply.rs` the
//!   services, `threads/gossip.rs` the heartbeats, `threads/worker.rs` the jobs of this node.
//!   `ticks.rs` knows when raft's ticks are due.
//! - `takeover/` hosts the voters of dead processes of this host.
//! - `interface.rs` is what endpoints ask of a node, a trait per feature, and `handle.rs` how this node does it;
//!   `sql/handle.rs` and `sql/load.rs` are the same for the database;
//!   `accept.rs` accepts clients for all of them, from the sockets of a `listener.rs`; `connection_threads.rs` has the
//!   threads that serve them, and `reserved_slots.rs` the connections beyond `connections_max`.
//! - `front/` serves the front doors of frozen nodes of this host.
//! - `process/` is start and end: `process/start.rs` opens the folder and finds or bootstraps the cluster,
//!   `process/launch.rs` starts every thread, `process/stop.rs` ends the node; `process/new_cluster.rs` makes a new
//!   cluster of one folder while no node runs.
//!
//! Not here: what clients speak (`http/`, `resp/`). Endpoints are given to [`process::start::run`], because arrows
//! point down only.

pub(crate) mod accept;
pub(crate) mod client_access;
pub(crate) mod connection_threads;
pub(crate) mod datagrams;
pub(crate) mod frozen_neighbours;
pub(crate) mod handle;
pub(crate) mod interface;
pub(crate) mod lab;
pub(crate) mod listener;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod pubsub;
pub(crate) mod quota;
pub(crate) mod reports;
pub(crate) mod reserved_slots;
pub(crate) mod scan_cursors;
pub(crate) mod shared;
pub(crate) mod snapshots;
pub(crate) mod spawn;
pub(crate) mod sql;
pub(crate) mod takeover;
pub(crate) mod threads;
pub(crate) mod ticks;
pub mod views;

pub use self::client_access::{ClientAccess, PasswordCheck};
pub use self::interface::{Addressing, Admission, ConnectionSlot, Connections, Redirect, Reports, Requests, Watching};
pub use self::listener::Listener;
pub use self::process::launch::{Endpoint, Endpoints};
pub use self::process::start::{NodeOptions, StartError, run};
pub use self::pubsub::{Subscriber, SubscriptionKind};
pub use self::reports::metrics::{Metric, MetricValue, counter, gauge};
pub use self::shared::memory::{MemoryBudget, Reservation};
pub use self::shared::request::{Ack, Answered, Level, Operation, Waiter};
pub use self::sql::handle::{Backup, BackupForm, Sql, SqlRead};
pub use self::sql::load::{SentFile, SqlFiles};
pub use self::views::frames::Published;
pub use self::views::live_output::{Output, OutputStream, Piece};
pub use self::views::sessions::SessionGuard;
pub use self::views::status::NodeRuntimes;
pub use handle::Handle;
