//! Scripted demonstrations.

pub mod chat;
pub mod jobs;
