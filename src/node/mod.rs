//! The threads of one running node; the only room that spawns threads.
//!
//! The tour: `node/process/start.rs` opens the disk, finds or founds the cluster and starts everything; `node/threads/core/` owns raft, with
//! `node/threads/core/pending_requests.rs` for what clients asked; `node/threads/disk.rs` owns the store, `node/threads/apply.rs` the services; `node/peer/dialer.rs` and `node/peer/acceptor.rs` are
//! the two halves of the peer port, with `node/peer/join.rs` and `node/snapshots/transfer.rs` for their side conversations; `node/threads/gossip.rs` beats;
//! `node/snapshots/writer.rs` writes snapshots beside the log when `node/snapshots/schedule.rs` says so; `node/threads/monitor.rs` builds what pages show;
//! `node/threads/watch.rs` wakes those who wait for a key; `node/threads/config_writer.rs` keeps `config.json`; `node/threads/console.rs` reads the terminal;
//! `node/process/signals.rs` hears what the system tells the process, `node/process/stop.rs` ends it all; `node/views/latency.rs` counts how long things take, `node/views/activity.rs` what clients get of it, `node/views/catch_up.rs` how
//! long a node took to make up for what it missed. `node/snapshots/checkpoints.rs` compares the nodes' digests and marks who differs,
//! `node/views/integrity.rs` is what is published of that, `node/snapshots/rebuild.rs` fetches another node's state. `node/threads/worker.rs` runs the jobs that the log gives to this node, `node/views/live_output.rs` holds
//! what they say meanwhile, `node/views/jobs.rs` is what is published of all jobs. `node/views/chat_feed.rs` tells those who follow the chat what
//! happens, in the words of `node/views/chat_lines.rs`. `node/shared/mod.rs` holds what they publish, `handle.rs` what doors see of it, `node/sql/handle.rs`
//! what doors do with the database, `node/process/sql_folder.rs` its folder, `node/sql/load.rs` brings a file into it, `node/views/statement_timings.rs` what is timed there, `node/sql/load_permit.rs` lets long requests wait, `spawn.rs` starts threads, `node/shared/inbox.rs` lets them sleep,
//! `accept.rs` takes clients in for every door, `node/shared/memory.rs` counts the bytes that their connections hold, `quota.rs` judges
//! what the services may hold. `node/peer/former_member.rs` finds out whether the node was replaced or removed while it was stopped.
//! `node/process/new_cluster.rs` makes a new cluster of one folder while no node runs.
//! `node/shared/reserved_slots.rs` shares the connections that are kept for health checks.
//! `node/process/logging.rs` makes log lines, `node/process/log_queue.rs` writes them without holding anybody up,
//! `node/process/log_limit.rs` keeps those few that strangers cause.
//! Not here: what clients speak (`http/`): doors are given to [`process::start::run`], because arrows point down only.

pub mod accept;
pub mod handle;
pub mod peer;
pub mod process;
pub mod quota;
pub mod reports;
pub mod shared;
pub mod snapshots;
pub mod spawn;
pub mod sql;
pub mod threads;
pub mod views;

pub use self::process::launch::{Door, Doors};
pub use self::process::start::{NodeOptions, StartError, run};
pub use self::reports::metrics::Metric;
pub use self::shared::memory::{MemoryBudget, Reservation};
pub use self::shared::request::{Ack, Answered, Level, Waiter, Work};
pub use self::sql::handle::{BackupForm, SqlRead};
pub use self::sql::load::SentFile;
pub use self::views::frames::Published;
pub use self::views::live_output::{Output, Piece, Stream};
pub use self::views::status::NodeRuntimes;
pub use handle::{Handle, SessionGuard, Slot};
