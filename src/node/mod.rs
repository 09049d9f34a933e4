//! The threads of one running node; the only room that spawns threads.
//!
//! The tour: `start.rs` opens the disk, finds or founds the cluster and starts everything; `core.rs` owns raft, with
//! `requests.rs` for what clients asked; `disk.rs` owns the store, `apply.rs` the services; `links.rs` and `peers.rs` are
//! the two halves of the peer port, with `join.rs` and `snapshots.rs` for their side conversations; `gossip.rs` beats;
//! `saving.rs` writes snapshots beside the log when `snapshot_pace.rs` says so; `monitor.rs` builds what pages show;
//! `watch.rs` wakes those who wait for a key; `config_writer.rs` keeps `config.json`; `console.rs` reads the terminal;
//! `signals.rs` hears what the system tells the process, `stop.rs` ends it all; `latency.rs` counts how long things take, `activity.rs` what clients get of it, `recovery.rs` how
//! long a node took to make up for what it missed. `checkpoints.rs` compares the nodes' digests and marks who differs,
//! `integrity.rs` is what is published of that, `rebuild.rs` fetches another node's state. `worker.rs` runs the jobs that the log gives to this node, `live.rs` holds
//! what they say meanwhile, `jobs.rs` is what is published of all jobs. `chat.rs` tells those who follow the chat what
//! happens, in the words of `chat_lines.rs`. `shared.rs` holds what they publish, `handle.rs` what doors see of it, `sql.rs`
//! what doors do with the database, `sql_files.rs` its folder, `sql_load.rs` brings a file into it, `sql_laps.rs` what is timed there, `sql_turn.rs` lets long requests wait, `threads.rs` starts threads, `inbox.rs` lets them sleep,
//! `accept.rs` takes clients in for every door, `memory.rs` counts the bytes that their connections hold, `quota.rs` judges
//! what the services may hold. `outsider.rs` finds out whether the node was replaced or removed while it was stopped.
//! `newcomers.rs` bounds how many that joined have not been heard of.
//! `new_cluster.rs` makes a new cluster of one folder while no node runs.
//! `reserved_slots.rs` shares the connections that are kept for health checks.
//! `logging.rs` makes log lines, `log_queue.rs` writes them without holding anybody up,
//! `log_limit.rs` keeps those few that strangers cause.
//! Not here: what clients speak (`http/`): doors are given to [`start::run`], because arrows point down only.

pub mod accept;
pub mod activity;
pub mod apply;
pub mod chat;
pub mod chat_lines;
pub mod checkpoints;
pub mod config_writer;
pub mod console;
pub mod core;
pub mod disk;
pub mod events;
pub mod find;
pub(crate) mod front;
pub mod gossip;
pub mod handle;
pub mod inbox;
pub mod integrity;
pub mod jobs;
pub mod join;
pub mod large_reads;
pub mod latency;
pub mod links;
pub mod live;
pub mod log_limit;
pub mod log_queue;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod new_cluster;
pub mod newcomers;
mod open;
pub mod outsider;
pub mod peer_limits;
pub mod peers;
pub mod quota;
pub mod rebuild;
pub mod recovery;
pub mod renew;
pub mod requests;
pub mod reserved_slots;
pub mod reunite;
pub mod saving;
pub mod seek;
pub mod sessions;
pub mod shared;
pub mod signals;
pub mod snapshot_pace;
pub mod snapshots;
pub mod sql;
pub mod sql_files;
pub mod sql_laps;
pub mod sql_load;
pub mod sql_turn;
pub mod start;
pub mod status;
pub mod stop;
pub mod threads;
pub mod watch;
pub mod worker;

pub use handle::{Ack, Handle, Level, Metric, NodeRuntimes, Published, SessionGuard, Slot, Work};
pub use live::{Output, Piece, Stream};
pub use memory::{MemoryBudget, Reservation};
pub use requests::{Answered, Waiter};
pub use sql::{BackupForm, SqlRead};
pub use sql_load::SentFile;
pub use start::{Door, Doors, NodeOptions, StartError, run};
