//! Snapshots of the services' state: written, sent to others, compared, and put in place of a wrong one.

pub mod checkpoints;
pub mod digest;
pub mod rebuild;
pub mod schedule;
pub mod transfer;
pub mod writer;
