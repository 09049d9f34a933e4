//! What endpoints do with the database: reads, writes, backups and loads.

pub mod handle;
pub mod load;
pub mod load_permit;
pub mod reader_pool;
