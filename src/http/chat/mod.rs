//! `/v1/chat`: accounts, rooms and direct messages in JSON, and the event stream.
//!
//! The tour: `accounts.rs` creates accounts and log-ins, with `http/password_hasher.rs` for the hashes;
//! `conversations.rs` holds what a logged-in user can do; `requests.rs` holds what the two share; `stream.rs` is the
//! endless event stream. A client sends its token as `Authorization: Bearer ...`; there are no cookies, so a page of
//! another site cannot act as a user, and pages of the cluster's other nodes may use this server like their own
//! (docs/chat.md).
//! Not here: the routes (`http/routes.rs`), what a command does (`services/chat/`).

pub(crate) mod accounts;
pub(crate) mod conversations;
pub(crate) mod stream;

mod requests;
