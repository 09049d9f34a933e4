//! The command line and the scripts, as a person runs them.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod bench;
mod commands;
mod kv;
mod scripts;
mod sim;
mod sql;

/// The binary under test.
const EXE: &str = env!("CARGO_BIN_EXE_phalanx");
