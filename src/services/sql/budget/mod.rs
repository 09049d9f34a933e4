//! Computes what a statement may cost: the price of its steps, the length of its values, the space that it may free;
//! `connection/hook_state.rs` charges and enforces it.

pub(crate) mod freed_space;
pub(crate) mod fulltext;
pub(crate) mod growth;
pub(crate) mod length_tiers;
pub(crate) mod long_rows;
pub(crate) mod prices;
pub(crate) mod program;
pub(crate) mod schema_changes;
pub(crate) mod step_cost;
pub(crate) mod text_cost;
pub(crate) mod token_bucket;
