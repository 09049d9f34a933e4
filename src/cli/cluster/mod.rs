//! Commands that query and change a running cluster.

pub(crate) mod check;
pub(crate) mod events;
pub(crate) mod leader;
pub(crate) mod member;
pub(crate) mod status;
