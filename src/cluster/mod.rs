//! Discovery, failure detection, placement of clients and health of the cluster.
//!
//! The tour: `discovery/` decides at start between resuming, joining and bootstrap; `config/` keeps `config.json`;
//! `gossip.rs` exchanges heartbeats and finds failed nodes; `reachability/` says which nodes can be reached now, and
//! how; `dispatch.rs` picks the worker for a client, by its load (`load.rs`); `autopilot.rs` decides which nodes
//! should vote, `departures.rs` which voters that stop give their vote back, `worker_liveness.rs` which workers are
//! lost, `lag.rs` which nodes do not catch up, `witness.rs` how many voters may keep no data; `integrity.rs` finds
//! nodes with a wrong state; `takeover/` goes on in place of voters whose processes are dead; `health.rs` determines
//! how safe the cluster is; `log_clock.rs` keeps log time, and compares the clocks of the nodes.
//!
//! Nothing here starts a thread, owns a channel or reads a clock: time, randomness, waiting and requests to other nodes
//! are arguments. Not here: replicated decisions (`raft/`), the callers (`node/`).

pub(crate) mod autopilot;
pub(crate) mod config;
pub(crate) mod departures;
pub(crate) mod discovery;
pub(crate) mod dispatch;
pub(crate) mod gossip;
pub(crate) mod health;
pub(crate) mod integrity;
pub(crate) mod lag;
pub(crate) mod load;
pub(crate) mod log_clock;
pub(crate) mod reachability;
pub(crate) mod takeover;
pub(crate) mod witness;
pub(crate) mod worker_liveness;
