//! Chat: accounts, rooms and direct messages, in an order that is fixed for each conversation.
//!
//! The tour: `words.rs` is what can be asked and answered; `names.rs` says which names are one, `blank.rs`
//! which characters show nothing; `accounts.rs` holds who is
//! who and who is logged in, and slows guessing down; `talk.rs` is one conversation; `state.rs` holds them all and says what a
//! command changes; `reads.rs` answers questions; `feed.rs` says what somebody missed since a position; `saved.rs` is the
//! snapshot; `flaws.rs` are known mistakes, which only tests can switch on.
//! Numbers own everything: a name that is free again leads to nothing that belonged to whoever had it before.
//! Not here: passwords and tokens in clear, which never come near the log (`http/chat/`), live streams (`node/chat.rs`).

mod accounts;
pub mod blank;
mod feed;
mod flaws;
pub mod names;
mod reads;
mod saved;
mod state;
mod talk;
#[cfg(test)]
mod tests;
pub mod words;

pub use feed::Event;
#[cfg(test)]
pub use flaws::Flaws;
pub use state::Chat;
pub use talk::{Kind, Message, Talk};
pub use words::{AccountId, Answer, Command, ConversationId, Name, Query, Refusal, Target, TokenHash, View};
