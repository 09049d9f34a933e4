//! The write-ahead log: records in segments, appended, synced and read back.

pub mod record;
pub mod recover;
pub mod replay;
pub mod segment;
pub mod writer;
