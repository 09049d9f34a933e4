//! The world of a run: its plan, network and disks, drawn from a seed.

pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod net;
pub(crate) mod plan;
