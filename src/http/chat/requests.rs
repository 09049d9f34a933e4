//! What all paths of the chat share: tokens, bodies, refusals of the service as errors.
//!
//! Not here: what any path does (`accounts.rs`, `conversations.rs`).

use crate::http::outcome::{answered, refused, unexpected};
use crate::http::password_hasher::hash_token;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::head::Head;
use crate::http::protocol::params;
use crate::http::request::Request;
use crate::http::server::Server;
use crate::node::{Ack, Level, Operation};
use crate::services::Replicated;
use crate::services::chat::Chat;
use crate::services::chat::{Answer, Command, Query, Refusal, TokenHash, View};
use crate::services::sessions::Tag;
use crate::types::Index;
use serde::de::DeserializeOwned;

/// Value of `WWW-Authenticate` where a token is missing or no longer valid.
const AUTHENTICATE: &str = "Bearer realm=\"chat\"";

/// The hash of the token of a request. It has a header of its own; `Authorization` is for the password of the cluster,
/// and accepted for the token where there is no such password.
pub(crate) fn token(head: &Head) -> Result<TokenHash, ApiError> {
    let bearer = || {
        let (scheme, token) = head.authorization.as_deref()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    match head.chat_token.as_deref().or_else(bearer) {
        Some(token) if !token.is_empty() => Ok(hash_token(token)),
        _ => Err(ApiError::refused(401, "not logged in: the request needs the header X-Phalanx-Chat-Token: TOKEN")
            .with("WWW-Authenticate", AUTHENTICATE)),
    }
}

/// A body of JSON; an empty one is `{}`.
pub(crate) fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    params::object(body)
}

/// A number in a path.
pub(crate) fn number(text: &str) -> Result<u64, ApiError> {
    params::digits(text).ok_or_else(|| ApiError::refused(400, "the ids of conversations and messages are numbers"))
}

/// Runs a command, once if it has a tag.
pub(crate) fn run(server: &Server, tag: Option<Tag>, command: &Command) -> Result<(Index, Answer), ApiError> {
    let work = Operation::Command { tag, command: Chat::encode_command(command), ack: Ack::Applied };
    let (index, bytes) = answered(server.host.ask(work, server.deadline()))?;
    match Answer::decode(&bytes) {
        Some(Answer::Refused(why)) => Err(refusal(&why)),
        Some(answer) => Ok((index, answer)),
        None => Err(unexpected()),
    }
}

/// Queries the service at the level of the request.
pub(crate) fn ask(request: &Request, query: &Query) -> Result<(Index, View), ApiError> {
    let (index, bytes) = request.read(Chat::encode_query(query), request.level()?)?;
    Ok((index, view(&bytes)?))
}

/// Queries the service at this level.
pub(crate) fn ask_at(server: &Server, level: Level, query: &Query) -> Result<(Index, View), ApiError> {
    let (index, bytes) = answered(server.host.query(Chat::encode_query(query), level, server.deadline()))?;
    Ok((index, view(&bytes)?))
}

fn view(reply: &[u8]) -> Result<View, ApiError> {
    match View::decode(reply) {
        Some(View::Refused(why)) => Err(refusal(&why)),
        Some(view) => Ok(view),
        None => Err(unexpected()),
    }
}

/// A refusal of the service as an error.
pub(crate) fn refusal(why: &Refusal) -> ApiError {
    let error = refused(why);
    match why {
        Refusal::Slow { retry_ms } => error.retry_after(*retry_ms),
        _ if error.status == 401 => error.with("WWW-Authenticate", AUTHENTICATE),
        _ => error,
    }
}
