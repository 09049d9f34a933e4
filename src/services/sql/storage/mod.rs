//! The database as a whole: its file, images, digests, dumps, and databases that are loaded.

pub(crate) mod checkpoint;
pub(crate) mod digest;
pub(crate) mod dump;
pub(crate) mod dump_lines;
mod file_header;
pub(crate) mod image;
pub(crate) mod load;
pub(crate) mod load_text;
pub(crate) mod open;
pub(crate) mod own_table;
pub(crate) mod prepare;
pub(crate) mod schema;
