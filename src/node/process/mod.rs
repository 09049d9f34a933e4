//! Start and end of the process.

pub(crate) mod front_port;
pub mod launch;
pub mod log_limit;
pub mod log_queue;
pub mod logging;
pub mod new_cluster;
pub mod open;
pub mod ports;
pub mod renew;
pub mod signals;
pub mod sql_folder;
pub mod start;
pub mod stop;
