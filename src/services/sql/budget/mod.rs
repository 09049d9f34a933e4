//! How much a statement may do: what its steps cost, how long its values may be, and what it may free.

pub(crate) mod allowance;
pub(crate) mod freed_space;
pub(crate) mod fulltext_matches;
pub(crate) mod fulltext_settings;
pub(crate) mod fulltext_terms;
pub(crate) mod fulltext_tokens;
pub(crate) mod fulltext_writes;
pub(crate) mod growth;
pub(crate) mod length_tiers;
pub(crate) mod long_rows;
pub(crate) mod schema_changes;
pub(crate) mod step_cost;
pub(crate) mod text_cost;
