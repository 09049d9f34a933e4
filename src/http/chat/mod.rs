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

use super::protocol::parse::Head;
use super::protocol::reply::Reply;
use super::routes::Indexed;
use super::server::Server;

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
pub(crate) fn answer(server: &Server, place: Place, is_read: bool, head: &Head, body: &[u8]) -> Indexed {
    let answered = match place {
        Place::Accounts if is_read => conversations::accounts(server, head),
        Place::Accounts => accounts::create(server, head, body),
        Place::Account => conversations::delete_account(server, head, body),
        Place::Me => conversations::me(server, head),
        Place::LogIn => accounts::log_in(server, body),
        Place::LogOut => conversations::log_out(server, head, body),
        Place::Direct => conversations::direct(server, head, body),
        Place::Rooms if is_read => conversations::rooms(server, head),
        Place::Rooms => conversations::make_room(server, head, body),
        Place::Join(id) => conversations::join(server, head, id, body),
        Place::Leave(id) => conversations::leave(server, head, id, body),
        Place::Members(id) => conversations::members(server, head, id),
        Place::Messages => conversations::send(server, head, body),
        Place::Conversations => conversations::inbox(server, head),
        Place::Conversation(id) => conversations::one(server, head, id),
        Place::History(id) => conversations::history(server, head, id),
        Place::Message(id, number) => conversations::erase(server, head, id, number, body),
        Place::Read(id) => conversations::mark(server, head, id, body),
        Place::Stream => Err(Reply::refused(404, "nothing is served at this path")),
    };
    answered.unwrap_or_else(Indexed::from)
}
