//! Clusters of real processes on free ports, with real signals, disks and clients.
//!
//! Each module is one concern; [`clients`] and [`redis`] hold the clients that several of them need.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod access;
mod chaos;
mod chat;
mod clients;
mod config;
mod console;
mod departures;
mod disk;
mod failover;
mod front;
mod hosts;
mod integrity;
mod jobs;
mod kv;
mod members;
mod memory;
mod mismatched_hosts;
mod partition;
mod peer_port;
mod readme;
mod redis;
mod rqlite_clients;
mod sql;
mod start;
mod takeover;
mod witness;

/// The binary under test.
const EXE: &str = env!("CARGO_BIN_EXE_phalanx");
