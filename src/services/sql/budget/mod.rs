//! How much a statement may do: what its steps cost, how long its values may be, and what it may free.

pub mod allowance;
pub mod freed_space;
pub mod fulltext_matches;
pub mod fulltext_settings;
pub mod fulltext_terms;
pub mod fulltext_writes;
pub mod growth;
pub mod length_tiers;
pub mod long_rows;
pub mod schema_changes;
pub mod step_cost;
pub mod text_cost;
