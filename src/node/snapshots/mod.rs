//! Snapshots of the services' state: written, sent to others, compared, and put in place of a wrong one.

pub(crate) mod checkpoints;
pub(crate) mod digest;
pub(crate) mod rebuild;
pub(crate) mod schedule;
pub(crate) mod transfer;
pub(crate) mod witness;
pub(crate) mod writer;
