//! Commands that ask a running cluster about itself, and change it.

pub(crate) mod check;
pub(crate) mod events;
pub(crate) mod leader;
pub(crate) mod member;
pub(crate) mod status;
