//! `/v1/chat`: accounts, rooms and direct messages in JSON, and the stream of what happens.
//!
//! The tour: this file sends each path to who answers it; `accounts.rs` makes accounts and log-ins, with `passwords.rs` for the hashes;
//! `talk.rs` does all that somebody who is logged in can do; `words.rs` holds what the two share; `stream.rs` never ends.
//! A client shows its token as `Authorization: Bearer ...`; there are no cookies, so no page of another site can act for
//! anybody, and pages of the cluster's other nodes may use this door like its own (docs/chat.md).
//! Not here: which path is which (`http/paths.rs`), what a command does (`services/chat/`).

mod accounts;
pub(super) mod passwords;
pub(super) mod stream;
mod talk;
mod words;

use super::parse::Head;
use super::reply::Reply;
use super::routes::Indexed;
use super::server::Door;

/// What a path below `/v1/chat/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
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
pub(super) fn answer(door: &Door, place: Place, is_read: bool, head: &Head, body: &[u8]) -> Indexed {
    let answered = match place {
        Place::Accounts if is_read => talk::accounts(door, head),
        Place::Accounts => accounts::create(door, head, body),
        Place::Account => talk::delete_account(door, head, body),
        Place::Me => talk::me(door, head),
        Place::LogIn => accounts::log_in(door, body),
        Place::LogOut => talk::log_out(door, head, body),
        Place::Direct => talk::direct(door, head, body),
        Place::Rooms if is_read => talk::rooms(door, head),
        Place::Rooms => talk::make_room(door, head, body),
        Place::Join(id) => talk::join(door, head, id, body),
        Place::Leave(id) => talk::leave(door, head, id, body),
        Place::Members(id) => talk::members(door, head, id),
        Place::Messages => talk::send(door, head, body),
        Place::Conversations => talk::inbox(door, head),
        Place::Conversation(id) => talk::one(door, head, id),
        Place::History(id) => talk::history(door, head, id),
        Place::Message(id, number) => talk::erase(door, head, id, number, body),
        Place::Read(id) => talk::mark(door, head, id, body),
        Place::Stream => Err(Reply::refused(404, "nothing is served at this path")),
    };
    answered.unwrap_or_else(Indexed::from)
}
