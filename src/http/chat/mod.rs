//! `/v1/chat`: accounts, rooms and direct messages in JSON, and the stream of what happens.
//!
//! The tour: this file sends each path to who answers it; `accounts.rs` makes accounts and log-ins, with `http/password_hasher.rs` for the hashes;
//! `conversations.rs` does all that somebody who is logged in can do; `requests.rs` holds what the two share; `stream.rs` never ends.
//! A client shows its token as `Authorization: Bearer ...`; there are no cookies, so no page of another site can act for
//! anybody, and pages of the cluster's other nodes may use this door like its own (docs/chat.md).
//! Not here: which path is which (`http/paths.rs`), what a command does (`services/chat/`).

mod accounts;
mod conversations;
mod requests;
pub(crate) mod stream;

use super::acceptor::Door;
use super::protocol::parse::Head;
use super::protocol::reply::Reply;
use super::routes::Indexed;

/// What a path below `/v1/chat/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    Accounts,
    Account,
    Me,
    LogIn,
    LogOut,
    Direct,
    Rooms,
    Join(&'a str),
    Leave(&'a str),
    Members(&'a str),
    Messages,
    Conversations,
    Conversation(&'a str),
    History(&'a str),
    Message(&'a str, &'a str),
    Read(&'a str),
    Stream,
}

/// Answers everything but the stream.
pub(crate) fn answer(door: &Door, place: Place, is_read: bool, head: &Head, body: &[u8]) -> Indexed {
    let answered = match place {
        Place::Accounts if is_read => conversations::accounts(door, head),
        Place::Accounts => accounts::create(door, head, body),
        Place::Account => conversations::delete_account(door, head, body),
        Place::Me => conversations::me(door, head),
        Place::LogIn => accounts::log_in(door, body),
        Place::LogOut => conversations::log_out(door, head, body),
        Place::Direct => conversations::direct(door, head, body),
        Place::Rooms if is_read => conversations::rooms(door, head),
        Place::Rooms => conversations::make_room(door, head, body),
        Place::Join(id) => conversations::join(door, head, id, body),
        Place::Leave(id) => conversations::leave(door, head, id, body),
        Place::Members(id) => conversations::members(door, head, id),
        Place::Messages => conversations::send(door, head, body),
        Place::Conversations => conversations::inbox(door, head),
        Place::Conversation(id) => conversations::one(door, head, id),
        Place::History(id) => conversations::history(door, head, id),
        Place::Message(id, number) => conversations::erase(door, head, id, number, body),
        Place::Read(id) => conversations::mark(door, head, id, body),
        Place::Stream => Err(Reply::refused(404, "nothing is served at this path")),
    };
    answered.unwrap_or_else(Indexed::from)
}
