//! The database as a whole: its file, its image, its digest, and databases that come from elsewhere.

pub mod checkpoint;
pub mod digest;
pub mod dump;
mod file_header;
pub mod image;
pub mod load;
pub mod open;
pub mod own_table;
pub mod prepare;
pub mod schema;
