//! Phalanx: a fault-tolerant cluster in one binary. When the soldier in front falls, the one behind steps forward.
//!
//! The rooms of the house, from the top floor down; `use` arrows point down only (`tests/tidy.rs` enforces it):
//!
//! - [`cli`]: subcommands to exit codes. [`lab`]: real processes, started, broken and judged.
//! - [`sim`]: virtual processes over a seeded network, disk and clock. [`check`]: judges of recorded histories.
//! - [`http`] and [`resp`]: the doors that browsers and scripts, and Redis clients, use.
//! - [`node`]: the threads of one running node; the only room that spawns threads.
//! - [`client`]: a client that goes on with the next node when one fails, for the command line, the lab and other programs.
//! - [`cluster`]: how nodes find, watch and rank each other.
//! - [`wire`] and [`store`]: bytes on sockets; bytes that survive a power cut.
//! - [`work`]: running people's programs, caged.
//! - [`services`]: pure replicated state machines. [`raft`]: pure consensus; the two do not know each other.
//! - [`types`], [`limits`], [`settings`]: words that every room shares. [`text`]: what others wrote, made harmless.

pub mod bench;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod http;
pub mod lab;
pub mod limits;
pub mod node;
pub mod raft;
pub mod resp;
pub mod services;
pub mod settings;
pub mod sim;
pub mod store;
pub mod text;
pub mod types;
pub mod wire;
pub mod work;
