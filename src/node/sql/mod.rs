//! What endpoints do with the database: reads, writes, backups and loads.

pub(crate) mod handle;
pub(crate) mod load;
pub(crate) mod load_permit;
pub(crate) mod reader_pool;
