//! `/v1/kv`: the key-value store over HTTP, with raw bodies, compare-and-set, ranges and reads that wait.
//!
//! A key is the rest of the path, decoded: any bytes, slashes as they are or escaped. A value is the body, any bytes.
//! A condition that is not met is answered with 412 and the index of the key. Not here: what the store does
//! (`services/kv/`), locks (`locks.rs`), notifying watchers (`node/threads/watch.rs`).

use crate::http::outcome::{answered, unexpected};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::idempotency;
use crate::http::protocol::params::percent_decode;
use crate::http::protocol::params::{self, Params};
use crate::http::protocol::response::{Response, put_bytes};
use crate::http::request::{ApiResult, Request};
use crate::node::{Ack, Level, Operation};
use crate::outcome::Coded;
use crate::services::Replicated;
use crate::services::kv::Store;
use crate::services::kv::commands::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::services::kv::{Batch, BatchReply, Bytes, Condition, Expiry, Op, Value};
use crate::text::percent_encode;
use crate::types::Index;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// Default and maximum number of keys of one page.
const LIMIT: (u64, u64) = (100, 1000);
/// Default and maximum time that a read waits.
const WATCH: Duration = Duration::from_secs(30);
/// Header with a key's revision.
const KEY_INDEX: &str = "X-Phalanx-Key-Index";

/// The key in the path.
fn key_of(request: &Request) -> Result<Bytes, ApiError> {
    match percent_decode(request.args.0) {
        Some(key) if key.is_empty() => Err(ApiError::refused(400, "the path needs a key: /v1/kv/{key}")),
        Some(key) if key.len() <= KEY_BYTES_MAX => Ok(Bytes::from(key)),
        _ => Err(ApiError::refused(400, "malformed key")),
    }
}

fn condition(params: &Params) -> Result<Condition, ApiError> {
    Ok(params.number("cas")?.map_or(Condition::Always, Condition::Revision))
}

/// `GET /v1/kv/{key}`: the value, with its index and remaining time in headers; with `watch`, once its index differs
/// from the given one.
pub(crate) fn read(request: &Request) -> ApiResult {
    let (server, key, params) = (request.server, key_of(request)?, request.params());
    let mut level = request.level()?;
    let known = params.number("watch")?;
    let wait = match (params.get("wait"), known) {
        (None, _) => WATCH,
        (Some(_), None) => return Err(ApiError::refused(400, "wait needs watch=INDEX")),
        (Some(_), _) => params.duration("wait", WATCH)?.unwrap_or(WATCH),
    };
    let ends = Instant::now() + wait;
    loop {
        let (index, mut values) = query(request, vec![Op::Read(key.clone())], level)?;
        let (found, revision) = match values.pop() {
            Some(Value::Nil) => (None, 0),
            Some(Value::List(parts)) => match <[Value; 3]>::try_from(parts) {
                Ok([Value::Bytes(value), Value::Int(revision), Value::Int(ttl_ms)]) => {
                    (Some((value, ttl_ms)), revision as u64)
                }
                _ => return Err(unexpected()),
            },
            other => return Err(refusal(other)),
        };
        if known == Some(revision) {
            // From now on this node's own state is read: asking the leader each time would make watchers expensive.
            if !server.host.wait_key(&key, revision, ends) {
                return Ok(Response::empty(304).with(KEY_INDEX, revision.to_string()).at(index));
            }
            level = Level::Eventual;
            continue;
        }
        let Some((value, ttl_ms)) = found else {
            let error = ApiError::refused(404, "no such key").with_leader();
            return Err(error.with(KEY_INDEX, revision.to_string()).at(index));
        };
        let mut response = Response::bytes(value.into_vec());
        if ttl_ms >= 0 {
            response = response.with("X-Phalanx-Key-Ttl-Ms", ttl_ms.to_string());
        }
        return Ok(response.with(KEY_INDEX, revision.to_string()).at(index));
    }
}

/// `GET /v1/kv`: a page of keys by `prefix`, `after` (the `next` of the previous page) and `limit`.
pub(crate) fn range(request: &Request) -> ApiResult {
    let params = request.params();
    let level = request.level()?;
    let prefix = params.bytes("prefix")?.map(Bytes::from).unwrap_or_default();
    let after = params.bytes("after")?.map(Bytes::from);
    let limit = match params.number("limit")?.unwrap_or(LIMIT.0) {
        limit if (1..=LIMIT.1).contains(&limit) => limit,
        _ => return Err(ApiError::refused(400, format!("limit must be 1 to {}", LIMIT.1))),
    };
    let (index, mut values) = query(request, vec![Op::Range { prefix, after, limit }], level)?;
    let mut rows = match values.pop() {
        Some(Value::List(rows)) => rows,
        other => return Err(refusal(other)),
    };
    // The store ends a page of large values early, with a last row that is nil.
    let is_full = rows.pop_if(|row| *row == Value::Nil).is_some() || rows.len() as u64 == limit;
    let mut next = Json::Null;
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        let Value::List(parts) = row else { return Err(unexpected()) };
        let Ok([Value::Bytes(key), Value::Bytes(value), Value::Int(revision)]) = <[Value; 3]>::try_from(parts) else {
            return Err(unexpected());
        };
        if is_full {
            next = percent_encode(&key).into();
        }
        let mut entry = json!({"index": revision});
        put_bytes(&mut entry, "key", "key_encoding", key.into_vec());
        put_bytes(&mut entry, "value", "encoding", value.into_vec());
        keys.push(entry);
    }
    Ok(Response::json(200, &json!({"keys": keys, "next": next})).at(index))
}

/// `PUT /v1/kv/{key}`
pub(crate) fn write(request: &Request) -> ApiResult {
    let (key, params, body) = (key_of(request)?, request.params(), request.body);
    if body.len() > VALUE_BYTES_MAX {
        return Err(ApiError::refused(413, "a value has at most 4 MiB"));
    }
    let expiry = match params.number("ttl_ms")? {
        None => Expiry::Never,
        Some(0) => return Err(ApiError::refused(400, "ttl_ms must be 1 or more")),
        Some(ms) => Expiry::In(ms),
    };
    let condition = condition(&params)?;
    let op = Op::Put { key: key.clone(), value: Bytes::from(body), condition, expiry };
    change(request, key, op, |value| match value {
        Value::Int(revision) => Some((json!({"index": revision}), *revision)),
        _ => None,
    })
}

/// `DELETE /v1/kv/{key}`
pub(crate) fn remove(request: &Request) -> ApiResult {
    let key = key_of(request)?;
    let condition = condition(&request.params())?;
    let op = Op::DelIf { key: key.clone(), condition };
    change(request, key, op, |value| match value {
        Value::Int(removed) => Some((json!({"deleted": *removed > 0}), 0)),
        _ => None,
    })
}

/// Body of `POST /v1/kv/{key}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    /// Number that is added to the value; a missing value is 0.
    incr: i64,
}

/// `POST /v1/kv/{key}`
pub(crate) fn add(request: &Request) -> ApiResult {
    let key = key_of(request)?;
    let Add { incr } = params::object(request.body)?;
    let op = Op::IncrBy { key: key.clone(), by: incr };
    change(request, key, op, |value| match value {
        Value::Int(sum) => Some((json!({"value": sum}), -1)),
        _ => None,
    })
}

/// Runs a change and, in the same step, reads the key's new index. `done` makes the body from the operation's result,
/// with the key's index if the result contains it (otherwise -1).
fn change(request: &Request, key: Bytes, op: Op, done: impl Fn(&Value) -> Option<(Json, i64)>) -> ApiResult {
    let tag = idempotency::tag(request.head, request.body)?;
    let is_certain =
        matches!(&op, Op::Put { condition: Condition::Always, .. } | Op::DelIf { condition: Condition::Always, .. });
    let ack = match (request.level()?, is_certain) {
        (Level::Linearizable, _) => Ack::Applied,
        (Level::Eventual, true) => Ack::Accepted,
        (Level::Eventual, false) => {
            return Err(ApiError::refused(
                400,
                "a conditional write cannot use level=eventual: its result is known only when it is applied",
            ));
        }
    };
    let ops = vec![op, Op::Revisions(vec![key])];
    let command = Store::encode_command(&Batch { watched: Vec::new(), ops });
    let work = Operation::Command { tag, command, ack };
    let (index, bytes) = answered(request.server.host.ask(work, request.deadline()))?;
    if ack == Ack::Accepted {
        return Ok(Response::json(202, &json!({"index": null, "taken_at": index})).at(index));
    }
    let values = values(&bytes)?;
    let [value, Value::List(revisions)] = &values[..] else { return Err(unexpected()) };
    let Some(Value::Int(revision)) = revisions.first() else { return Err(unexpected()) };
    let error = match done(value) {
        Some((mut body, at)) => {
            if at < 0 {
                body["index"] = (*revision).into();
            }
            return Ok(Response::json(200, &body).with(KEY_INDEX, revision.to_string()).at(index));
        }
        None if *value == Value::Nil => {
            let why = match revision {
                0 => "the key does not exist".to_string(),
                revision => format!("the key's index is {revision}"),
            };
            ApiError::refused(412, why).with_leader()
        }
        None => refusal(Some(value.clone())),
    };
    Err(error.with(KEY_INDEX, revision.to_string()).at(index))
}

/// Queries the store; one value per operation.
pub(crate) fn query(request: &Request, ops: Vec<Op>, level: Level) -> Result<(Index, Vec<Value>), ApiError> {
    let (index, bytes) = request.read(Store::encode_command(&Batch { watched: Vec::new(), ops }), level)?;
    Ok((index, values(&bytes)?))
}

/// The values of a batch without watched keys, which cannot be aborted.
pub(crate) fn values(bytes: &[u8]) -> Result<Vec<Value>, ApiError> {
    match BatchReply::decode(bytes) {
        Some(BatchReply::Values(values)) => Ok(values),
        _ => Err(unexpected()),
    }
}

/// The error of an operation.
pub(crate) fn refusal(value: Option<Value>) -> ApiError {
    match value {
        Some(Value::Error(why)) => {
            let text = why.text();
            ApiError::refused(why.codes().status, text.strip_prefix("ERR ").unwrap_or(text).to_string()).with_leader()
        }
        _ => unexpected(),
    }
}
