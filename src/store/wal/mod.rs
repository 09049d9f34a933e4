//! The write-ahead log: records in segments, appended, synced and read back.

pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod replay;
pub(crate) mod segment;
pub(crate) mod writer;
