//! Chat: accounts, rooms and direct messages, in an order that is fixed for each conversation.
//!
//! The tour: `commands.rs` is what can be asked and answered; `names.rs` says which names are one, `invisible_chars.rs` which
//! characters show nothing; `accounts.rs` holds who is who and who is logged in, and slows guessing down; `conversation.rs` is
//! one conversation; `state.rs` holds them all and says what a command changes; `queries.rs` answers questions; `feed.rs` says
//! what somebody missed since a position; `snapshot.rs` is the snapshot; `service.rs` puts them together. Accounts and conversations
//! are known by number: a name that is free again leads to nothing that belonged to its former owner.
//! Not here: passwords and tokens in clear, which never come near the log (`http/chat/`), live streams (`node/views/chat_feed.rs`).

mod accounts;
pub(crate) mod commands;
mod conversation;
mod feed;
pub(crate) mod invisible_chars;
pub(crate) mod names;
mod queries;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use self::commands::{AccountId, Answer, Command, ConversationId, Name, Query, Refusal, Target, TokenHash, View};
pub use feed::Event;
pub use state::Chat;
