//! `/v1/lock`: locks with a time to live and fencing tokens.
//!
//! A token is a number that grows with every lock that is acquired: a resource that remembers the highest token it has
//! seen can reject a holder that has not noticed that its lock has expired. Names are escaped like keys.
//! Not here: how log time advances (`services/kv/state/locks.rs`), renewing while a command runs (`cli/lock/mod.rs`).

use super::kv;
use crate::http::outcome::{answered, unexpected};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::params::percent_decode;
use crate::http::protocol::response::Response;
use crate::http::protocol::{idempotency, params};
use crate::http::request::{ApiResult, Request};
use crate::node::{Ack, Operation};
use crate::services::Replicated;
use crate::services::kv::Store;
use crate::services::kv::commands::KEY_BYTES_MAX;
use crate::services::kv::{Batch, Bytes, Op, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Longest time to live of a lock: a day.
const TTL_MS_MAX: u64 = 86_400_000;
/// Longest suggested delay before a client retries a lock that is held.
const RETRY_MS_MAX: i64 = 1000;

/// Body of all three operations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockBody {
    /// How long the lock is held unless it is renewed, in milliseconds.
    ttl_ms: Option<u64>,
    /// The token that `acquire` returned.
    token: Option<u64>,
}

/// The name of the lock in the path.
fn name_of(request: &Request) -> Result<Bytes, ApiError> {
    match percent_decode(request.args.0) {
        Some(name) if !name.is_empty() && name.len() <= KEY_BYTES_MAX => Ok(Bytes::from(name)),
        _ => Err(ApiError::refused(400, "malformed lock name")),
    }
}

fn ttl(body: &LockBody) -> Result<u64, ApiError> {
    let ttl = body.ttl_ms.filter(|ms| (1..=TTL_MS_MAX).contains(ms));
    ttl.ok_or_else(|| ApiError::refused(400, format!("ttl_ms must be 1 to {TTL_MS_MAX}")))
}

/// `GET /v1/lock/{name}`
pub(crate) fn show(request: &Request) -> ApiResult {
    let ops = vec![Op::LockInfo(name_of(request)?)];
    let (index, values) = kv::query(request, ops, request.level()?)?;
    match &values[..] {
        [Value::List(parts)] => match &parts[..] {
            [Value::Int(token), Value::Int(ttl_ms)] => {
                Ok(Response::json(200, &json!({"token": token, "ttl_ms": ttl_ms})).at(index))
            }
            _ => Err(unexpected()),
        },
        [Value::Nil] => Err(ApiError::refused(404, "this lock is not held").with_leader().at(index)),
        _ => Err(unexpected()),
    }
}

/// `POST /v1/lock/{name}/acquire`
pub(crate) fn acquire(request: &Request) -> ApiResult {
    let name = name_of(request)?;
    let parsed: LockBody = params::object(request.body)?;
    if parsed.token.is_some() {
        return Err(ApiError::refused(400, "acquire takes no token: it returns one"));
    }
    let ops = vec![Op::LockAcquire { name: name.clone(), ttl_ms: ttl(&parsed)? }, Op::LockInfo(name)];
    change(request, ops, |values| match values {
        [Value::Int(token), ..] => Some(Ok(Response::json(200, &json!({"token": token})))),
        [Value::Nil, Value::List(parts)] => {
            let left_ms = match parts.get(1) {
                Some(Value::Int(ms)) => *ms,
                _ => 0,
            };
            let body = json!({
                "error": format!("the lock is held for another {left_ms} ms unless it is renewed"),
                "outcome": "refused", "leader": request.server.leader(),
                "retry_after_ms": left_ms.clamp(20, RETRY_MS_MAX), "ttl_ms": left_ms,
            });
            Some(Ok(Response::json(409, &body)))
        }
        _ => None,
    })
}

/// `POST /v1/lock/{name}/renew`
pub(crate) fn renew(request: &Request) -> ApiResult {
    let name = name_of(request)?;
    let parsed: LockBody = params::object(request.body)?;
    let op = Op::LockRenew { name, token: token(&parsed)?, ttl_ms: ttl(&parsed)? };
    change_held(request, op, &json!({"renewed": true}))
}

/// `POST /v1/lock/{name}/release`
pub(crate) fn release(request: &Request) -> ApiResult {
    let name = name_of(request)?;
    let parsed: LockBody = params::object(request.body)?;
    let token = token(&parsed)?;
    if parsed.ttl_ms.is_some() {
        return Err(ApiError::refused(400, "release takes no ttl_ms"));
    }
    change_held(request, Op::LockRelease { name, token }, &json!({"released": true}))
}

fn token(body: &LockBody) -> Result<u64, ApiError> {
    body.token.ok_or_else(|| ApiError::refused(400, "token is required: it is returned by acquire"))
}

/// Runs an operation that only the holder of the lock may do.
fn change_held(request: &Request, op: Op, done: &Json) -> ApiResult {
    change(request, vec![op], |values| match values {
        [Value::Int(1)] => Some(Ok(Response::json(200, done))),
        [Value::Int(0)] => {
            Some(Err(ApiError::refused(409, "the lock is not held with this token; it may have expired")))
        }
        _ => None,
    })
}

/// Runs operations; `result` interprets their values, `None` if they are an error.
fn change(request: &Request, ops: Vec<Op>, result: impl Fn(&[Value]) -> Option<ApiResult>) -> ApiResult {
    let tag = idempotency::tag(request.head, request.body)?;
    let command = Store::encode_command(&Batch { watched: Vec::new(), ops });
    let work = Operation::Command { tag, command, ack: Ack::Applied };
    let (index, bytes) = answered(request.server.host.ask(work, request.deadline()))?;
    let values = kv::values(&bytes)?;
    match result(&values).unwrap_or_else(|| Err(kv::refusal(values.first().cloned()))) {
        Ok(response) => Ok(response.at(index)),
        Err(error) => Err(error.with_leader().at(index)),
    }
}
