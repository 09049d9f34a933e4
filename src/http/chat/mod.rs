//! `/v1/chat`: accounts, rooms and direct messages in JSON, and the stream of what happens.
//!
//! The tour: this file says which path is which; `accounts.rs` makes accounts and log-ins, with `passwords.rs` for the hashes;
//! `talk.rs` does all that somebody who is logged in can do; `words.rs` holds what the two share; `stream.rs` never ends.
//! A client shows its token as `Authorization: Bearer ...`; there are no cookies, so no page of another site can act for
//! anybody, and pages of the cluster's other nodes may use this door like its own (docs/chat.md).
//! Not here: what a command does (`services/chat/`).

mod accounts;
pub(super) mod passwords;
pub(super) mod stream;
mod talk;
mod words;

use super::parse::{Head, Method};
use super::reply::Reply;
use super::routes::Indexed;
use super::server::Door;

/// Methods of a path below `/v1/chat/`; `None`: there is no such path.
pub(super) fn allow(path: &str) -> Option<&'static str> {
    Some(match Place::of(path)? {
        Place::Accounts | Place::Rooms => "GET, HEAD, POST",
        Place::Account => "DELETE",
        Place::LogIn | Place::LogOut | Place::Direct | Place::Messages => "POST",
        Place::Join(_) | Place::Leave(_) | Place::Read(_) => "POST",
        Place::Message(..) => "DELETE",
        Place::Me | Place::Conversations | Place::Conversation(_) | Place::History(_) | Place::Members(_) => {
            "GET, HEAD"
        }
        Place::Stream => "GET, HEAD",
    })
}

/// Whether it is the path of the stream.
pub(super) fn is_stream(path: &str) -> bool {
    path == "stream"
}

/// What a path below `/v1/chat/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
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

impl Place<'_> {
    fn of(path: &str) -> Option<Place<'_>> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match parts[..] {
            ["accounts"] => Place::Accounts,
            ["account"] => Place::Account,
            ["me"] => Place::Me,
            ["login"] => Place::LogIn,
            ["logout"] => Place::LogOut,
            ["direct"] => Place::Direct,
            ["rooms"] => Place::Rooms,
            ["rooms", id, "join"] => Place::Join(id),
            ["rooms", id, "leave"] => Place::Leave(id),
            ["rooms", id, "members"] => Place::Members(id),
            ["messages"] => Place::Messages,
            ["conversations"] => Place::Conversations,
            ["conversations", id] => Place::Conversation(id),
            ["conversations", id, "messages"] => Place::History(id),
            ["conversations", id, "messages", number] => Place::Message(id, number),
            ["conversations", id, "read"] => Place::Read(id),
            ["stream"] => Place::Stream,
            _ => return None,
        })
    }
}

/// Answers everything but the stream.
pub(super) fn answer(door: &Door, path: &str, method: Method, head: &Head, body: &[u8]) -> Indexed {
    let is_read = matches!(method, Method::Get | Method::Head);
    let answered = match Place::of(path) {
        Some(Place::Accounts) if is_read => talk::accounts(door, head),
        Some(Place::Accounts) => accounts::create(door, head, body),
        Some(Place::Account) => talk::delete_account(door, head, body),
        Some(Place::Me) => talk::me(door, head),
        Some(Place::LogIn) => accounts::log_in(door, body),
        Some(Place::LogOut) => talk::log_out(door, head, body),
        Some(Place::Direct) => talk::direct(door, head, body),
        Some(Place::Rooms) if is_read => talk::rooms(door, head),
        Some(Place::Rooms) => talk::make_room(door, head, body),
        Some(Place::Join(id)) => talk::join(door, head, id, body),
        Some(Place::Leave(id)) => talk::leave(door, head, id, body),
        Some(Place::Members(id)) => talk::members(door, head, id),
        Some(Place::Messages) => talk::send(door, head, body),
        Some(Place::Conversations) => talk::inbox(door, head),
        Some(Place::Conversation(id)) => talk::one(door, head, id),
        Some(Place::History(id)) => talk::history(door, head, id),
        Some(Place::Message(id, number)) => talk::erase(door, head, id, number, body),
        Some(Place::Read(id)) => talk::mark(door, head, id, body),
        Some(Place::Stream) | None => Err(Reply::refused(404, "nothing is served at this path")),
    };
    answered.unwrap_or_else(Indexed::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exact_and_say_what_they_take() {
        assert_eq!(Place::of("conversations/7/messages/3"), Some(Place::Message("7", "3")));
        assert_eq!((allow("rooms"), allow("rooms/1/join")), (Some("GET, HEAD, POST"), Some("POST")));
        for path in ["", "accounts/", "rooms/1", "rooms/1/join/", "conversations/1/messages/2/3", "Stream"] {
            assert_eq!(allow(path), None, "{path}");
        }
    }
}
