//! Runs of seeds, and the search for the smallest run that still fails.
//!
//! Not here: threads (the command line starts them), what happens in a run (`sim/world.rs`).

pub mod restriction;
pub mod run;
pub mod shrink;
#[cfg(test)]
mod tests;
