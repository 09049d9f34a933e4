//! Pages for a browser, and what they stream.

pub(crate) mod chat_page;
pub(crate) mod login;
pub(crate) mod monitor;
pub(crate) mod monitor_stream;
pub(crate) mod static_files;
