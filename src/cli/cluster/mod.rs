//! Commands that ask a running cluster about itself, and change it.

pub mod check;
pub mod events;
pub mod leader;
pub mod member;
pub mod status;
