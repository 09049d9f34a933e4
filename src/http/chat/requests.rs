//! What all of the chat's paths share: who asks, bodies, answers of the service as statuses.
//!
//! Not here: what any path does (`accounts.rs`, `conversations.rs`).

use crate::http::api::kv::strange;
use crate::http::api::{failed, level};
use crate::http::password_hasher::hash_token;
use crate::http::protocol::params;
use crate::http::protocol::parse::Head;
use crate::http::protocol::reply::Reply;
use crate::http::server::Server;
use crate::node::{Ack, Level, Work};
use crate::services::chat::{Answer, Command, Query, Refusal, TokenHash, View};
use crate::services::sessions::Tag;
use crate::services::{self, registry};
use crate::types::{Index, Outcome};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The hash of the token that a request shows.
pub(crate) fn token(head: &Head) -> Result<TokenHash, Reply> {
    let given = head.authorization.as_deref().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match given {
        Some(token) if !token.is_empty() => Ok(hash_token(token)),
        _ => Err(Reply::refused(401, "log in, and send Authorization: Bearer TOKEN")
            .with("WWW-Authenticate", "Bearer realm=\"chat\"")),
    }
}

/// A body of JSON; an empty one is `{}`.
pub(crate) fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    let body = if body.is_empty() { b"{}" } else { body };
    params::object(body)
}

/// A number in a path.
pub(crate) fn number(text: &str) -> Result<u64, Reply> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| Reply::refused(400, "a conversation and a message have numbers"))
}

/// Carries a command out, once if it has a tag.
pub(crate) fn run(server: &Server, tag: Option<Tag>, command: &Command) -> Result<(Index, Answer), Reply> {
    let work = Work::Command { tag, command: registry::chat_command(command), ack: Ack::Applied };
    match server.host.ask(work, server.deadline()) {
        Outcome::Done((index, services::Reply::Ok(bytes))) => match Answer::decode(&bytes) {
            Some(Answer::Refused(why)) => Err(refusal(server, &why)),
            Some(answer) => Ok((index, answer)),
            None => Err(strange()),
        },
        Outcome::Done((_, services::Reply::Failed(why))) => Err(Reply::error(400, &why, "refused", server.leader())),
        other => Err(failed(server, other)),
    }
}

/// Asks the service, as fresh as the request says.
pub(crate) fn ask(server: &Server, head: &Head, query: &Query) -> Result<(Index, View), Reply> {
    ask_at(server, level(head)?, query)
}

/// The same at a level.
pub(crate) fn ask_at(server: &Server, level: Level, query: &Query) -> Result<(Index, View), Reply> {
    match server.host.query(registry::chat_query(query), level, server.deadline()) {
        Outcome::Done((index, services::Reply::Ok(bytes))) => match View::decode(&bytes) {
            Some(View::Refused(why)) => Err(refusal(server, &why)),
            Some(view) => Ok((index, view)),
            None => Err(strange()),
        },
        Outcome::Done((_, services::Reply::Failed(why))) => Err(Reply::error(400, &why, "refused", server.leader())),
        other => Err(failed(server, other)),
    }
}

/// A refusal of the service as an answer.
pub(crate) fn refusal(server: &Server, why: &Refusal) -> Reply {
    let status = match why {
        Refusal::NotLoggedIn | Refusal::WrongLogIn => 401,
        Refusal::Slow { .. } => 429,
        Refusal::NotMember | Refusal::NotYours => 403,
        Refusal::NoSuchAccount | Refusal::NoSuchRoom | Refusal::NoSuchConversation | Refusal::NoSuchMessage => 404,
        Refusal::NameTaken | Refusal::OtherIsGone | Refusal::ClientIdReused | Refusal::Full(_) => 409,
        Refusal::TooLong(_) => 413,
        Refusal::BadName(_) | Refusal::BadText(_) | Refusal::Malformed(_) | Refusal::Yourself | Refusal::NotARoom => {
            400
        }
    };
    let retry_after_ms = match why {
        Refusal::Slow { retry_ms } => Some(*retry_ms),
        _ => None,
    };
    let body = json!({
        "error": why.to_string(), "outcome": "refused", "leader": server.leader(), "retry_after_ms": retry_after_ms,
    });
    let reply = Reply::json(status, &body);
    match (retry_after_ms, status) {
        (Some(ms), _) => reply.with("Retry-After", ms.div_ceil(1000).to_string()),
        (None, 401) => reply.with("WWW-Authenticate", "Bearer realm=\"chat\""),
        _ => reply,
    }
}
