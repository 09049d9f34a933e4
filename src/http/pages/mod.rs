//! Pages for a browser, and what they stream.

pub mod chat_page;
pub mod monitor;
pub mod monitor_stream;
pub mod static_files;
