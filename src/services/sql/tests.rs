//! Tests of the database: golden scripts, crashes at every entry, malicious statements, and equality of all nodes.
//!
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib services::sql` records
//! them again; review the difference before you commit it.
//!
//! Not here: the commands of the scripts and the simulated node (`tests/script_runner.rs`), files (`tests/files.rs`).

mod allowance;
mod cost;
mod crashes;
mod dates;
mod determinism;
mod files;
mod foreign_keys;
mod hostile;
mod lengths;
mod loads;
mod own_table;
pub(super) mod script_runner;

#[test]
fn scripts() {
    crate::services::service_contract::scripts("sql", script_runner::ScriptRunner::default);
}
