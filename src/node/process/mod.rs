//! Start and end of the process.

pub(crate) mod front_door;
pub(crate) mod launch;
pub(crate) mod log_limit;
pub(crate) mod log_queue;
pub(crate) mod logging;
pub(crate) mod new_cluster;
pub(crate) mod open;
pub(crate) mod outdated;
pub(crate) mod ports;
pub(crate) mod signals;
pub(crate) mod sql_folder;
pub(crate) mod start;
pub(crate) mod stop;
