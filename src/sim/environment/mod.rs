//! The world of a run: its plan, network and disks, drawn from a seed.

pub mod disk;
pub mod files;
pub mod net;
pub mod plan;
