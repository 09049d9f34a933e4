//! Scripted demonstrations.

pub(crate) mod chat;
pub(crate) mod jobs;
