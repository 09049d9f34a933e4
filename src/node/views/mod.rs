//! What the threads of a node publish for each other and for the endpoints: plain values that know no thread.

pub mod activity;
pub mod catch_up;
pub mod chat_feed;
pub mod chat_lines;
pub mod events;
pub mod frames;
pub mod integrity;
pub mod jobs;
pub mod latency;
pub mod live_output;
pub mod sessions;
pub mod statement_timings;
pub mod status;
