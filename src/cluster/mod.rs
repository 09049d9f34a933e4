//! How nodes find, watch and rank each other.
//!
//! The tour: `discovery.rs` decides at start between resuming, joining and bootstrap, `folders.rs` tells it what data
//! lies there already; `config_file.rs` keeps the shared `config.json`; `gossip.rs` spreads heartbeats and finds the
//! silent; `dispatch.rs` picks the worker for a client; `autopilot.rs` decides who should vote, `worker_liveness.rs`
//! which workers are gone; `integrity.rs` finds whose state is wrong; `health.rs` says in words how safe the cluster
//! is; `log_clock.rs` keeps the time by which things in the log end, and compares the clocks of the nodes.
//!
//! Nothing here starts a thread, owns a channel or reads a clock: time, chance, waiting and asking are arguments.
//! Not here: what makes a decision binding (`raft/`), who calls these and when (`node/`).

pub(crate) mod autopilot;
pub(crate) mod config_file;
pub(crate) mod discovery;
pub(crate) mod dispatch;
pub(crate) mod folders;
pub(crate) mod gossip;
pub(crate) mod health;
pub(crate) mod integrity;
pub(crate) mod lag;
pub(crate) mod log_clock;
pub(crate) mod worker_liveness;
