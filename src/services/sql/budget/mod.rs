//! Limits what a statement may do: the cost of its steps, the length of its values, and the space that it may free.

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
pub(crate) mod prices;
pub(crate) mod schema_changes;
pub(crate) mod step_cost;
pub(crate) mod text_cost;
