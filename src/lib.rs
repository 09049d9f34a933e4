//! Phalanx: a fault-tolerant cluster in one binary.
//!
//! The modules, from the top down; imports point down only, and no file imports itself through others (`tests/tidy/`
//! enforces both):
//!
//! - [`cli`]: subcommands to exit codes. [`demo`] and [`bench`]: scripted demonstrations; load generators and
//!   measurements.
//! - [`lab`]: real processes, fault injection and checks. [`sim`]: virtual processes on a simulated network, disk and
//!   clock. [`check`]: checkers of recorded histories.
//! - [`http`] and [`resp`]: the servers that browsers and scripts, and Redis clients, use.
//! - [`node`]: the threads of one running node; the only module that spawns threads.
//! - [`client`]: a client that continues with the next node when one fails, for the command line and the lab.
//! - [`cluster`]: how nodes find, watch and rank each other.
//! - [`wire`] and [`store`]: bytes on sockets; bytes that survive a power cut.
//! - [`outcome`]: the result of a request and its reason, with the codes of each protocol.
//! - [`work`]: users' programs in a sandbox.
//! - [`services`]: pure replicated state machines. [`raft`]: pure consensus. The two do not know each other.
//! - `faults`: faults that a person injects into the nodes of a lab.
//! - [`types`], [`limits`], [`settings`]: what every module shares. [`text`]: escaping for terminals and URLs.
//!   `address`: `host:port` as text.
//!   `lock`: mutexes whose order is checked in debug builds. [`time`]: durations and times as text. [`progress`]: progress of long operations.
//!   `planted_bugs`: switches of known mistakes, for tests.

mod address;
pub mod bench;
pub mod check;
pub mod cli;
pub mod client;
mod cluster;
mod demo;
mod faults;
pub mod http;
pub mod lab;
pub mod limits;
mod lock;
pub mod node;
pub mod outcome;
mod planted_bugs;
mod progress;
pub mod raft;
pub mod resp;
pub mod services;
pub mod settings;
mod sim;
mod store;
mod text;
mod time;
pub mod types;
pub mod wire;
mod work;
