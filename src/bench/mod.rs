//! Load generators and measurements of a real cluster, and of its peers.

pub mod chat_rates;
pub mod etcd_zookeeper;
pub mod failover;
pub mod job_rates;
pub mod kv_rates;
pub mod large_store;
pub mod load;
pub mod monitors;
pub mod protocols;
pub mod sql_rates;
