//! What a logged-in user can do: send and read messages, list conversations and rooms, and leave.
//!
//! Every change carries the token's hash into the log, and the service checks there that the token is still valid: a
//! user who was logged out on another node cannot send a message through this one.
//! Not here: logging in (`accounts.rs`), the stream (`stream.rs`).

use super::requests::{ask, body, number, refusal, run, token};
use crate::http::outcome::unexpected;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::idempotency;
use crate::http::protocol::params::Params;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::node::views::chat_lines::{message_json, row_json};
use crate::services::chat::commands::{Listing, PAGE_MAX};
use crate::services::chat::{Answer, Command, Query, Refusal, Target, TokenHash, View, invisible_chars, names};
use crate::types::Index;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Rows of a page when the request names no limit.
const LIMIT: u64 = 50;

fn done(index: Index, body: &Json) -> ApiResult {
    Ok(Response::json(200, body).at(index))
}

/// Runs a command. The `Idempotency-Key` belongs to the token's owner: requests of two users are distinct even under
/// the same key.
fn change(request: &Request, token: &TokenHash, command: &Command) -> Result<(Index, Answer), ApiError> {
    run(request.server, idempotency::tag_for(request.head, token, request.body)?, command)
}

/// An empty body, or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmptyBody {}

pub(crate) fn me(request: &Request) -> ApiResult {
    match ask(request, &Query::Me(token(request.head)?))? {
        (index, View::Me { account, name, position, .. }) => {
            done(index, &json!({"account": account, "name": name, "position": position}))
        }
        _ => Err(unexpected()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogOut {
    #[serde(default)]
    everywhere: bool,
}

pub(crate) fn log_out(request: &Request) -> ApiResult {
    let (token, LogOut { everywhere }) = (token(request.head)?, body(request.body)?);
    let (index, _) = change(request, &token, &Command::LogOut { token, everywhere })?;
    done(index, &json!({"logged_out": true}))
}

pub(crate) fn delete_account(request: &Request) -> ApiResult {
    let (token, EmptyBody {}) = (token(request.head)?, body(request.body)?);
    let (index, _) = change(request, &token, &Command::Delete { token })?;
    done(index, &json!({"deleted": true}))
}

fn conversation(index: Index, answer: Answer) -> ApiResult {
    match answer {
        Answer::Conversation { id, was_there } => done(index, &json!({"conversation": id, "was_there": was_there})),
        _ => Err(unexpected()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Direct {
    with: String,
}

pub(crate) fn direct(request: &Request) -> ApiResult {
    let (token, Direct { with }) = (token(request.head)?, body(request.body)?);
    let (index, answer) = change(request, &token, &Command::Direct { token, with: names::key_of(&with) })?;
    conversation(index, answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRoom {
    name: String,
}

pub(crate) fn make_room(request: &Request) -> ApiResult {
    let (token, NewRoom { name }) = (token(request.head)?, body(request.body)?);
    let name = names::room(&name).map_err(|why| ApiError::refused(400, why))?;
    let (index, answer) = change(request, &token, &Command::MakeRoom { token, name })?;
    conversation(index, answer)
}

pub(crate) fn join(request: &Request) -> ApiResult {
    let (token, EmptyBody {}) = (token(request.head)?, body(request.body)?);
    let (index, answer) = change(request, &token, &Command::Join { token, room: number(request.args.0)? })?;
    conversation(index, answer)
}

pub(crate) fn leave(request: &Request) -> ApiResult {
    let (token, EmptyBody {}) = (token(request.head)?, body(request.body)?);
    let (index, _) = change(request, &token, &Command::Leave { token, room: number(request.args.0)? })?;
    done(index, &json!({"left": true}))
}

/// Body of `POST /v1/chat/messages`: one of the first three fields names the target.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    conversation: Option<u64>,
    with: Option<String>,
    room: Option<String>,
    text: String,
    client_id: Option<String>,
}

pub(crate) fn send(request: &Request) -> ApiResult {
    let token = token(request.head)?;
    let NewMessage { conversation, with, room, text, client_id } = body(request.body)?;
    let to = match (conversation, with, room) {
        (Some(id), None, None) => Target::Conversation(id),
        (None, Some(name), None) => Target::Account(names::key_of(&name)),
        (None, None, Some(name)) => Target::Room(names::key_of(name.strip_prefix('#').unwrap_or(&name))),
        _ => return Err(ApiError::refused(400, "exactly one of conversation, with and room is required")),
    };
    if !invisible_chars::has_visible_text(&text) {
        return Err(refusal(&Refusal::BadText("a message cannot be empty".to_string())));
    }
    match change(request, &token, &Command::Post { token, to, text, client_id })? {
        (index, Answer::Sent { conversation, number, position, is_repeat }) => done(
            index,
            &json!({"conversation": conversation, "number": number, "position": position, "is_repeat": is_repeat}),
        ),
        _ => Err(unexpected()),
    }
}

pub(crate) fn erase(request: &Request) -> ApiResult {
    let (token, EmptyBody {}) = (token(request.head)?, body(request.body)?);
    let command = Command::Erase { token, conversation: number(request.args.0)?, number: number(request.args.1)? };
    let (index, _) = change(request, &token, &command)?;
    done(index, &json!({"deleted": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    number: u64,
}

pub(crate) fn mark(request: &Request) -> ApiResult {
    let (token, mark) = (token(request.head)?, body::<Mark>(request.body)?);
    let command = Command::Mark { token, conversation: number(request.args.0)?, number: mark.number };
    let (index, _) = change(request, &token, &command)?;
    done(index, &json!({"read": mark.number}))
}

fn rows(request: &Request, query: &Query) -> Result<(Index, u64, Vec<Json>), ApiError> {
    match ask(request, query)? {
        (index, View::Inbox { position, rows }) => Ok((index, position, rows.iter().map(row_json).collect())),
        _ => Err(unexpected()),
    }
}

pub(crate) fn inbox(request: &Request) -> ApiResult {
    let (index, position, rows) = rows(request, &Query::Inbox(token(request.head)?))?;
    done(index, &json!({"position": position, "conversations": rows}))
}

pub(crate) fn one(request: &Request) -> ApiResult {
    let (index, _, mut rows) = rows(request, &Query::One(token(request.head)?, number(request.args.0)?))?;
    done(index, &rows.pop().ok_or_else(unexpected)?)
}

fn limit(params: &Params) -> Result<u64, ApiError> {
    match params.number("limit")?.unwrap_or(LIMIT) {
        limit if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        _ => Err(ApiError::refused(400, format!("limit must be 1 to {PAGE_MAX}"))),
    }
}

pub(crate) fn history(request: &Request) -> ApiResult {
    let params = request.params();
    let (before, after) = (params.number("before")?, params.number("after")?);
    let query = Query::History {
        token: token(request.head)?,
        conversation: number(request.args.0)?,
        before,
        after,
        limit: limit(&params)?,
    };
    match ask(request, &query)? {
        (index, View::History { messages, oldest, newest }) => {
            let messages: Vec<Json> = messages.iter().map(message_json).collect();
            done(index, &json!({"messages": messages, "oldest": oldest, "newest": newest}))
        }
        _ => Err(unexpected()),
    }
}

/// A parameter as text.
fn text(params: &Params, name: &str) -> Result<Option<String>, ApiError> {
    let Some(bytes) = params.bytes(name)? else { return Ok(None) };
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= 1024);
    text.map(Some).ok_or_else(|| ApiError::refused(400, format!("{name} must be text of at most 1024 bytes")))
}

fn listing(request: &Request) -> Result<Listing, ApiError> {
    let params = request.params();
    let pattern = text(&params, "match")?.map_or("*".to_string(), |pattern| names::pattern_of(&pattern));
    let after = text(&params, "after")?.unwrap_or_default();
    Ok(Listing { token: token(request.head)?, pattern, after, limit: limit(&params)? })
}

/// A page of names; `next` is the `after` of the next page.
fn names_page(request: &Request, query: &Query, what: &str, id_name: &str) -> ApiResult {
    let (index, View::Names { rows, is_full }) = ask(request, query)? else { return Err(unexpected()) };
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

pub(crate) fn accounts(request: &Request) -> ApiResult {
    names_page(request, &Query::Accounts(listing(request)?), "accounts", "account")
}

pub(crate) fn rooms(request: &Request) -> ApiResult {
    names_page(request, &Query::Rooms(listing(request)?), "rooms", "conversation")
}

pub(crate) fn members(request: &Request) -> ApiResult {
    let params = request.params();
    let (after, limit) = (params.number("after")?.unwrap_or(0), limit(&params)?);
    let query = Query::Members { token: token(request.head)?, room: number(request.args.0)?, after, limit };
    names_page(request, &query, "members", "account")
}
