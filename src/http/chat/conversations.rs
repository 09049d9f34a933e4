//! What somebody who is logged in can do: talk, read, look around, and go.
//!
//! Every change carries the token's hash into the log, and the service looks there whether it still holds: nobody who was logged
//! out on another node can slip a message in.
//! Not here: logging in (`accounts.rs`), the stream (`stream.rs`).

use super::requests::{ask, body, number, refusal, run, token};
use crate::http::api::kv::strange;
use crate::http::protocol::idempotency;
use crate::http::protocol::params::Params;
use crate::http::protocol::parse::Head;
use crate::http::protocol::reply::Reply;
use crate::http::routes::Indexed;
use crate::http::server::Server;
use crate::node::views::chat_lines::{row_json, said_json};
use crate::services::chat::commands::{Listing, PAGE_MAX};
use crate::services::chat::{Answer, Command, Query, Refusal, Target, TokenHash, View, invisible_chars, names};
use crate::services::sessions::Tag;
use crate::types::Index;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Rows of a page when nobody says how many.
const LIMIT: u64 = 50;

type Answered = Result<Indexed, Reply>;

fn done(index: Index, body: &Json) -> Answered {
    Ok(Indexed { reply: Reply::json(200, body), index: Some(index.0) })
}

/// The request's tag: two people's requests are two, whatever key they chose.
fn tag(head: &Head, token: &TokenHash, bytes: &[u8]) -> Result<Option<Tag>, Reply> {
    idempotency::tag_for(head, token, bytes)
}

fn change(
    server: &Server,
    head: &Head,
    token: &TokenHash,
    bytes: &[u8],
    command: &Command,
) -> Result<(Index, Answer), Reply> {
    run(server, tag(head, token, bytes)?, command)
}

/// An empty body, or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(crate) fn me(server: &Server, head: &Head) -> Answered {
    match ask(server, head, &Query::Me(token(head)?))? {
        (index, View::Me { account, name, position, .. }) => {
            done(index, &json!({"account": account, "name": name, "position": position}))
        }
        _ => Err(strange()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogOut {
    #[serde(default)]
    everywhere: bool,
}

pub(crate) fn log_out(server: &Server, head: &Head, bytes: &[u8]) -> Answered {
    let (token, LogOut { everywhere }) = (token(head)?, body(bytes)?);
    let (index, _) = change(server, head, &token, bytes, &Command::LogOut { token, everywhere })?;
    done(index, &json!({"logged_out": true}))
}

pub(crate) fn delete_account(server: &Server, head: &Head, bytes: &[u8]) -> Answered {
    let (token, Nothing {}) = (token(head)?, body(bytes)?);
    let (index, _) = change(server, head, &token, bytes, &Command::Delete { token })?;
    done(index, &json!({"deleted": true}))
}

fn conversation(index: Index, answer: Answer) -> Answered {
    match answer {
        Answer::Conversation { id, was_there } => done(index, &json!({"conversation": id, "was_there": was_there})),
        _ => Err(strange()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Direct {
    with: String,
}

pub(crate) fn direct(server: &Server, head: &Head, bytes: &[u8]) -> Answered {
    let (token, Direct { with }) = (token(head)?, body(bytes)?);
    let (index, answer) = change(server, head, &token, bytes, &Command::Direct { token, with: names::key_of(&with) })?;
    conversation(index, answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRoom {
    name: String,
}

pub(crate) fn make_room(server: &Server, head: &Head, bytes: &[u8]) -> Answered {
    let (token, NewRoom { name }) = (token(head)?, body(bytes)?);
    let name = names::room(&name).map_err(|why| Reply::refused(400, &why))?;
    let (index, answer) = change(server, head, &token, bytes, &Command::MakeRoom { token, name })?;
    conversation(index, answer)
}

pub(crate) fn join(server: &Server, head: &Head, id: &str, bytes: &[u8]) -> Answered {
    let (token, Nothing {}) = (token(head)?, body(bytes)?);
    let (index, answer) = change(server, head, &token, bytes, &Command::Join { token, room: number(id)? })?;
    conversation(index, answer)
}

pub(crate) fn leave(server: &Server, head: &Head, id: &str, bytes: &[u8]) -> Answered {
    let (token, Nothing {}) = (token(head)?, body(bytes)?);
    let (index, _) = change(server, head, &token, bytes, &Command::Leave { token, room: number(id)? })?;
    done(index, &json!({"left": true}))
}

/// Body of `POST /v1/chat/messages`: one of the first three says where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    conversation: Option<u64>,
    with: Option<String>,
    room: Option<String>,
    text: String,
    client_id: Option<String>,
}

pub(crate) fn send(server: &Server, head: &Head, bytes: &[u8]) -> Answered {
    let token = token(head)?;
    let NewMessage { conversation, with, room, text, client_id } = body(bytes)?;
    let to = match (conversation, with, room) {
        (Some(id), None, None) => Target::Conversation(id),
        (None, Some(name), None) => Target::Account(names::key_of(&name)),
        (None, None, Some(name)) => Target::Room(names::key_of(name.strip_prefix('#').unwrap_or(&name))),
        _ => return Err(Reply::refused(400, "say where with one of conversation, with and room")),
    };
    if !invisible_chars::says_something(&text) {
        return Err(refusal(server, &Refusal::BadText("a message says something".to_string())));
    }
    match change(server, head, &token, bytes, &Command::Send { token, to, text, client_id })? {
        (index, Answer::Sent { conversation, number, position, is_repeat }) => done(
            index,
            &json!({"conversation": conversation, "number": number, "position": position, "is_repeat": is_repeat}),
        ),
        _ => Err(strange()),
    }
}

pub(crate) fn erase(server: &Server, head: &Head, id: &str, message: &str, bytes: &[u8]) -> Answered {
    let (token, Nothing {}) = (token(head)?, body(bytes)?);
    let command = Command::Erase { token, conversation: number(id)?, number: number(message)? };
    let (index, _) = change(server, head, &token, bytes, &command)?;
    done(index, &json!({"deleted": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    number: u64,
}

pub(crate) fn mark(server: &Server, head: &Head, id: &str, bytes: &[u8]) -> Answered {
    let (token, mark) = (token(head)?, body::<Mark>(bytes)?);
    let command = Command::Mark { token, conversation: number(id)?, number: mark.number };
    let (index, _) = change(server, head, &token, bytes, &command)?;
    done(index, &json!({"read": mark.number}))
}

fn rows(server: &Server, head: &Head, query: &Query) -> Result<(Index, u64, Vec<Json>), Reply> {
    match ask(server, head, query)? {
        (index, View::Inbox { position, rows }) => Ok((index, position, rows.iter().map(row_json).collect())),
        _ => Err(strange()),
    }
}

pub(crate) fn inbox(server: &Server, head: &Head) -> Answered {
    let (index, position, rows) = rows(server, head, &Query::Inbox(token(head)?))?;
    done(index, &json!({"position": position, "conversations": rows}))
}

pub(crate) fn one(server: &Server, head: &Head, id: &str) -> Answered {
    let (index, _, mut rows) = rows(server, head, &Query::One(token(head)?, number(id)?))?;
    done(index, &rows.pop().ok_or_else(strange)?)
}

fn limit(params: &Params) -> Result<u64, Reply> {
    match params.number("limit")?.unwrap_or(LIMIT) {
        limit if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        _ => Err(Reply::refused(400, &format!("limit is 1 to {PAGE_MAX}"))),
    }
}

pub(crate) fn history(server: &Server, head: &Head, id: &str) -> Answered {
    let params = Params::of(head);
    let (before, after) = (params.number("before")?, params.number("after")?);
    let query =
        Query::History { token: token(head)?, conversation: number(id)?, before, after, limit: limit(&params)? };
    match ask(server, head, &query)? {
        (index, View::History { messages, oldest, newest }) => {
            let messages: Vec<Json> = messages.iter().map(said_json).collect();
            done(index, &json!({"messages": messages, "oldest": oldest, "newest": newest}))
        }
        _ => Err(strange()),
    }
}

/// A parameter that is text.
fn text(params: &Params, name: &str) -> Result<Option<String>, Reply> {
    let Some(bytes) = params.bytes(name)? else { return Ok(None) };
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= 1024);
    text.map(Some).ok_or_else(|| Reply::refused(400, &format!("{name} is text of at most 1024 bytes")))
}

fn listing(head: &Head) -> Result<Listing, Reply> {
    let params = Params::of(head);
    let pattern = text(&params, "match")?.map_or("*".to_string(), |pattern| names::pattern_of(&pattern));
    let after = text(&params, "after")?.unwrap_or_default();
    Ok(Listing { token: token(head)?, pattern, after, limit: limit(&params)? })
}

/// A page of names; `next` is what `after` says for the next one.
fn names_page(server: &Server, head: &Head, query: &Query, what: &str, id_name: &str) -> Answered {
    let (index, View::Names { rows, is_full }) = ask(server, head, query)? else { return Err(strange()) };
    let next = rows.last().filter(|_| is_full).map(|last| match query {
        Query::Members { .. } => last.id.to_string(),
        _ => last.key.clone(),
    });
    let rows = rows.into_iter().map(|row| {
        let mut shown = json!({id_name: row.id, "name": row.name});
        if what == "rooms" {
            shown["members"] = row.members.into();
            shown["is_mine"] = row.is_mine.into();
        }
        shown
    });
    done(index, &json!({what: rows.collect::<Vec<_>>(), "next": next}))
}

pub(crate) fn accounts(server: &Server, head: &Head) -> Answered {
    names_page(server, head, &Query::Accounts(listing(head)?), "accounts", "account")
}

pub(crate) fn rooms(server: &Server, head: &Head) -> Answered {
    names_page(server, head, &Query::Rooms(listing(head)?), "rooms", "conversation")
}

pub(crate) fn members(server: &Server, head: &Head, id: &str) -> Answered {
    let params = Params::of(head);
    let (after, limit) = (params.number("after")?.unwrap_or(0), limit(&params)?);
    let query = Query::Members { token: token(head)?, room: number(id)?, after, limit };
    names_page(server, head, &query, "members", "account")
}
