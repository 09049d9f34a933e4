//! Load generators and measurements of a real cluster, and of its peers.

pub(crate) mod chat_rates;
pub(crate) mod etcd_zookeeper;
pub(crate) mod failover;
pub(crate) mod front_rates;
pub(crate) mod http_reply;
pub mod job_rates;
pub(crate) mod kv_rates;
pub(crate) mod large_store;
pub(crate) mod load;
pub(crate) mod monitors;
pub(crate) mod protocols;
pub(crate) mod sql_rates;
