//! `/v1/lock`: locks with a time to live and fencing tokens.
//!
//! A token is a number that grows with every lock that is ever taken: whoever guards a resource and remembers the highest
//! token it has seen can turn away a holder whose time ran out without its noticing. Names are escaped like keys.
//! Not here: how long log time runs (`services/kv/locks.rs`), renewing while a command runs (`cli/lock/mod.rs`).

use super::failed;
use super::kv;
use crate::http::api;
use crate::http::protocol::parse::{Head, percent_decode};
use crate::http::protocol::reply::Reply;
use crate::http::protocol::{idempotency, params};
use crate::http::routes::Indexed;
use crate::http::server::Server;
use crate::node::{Ack, Work};
use crate::services::kv::commands::KEY_BYTES_MAX;
use crate::services::kv::{Bytes, Op, Batch, Value};
use crate::services::registry;
use crate::types::Outcome;
use serde::Deserialize;
use serde_json::json;

/// Longest time to live of a lock: a day.
const TTL_MS_MAX: u64 = 86_400_000;
/// Longest advice when to try again for a lock that is held.
const RETRY_MS_MAX: i64 = 1000;

/// What is done with a lock.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    Look,
    Acquire,
    Renew,
    Release,
}

/// Answers `GET /v1/lock/{name}` and `POST /v1/lock/{name}/acquire|renew|release`.
pub(crate) fn answer(server: &Server, lock: &str, act: Act, head: &Head, body: &[u8]) -> Indexed {
    let answered = name(lock).and_then(|name| match act {
        Act::Look => look(server, name, head),
        Act::Acquire => acquire(server, name, head, body),
        Act::Renew => keep(server, name, head, body, true),
        Act::Release => keep(server, name, head, body, false),
    });
    answered.unwrap_or_else(Indexed::from)
}

/// Body of all three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// How long the lock is held unless it is renewed.
    ttl_ms: Option<u64>,
    /// What `acquire` answered.
    token: Option<u64>,
}

fn name(text: &str) -> Result<Bytes, Reply> {
    match percent_decode(text) {
        Some(name) if !name.is_empty() && name.len() <= KEY_BYTES_MAX => Ok(Bytes::from(name)),
        _ => Err(Reply::refused(400, "malformed name of a lock")),
    }
}

fn ttl(body: &Body) -> Result<u64, Reply> {
    let ttl = body.ttl_ms.filter(|ms| (1..=TTL_MS_MAX).contains(ms));
    ttl.ok_or_else(|| Reply::refused(400, &format!("ttl_ms is 1 to {TTL_MS_MAX}")))
}

fn look(server: &Server, name: Bytes, head: &Head) -> Result<Indexed, Reply> {
    let (index, values) = kv::query(server, vec![Op::LockInfo(name)], api::level(head)?, server.deadline())?;
    let reply = match &values[..] {
        [Value::List(parts)] => match &parts[..] {
            [Value::Int(token), Value::Int(ttl_ms)] => Reply::json(200, &json!({"token": token, "ttl_ms": ttl_ms})),
            _ => kv::strange(),
        },
        [Value::Nil] => Reply::error(404, "nobody holds this lock", "refused", server.leader()),
        _ => kv::strange(),
    };
    Ok(Indexed { reply, index: Some(index.0) })
}

fn acquire(server: &Server, name: Bytes, head: &Head, body: &[u8]) -> Result<Indexed, Reply> {
    let parsed = params::object::<Body>(body)?;
    if parsed.token.is_some() {
        return Err(Reply::refused(400, "a token is given by acquire, not taken"));
    }
    let ops = vec![Op::LockAcquire { name: name.clone(), ttl_ms: ttl(&parsed)? }, Op::LockInfo(name)];
    change(server, head, body, ops, |values| match values {
        [Value::Int(token), ..] => Some(Reply::json(200, &json!({"token": token}))),
        [Value::Nil, Value::List(parts)] => {
            let left_ms = match parts.get(1) {
                Some(Value::Int(ms)) => *ms,
                _ => 0,
            };
            let body = json!({
                "error": format!("the lock is held for another {left_ms} ms unless it is renewed"),
                "outcome": "refused", "leader": server.leader(),
                "retry_after_ms": left_ms.clamp(20, RETRY_MS_MAX), "ttl_ms": left_ms,
            });
            Some(Reply::json(409, &body))
        }
        _ => None,
    })
}

fn keep(server: &Server, name: Bytes, head: &Head, body: &[u8], is_renewal: bool) -> Result<Indexed, Reply> {
    let parsed = params::object::<Body>(body)?;
    let token = parsed.token.ok_or_else(|| Reply::refused(400, "token is what acquire answered"))?;
    let op = match is_renewal {
        true => Op::LockRenew { name, token, ttl_ms: ttl(&parsed)? },
        false if parsed.ttl_ms.is_some() => return Err(Reply::refused(400, "a release has no ttl_ms")),
        false => Op::LockRelease { name, token },
    };
    let done = if is_renewal { json!({"renewed": true}) } else { json!({"released": true}) };
    change(server, head, body, vec![op], |values| match values {
        [Value::Int(1)] => Some(Reply::json(200, &done)),
        [Value::Int(0)] => {
            Some(Reply::error(409, "the lock is not held under this token (any more)", "refused", server.leader()))
        }
        _ => None,
    })
}

fn change(
    server: &Server,
    head: &Head,
    body: &[u8],
    ops: Vec<Op>,
    reply: impl Fn(&[Value]) -> Option<Reply>,
) -> Result<Indexed, Reply> {
    let tag = idempotency::tag(head, body)?;
    let command = registry::kv_batch(&Batch { watched: Vec::new(), ops });
    match server.host.ask(Work::Command { tag, command, ack: Ack::Applied }, server.deadline()) {
        Outcome::Done((index, answer)) => {
            let values = kv::values(server, answer)?;
            let reply = reply(&values).unwrap_or_else(|| kv::refusal(server, values.first().cloned()));
            Ok(Indexed { reply, index: Some(index.0) })
        }
        other => Err(failed(server, other)),
    }
}
