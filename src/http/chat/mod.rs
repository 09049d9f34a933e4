//! `/v1/chat`: accounts, rooms and direct messages in JSON, and the stream of what happens.
//!
//! The tour: `accounts.rs` makes accounts and log-ins, with `http/password_hasher.rs` for the hashes; `conversations.rs`
//! does all that somebody who is logged in can do; `requests.rs` holds what the two share; `stream.rs` never ends.
//! A client shows its token as `Authorization: Bearer ...`; there are no cookies, so no page of another site can act for
//! anybody, and pages of the cluster's other nodes may use this server like their own (docs/chat.md).
//! Not here: which path is which (`http/routes.rs`), what a command does (`services/chat/`).

pub(crate) mod accounts;
pub(crate) mod conversations;
pub(crate) mod stream;

mod requests;
