//! `config.json`: `file.rs` has its format and lock, `keeper.rs` decides who writes it and when.
//!
//! Not here: how a new node uses it (`discovery/`), the thread that writes it (`node/threads/config_writer.rs`).

pub(crate) mod file;
pub(crate) mod keeper;
