//! `/v1/kv`: the key-value store over HTTP, with raw bodies, compare-and-set, ranges and reads that wait.
//!
//! A key is the rest of the path, decoded: any bytes, slashes as they are or escaped. A value is the body, any bytes. An
//! unknown parameter is refused: with `?cas_index=7` misspelt, a write that was meant to be careful would not be.
//! Conditions that are not met are 412, with the index that the key has. Not here: what the store does
//! (`services/kv/`), locks (`locks.rs`), waking those who wait (`node/threads/watch.rs`).

use super::failed;
use crate::http::api;
use crate::http::protocol::idempotency;
use crate::http::protocol::params::{self, Params};
use crate::http::protocol::parse::{Head, Method, percent_decode, percent_encode};
use crate::http::protocol::reply::{Reply, as_text};
use crate::http::routes::Indexed;
use crate::http::server::Server;
use crate::node::{Ack, Level, Work};
use crate::services::kv::commands::{KEY_BYTES_MAX, TOO_LARGE, TOO_LARGE_A_REPLY, VALUE_BYTES_MAX};
use crate::services::kv::{Bytes, Condition, Expiry, Op, BatchReply, Batch, Value};
use crate::services::{self, registry};
use crate::types::{Index, Outcome};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// Keys of one page when nobody says how many, and at most.
const LIMIT: (u64, u64) = (100, 1000);
/// How long a read waits when nobody says how long.
const WATCH: Duration = Duration::from_secs(30);
/// Header that says a key's revision.
const KEY_INDEX: &str = "X-Phalanx-Key-Index";

/// Answers all methods of one key.
pub(crate) fn answer(server: &Server, key: &str, method: Method, head: &Head, body: &[u8]) -> Indexed {
    let key = match percent_decode(key) {
        Some(key) if key.is_empty() => return Reply::refused(400, "name a key: /v1/kv/{key}").into(),
        Some(key) if key.len() <= KEY_BYTES_MAX => Bytes::from(key),
        _ => return Reply::refused(400, "malformed key").into(),
    };
    let answered = match method {
        Method::Get | Method::Head => read(server, &key, head),
        Method::Put => write(server, key, head, body),
        Method::Delete => remove(server, key, head, body),
        _ => add(server, key, head, body),
    };
    answered.unwrap_or_else(Indexed::from)
}

fn condition(params: &Params) -> Result<Condition, Reply> {
    Ok(params.number("cas")?.map_or(Condition::Always, Condition::Revision))
}

/// A key's value, with its index and remaining time in headers; with `watch`, once that index is no longer this one.
fn read(server: &Server, key: &Bytes, head: &Head) -> Result<Indexed, Reply> {
    let params = Params::of(head);
    let mut level = api::level(head)?;
    let known = params.number("watch")?;
    let wait = match (params.get("wait"), known) {
        (None, _) => WATCH,
        (Some(_), None) => return Err(Reply::refused(400, "wait goes with watch=INDEX")),
        (Some(_), _) => params.span("wait", api::WAIT_MAX)?.unwrap_or(WATCH),
    };
    let ends = Instant::now() + wait;
    loop {
        let (index, mut values) = query(server, vec![Op::Read(key.clone())], level, server.deadline())?;
        let (reply, revision) = match values.pop() {
            Some(Value::Nil) => (Reply::error(404, "no such key", "refused", server.leader()), 0),
            Some(Value::List(parts)) => match <[Value; 3]>::try_from(parts) {
                Ok([Value::Bytes(value), Value::Int(revision), Value::Int(ttl_ms)]) => {
                    let reply = Reply::bytes(value.into_vec());
                    let reply = if ttl_ms < 0 { reply } else { reply.with("X-Phalanx-Key-Ttl-Ms", ttl_ms.to_string()) };
                    (reply, revision as u64)
                }
                _ => return Err(strange()),
            },
            other => return Err(refusal(server, other)),
        };
        let indexed =
            |reply: Reply| Indexed { reply: reply.with(KEY_INDEX, revision.to_string()), index: Some(index.0) };
        match known {
            Some(known) if known == revision => {
                // From now on this node tells: asking the leader for every look would make watchers dear.
                if !server.host.wait_key(key, known, ends) {
                    return Ok(indexed(Reply::empty(304)));
                }
                level = Level::Eventual;
            }
            _ => return Ok(indexed(reply)),
        }
    }
}

/// A page of keys: `prefix`, `after` (what `next` of the page before says), `limit`.
pub(crate) fn range(server: &Server, head: &Head) -> Indexed {
    page(server, head).unwrap_or_else(Indexed::from)
}

fn page(server: &Server, head: &Head) -> Result<Indexed, Reply> {
    let params = Params::of(head);
    let level = api::level(head)?;
    let prefix = params.bytes("prefix")?.map(Bytes::from).unwrap_or_default();
    let after = params.bytes("after")?.map(Bytes::from);
    let limit = match params.number("limit")?.unwrap_or(LIMIT.0) {
        limit if (1..=LIMIT.1).contains(&limit) => limit,
        _ => return Err(Reply::refused(400, &format!("limit is 1 to {}", LIMIT.1))),
    };
    let (index, mut values) = query(server, vec![Op::Range { prefix, after, limit }], level, server.deadline())?;
    let mut rows = match values.pop() {
        Some(Value::List(rows)) => rows,
        other => return Err(refusal(server, other)),
    };
    // The store cuts a page of large values short, and says so by a last row that is none.
    let is_full = rows.pop_if(|row| *row == Value::Nil).is_some() || rows.len() as u64 == limit;
    let mut next = Json::Null;
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        let Value::List(parts) = row else { return Err(strange()) };
        let Ok([Value::Bytes(key), Value::Bytes(value), Value::Int(revision)]) = <[Value; 3]>::try_from(parts) else {
            return Err(strange());
        };
        if is_full {
            next = percent_encode(&key).into();
        }
        keys.push(entry(key.into_vec(), value.into_vec(), revision));
    }
    Ok(Indexed { reply: Reply::json(200, &json!({"keys": keys, "next": next})), index: Some(index.0) })
}

/// Text as it is; what is no text in base64, and says so.
fn entry(key: Vec<u8>, value: Vec<u8>, revision: i64) -> Json {
    let mut entry = json!({"index": revision});
    for (name, encoding, bytes) in [("key", "key_encoding", key), ("value", "encoding", value)] {
        let (text, is_base64) = as_text(bytes);
        entry[name] = text.into();
        if is_base64 {
            entry[encoding] = "base64".into();
        }
    }
    entry
}

fn write(server: &Server, key: Bytes, head: &Head, body: &[u8]) -> Result<Indexed, Reply> {
    let params = Params::of(head);
    if body.len() > VALUE_BYTES_MAX {
        return Err(Reply::refused(413, "a value has 4 MiB at most"));
    }
    let expiry = match params.number("ttl_ms")? {
        None => Expiry::Never,
        Some(0) => return Err(Reply::refused(400, "ttl_ms is 1 or more")),
        Some(ms) => Expiry::In(ms),
    };
    let condition = condition(&params)?;
    change(
        server,
        head,
        body,
        &key,
        Op::Put { key: key.clone(), value: Bytes::from(body), condition, expiry },
        |value| match value {
            Value::Int(revision) => Some((json!({"index": revision}), *revision)),
            _ => None,
        },
    )
}

fn remove(server: &Server, key: Bytes, head: &Head, body: &[u8]) -> Result<Indexed, Reply> {
    let condition = condition(&Params::of(head))?;
    change(server, head, body, &key, Op::DelIf { key: key.clone(), condition }, |value| match value {
        Value::Int(removed) => Some((json!({"deleted": *removed > 0}), 0)),
        _ => None,
    })
}

/// Body of `POST /v1/kv/{key}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    /// What is added to the number that the value is; 0 if there is none.
    incr: i64,
}

fn add(server: &Server, key: Bytes, head: &Head, body: &[u8]) -> Result<Indexed, Reply> {
    let Add { incr } = params::object(body)?;
    change(server, head, body, &key, Op::IncrBy { key: key.clone(), by: incr }, |value| match value {
        Value::Int(sum) => Some((json!({"value": sum}), -1)),
        _ => None,
    })
}

/// Runs a change and, in the same step, asks for the index that the key has then. `done` makes the body of what the
/// operation answered when it did its work, with the key's index if that says it (else -1).
fn change(
    server: &Server,
    head: &Head,
    body: &[u8],
    key: &Bytes,
    op: Op,
    done: impl Fn(&Value) -> Option<(Json, i64)>,
) -> Result<Indexed, Reply> {
    let tag = idempotency::tag(head, body)?;
    let is_certain =
        matches!(&op, Op::Put { condition: Condition::Always, .. } | Op::DelIf { condition: Condition::Always, .. });
    let ack = match (api::level(head)?, is_certain) {
        (Level::Linearizable, _) => Ack::Applied,
        (Level::Eventual, true) => Ack::Taken,
        (Level::Eventual, false) => {
            return Err(Reply::refused(
                400,
                "whether it succeeds is known when it is applied: leave out level=eventual",
            ));
        }
    };
    let ops = vec![op, Op::Revisions(vec![key.clone()])];
    let command = registry::kv_batch(&Batch { watched: Vec::new(), ops });
    let (index, reply) = match server.host.ask(Work::Command { tag, command, ack }, server.deadline()) {
        Outcome::Done(done) => done,
        other => return Err(failed(server, other)),
    };
    if ack == Ack::Taken {
        let body = json!({"index": null, "taken_at": index});
        return Ok(Indexed { reply: Reply::json(202, &body), index: Some(index.0) });
    }
    let values = values(server, reply)?;
    let [value, Value::List(revisions)] = &values[..] else { return Err(strange()) };
    let Some(Value::Int(revision)) = revisions.first() else { return Err(strange()) };
    let reply = match done(value) {
        Some((body, at)) => {
            let mut body = body;
            if at < 0 {
                body["index"] = (*revision).into();
            }
            Reply::json(200, &body)
        }
        None if *value == Value::Nil => {
            let why = match revision {
                0 => "the key does not exist".to_string(),
                revision => format!("the key's index is {revision}"),
            };
            Reply::error(412, &why, "refused", server.leader())
        }
        None => refusal(server, Some(value.clone())),
    };
    Ok(Indexed { reply: reply.with(KEY_INDEX, revision.to_string()), index: Some(index.0) })
}

/// Asks the services; one value per operation.
pub(crate) fn query(
    server: &Server,
    ops: Vec<Op>,
    level: Level,
    deadline: Instant,
) -> Result<(Index, Vec<Value>), Reply> {
    let query = registry::kv_batch(&Batch { watched: Vec::new(), ops });
    match server.host.query(query, level, deadline) {
        Outcome::Done((index, reply)) => Ok((index, values(server, reply)?)),
        other => Err(failed(server, other)),
    }
}

/// The values of a run that nothing could abort.
pub(crate) fn values(server: &Server, reply: services::Reply) -> Result<Vec<Value>, Reply> {
    match reply {
        services::Reply::Ok(bytes) => match BatchReply::decode(&bytes) {
            Some(BatchReply::Values(values)) => Ok(values),
            _ => Err(strange()),
        },
        services::Reply::Failed(why) => Err(Reply::error(400, &why, "refused", server.leader())),
    }
}

/// The reply to an operation that could not.
pub(crate) fn refusal(server: &Server, value: Option<Value>) -> Reply {
    match value {
        Some(Value::Error(why)) => {
            let status = if why == TOO_LARGE || why == TOO_LARGE_A_REPLY { 413 } else { 409 };
            Reply::error(status, why.strip_prefix("ERR ").unwrap_or(&why), "refused", server.leader())
        }
        _ => strange(),
    }
}

/// The services answered what this door does not understand: a bug, or a leader of another version.
pub(crate) fn strange() -> Reply {
    Reply::error(500, "the services gave an answer that this door does not know", "unknown", None)
}
