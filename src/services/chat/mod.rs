//! Chat: accounts, rooms and direct messages, with a fixed order of messages in each conversation.
//!
//! The tour: `commands.rs` has the commands, queries and answers; `names.rs` decides which names are the same,
//! `invisible_chars.rs` which characters are invisible and
//! `sequences.rs` where they are not; `accounts.rs` holds accounts and log-ins, and slows down
//! guessing passwords; `conversation.rs` is one conversation; `state.rs` holds them all and applies commands;
//! `queries.rs` answers queries; `feed.rs` derives the events that a reader has missed since a position; `snapshot.rs`
//! is the snapshot; `service.rs` is the service's facade. Accounts and conversations are identified by number: a name
//! that is free again gives no access to its former owner's data.
//! Not here: passwords and tokens in clear, which never enter the log (`http/chat/`), live streams
//! (`node/views/chat_feed.rs`).

mod accounts;
pub(crate) mod commands;
mod conversation;
mod feed;
pub(crate) mod invisible_chars;
pub(crate) mod names;
mod queries;
mod sequences;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use self::commands::{AccountId, Answer, Command, ConversationId, Name, Query, Refusal, Target, TokenHash, View};
pub use feed::Event;
pub use state::Chat;
