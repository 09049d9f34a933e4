//! Functions of SQLite that `rusqlite` has no safe interface for.
//!
//! This crate holds the only unsafe code of Phalanx, so that the main crate can forbid it.

pub mod foreign_keys;
pub mod fts5;
