//! What the threads of a node publish for each other and for the endpoints: plain values that know no thread.

pub(crate) mod activity;
pub(crate) mod catch_up;
pub mod chat_feed;
pub(crate) mod chat_lines;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod integrity;
pub(crate) mod jobs;
pub(crate) mod latency;
pub(crate) mod live_output;
pub mod sessions;
pub(crate) mod statement_timings;
pub mod status;
