//! The JSON API: what is asked of the node, and how its outcomes become statuses.
//!
//! `Refused` (certainly not done) is 503, or 409 when asking again cannot help; `Unknown` is 504: it may or may not have
//! been done, and is never dressed up as a refusal.
//! Not here: who may ask (`http/protocol/guard.rs`), which path is which (`http/routes.rs`).

pub mod job_output;
pub mod job_waiting;
pub mod jobs;
pub mod kv;
pub mod locks;
use self::locks::Act;
use super::paths::Route;
use super::protocol::conn::Conn;
use super::protocol::parse::{Head, Method, percent_decode};
use super::protocol::reply::Reply;
use super::protocol::{idempotency, params};
use super::routes::Indexed;
use super::server::Server;
use super::{chat, db};
use crate::node::views::status::{ClusterStatus, Verdict};
use crate::node::{Ack, Level, Work, quota};
use crate::raft::{Change, Refusal};
use crate::services::{self, directory, registry};
use crate::types::{Identity, NodeId, Outcome};
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Longest wait of one request for news.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers every route that is neither a stream nor a file.
pub(crate) fn answer(
    server: &Server,
    client: &Conn,
    route: Route,
    method: Method,
    head: &Head,
    body: &[u8],
) -> Indexed {
    let is_read = matches!(method, Method::Get | Method::Head);
    match route {
        Route::Status => Reply::json(200, &server.host.fresh_frame().frame.status).into(),
        Route::Events => events(server, head).into(),
        Route::Gossip => Reply::json(200, &server.host.gossip_json()).into(),
        Route::Members(id) if is_read => members(server, id).into(),
        Route::Members(id) => change(server, id, method, body),
        Route::Digests if is_read => Reply::json(200, &server.host.integrity()).into(),
        Route::Digests => checkpoint(server, body),
        Route::Transfer => transfer(server, body).into(),
        Route::Livez => Reply::text(200, "alive\n").into(),
        Route::Readyz => ready(server, head).into(),
        Route::Metrics => metrics(server).into(),
        Route::Notes => write_note(server, head, body),
        Route::Note(id) => read_note(server, id, head),
        Route::Keys => kv::range(server, head),
        Route::Key(key) => kv::answer(server, key, method, head, body),
        Route::Lock(name) => locks::answer(server, name, Act::Look, head, body),
        Route::Acquire(name) => locks::answer(server, name, Act::Acquire, head, body),
        Route::Renew(name) => locks::answer(server, name, Act::Renew, head, body),
        Route::Release(name) => locks::answer(server, name, Act::Release, head, body),
        Route::CompileAndRun => jobs::compile_and_run(server, client, head, body),
        Route::Jobs if is_read => jobs::list(server, head),
        Route::Jobs => jobs::submit(server, client, head, body),
        Route::Job(id) if is_read => jobs::show(server, client, id, head),
        Route::Job(id) => jobs::cancel(server, id, head, body),
        Route::Runtimes => jobs::runtimes(server).into(),
        Route::Chat(place) => chat::answer(server, place, is_read, head, body),
        Route::Execute => db::execute(server, head, body),
        Route::Query => db::query(server, method, head, body),
        Route::Request => db::request(server, head, body),
        Route::Digest => db::digest(server, head),
        Route::ChatPage
        | Route::Monitor
        | Route::Stream
        | Route::Hold
        | Route::Static(_)
        | Route::OpenApi
        | Route::Output(_)
        | Route::Load
        | Route::Backup => Reply::refused(404, "nothing is served at this path").into(),
    }
}

/// What `level=` says; linearizable without it.
pub(crate) fn level(head: &Head) -> Result<Level, Reply> {
    match head.query("level") {
        None | Some("linearizable") => Ok(Level::Linearizable),
        Some("eventual") => Ok(Level::Eventual),
        Some(_) => Err(Reply::refused(400, "level is linearizable or eventual")),
    }
}

/// What `wait=` says (`30s`, `500ms`, `30`), at most [`WAIT_MAX`]; `None` if it is no time.
fn wait(text: &str) -> Option<Duration> {
    params::span(text).map(|span| span.min(WAIT_MAX))
}

/// `{"events": [...]}` newer than `since`; with `wait=10s` it waits for news.
fn events(server: &Server, head: &Head) -> Reply {
    let Ok(since) = head.query("since").unwrap_or("0").parse() else {
        return Reply::refused(400, "since must be the number of an event");
    };
    let events = match head.query("wait") {
        None => server.host.events_since(since),
        Some(text) => match wait(text) {
            Some(wait) => server.host.wait_events(since, Instant::now() + wait),
            None => return Reply::refused(400, "wait must be a time, as in wait=10s"),
        },
    };
    Reply::json(200, &json!({"events": events}))
}

fn members(server: &Server, id: Option<&str>) -> Reply {
    let frame = server.host.fresh_frame().frame;
    let status = &frame.status;
    match id.map(|id| node_id(Some(id))) {
        None => {
            let cluster = &status.cluster;
            Reply::json(
                200,
                &json!({
                    "leader": cluster.leader, "term": cluster.term,
                    "voters": cluster.voters, "learners": cluster.learners, "members": status.nodes,
                }),
            )
        }
        Some(id) => match id.and_then(|id| status.nodes.iter().find(|row| row.id == id)) {
            Some(row) => Reply::json(200, row),
            None => Reply::refused(404, "no such node"),
        },
    }
}

/// Body of `POST /v1/members[/N]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    id: Option<u64>,
    /// `add` (the default), `promote`, `demote`, `remove`.
    action: Option<String>,
    /// The same in other words: what the node shall be, `voter` or `learner`.
    membership: Option<String>,
    /// For `add`: the identity that the newcomer was started with.
    uuid: Option<uuid::Uuid>,
}

fn change(server: &Server, id: Option<&str>, method: Method, body: &[u8]) -> Indexed {
    let member = if method == Method::Delete {
        Member { action: Some("remove".to_owned()), ..Member::default() }
    } else {
        match params::object::<Member>(body) {
            Ok(member) => member,
            Err(refusal) => return refusal.into(),
        }
    };
    let named = match (id, member.id) {
        (Some(id), None) => node_id(Some(id)),
        (None, Some(id)) => Some(NodeId(id)),
        (Some(id), Some(other)) => node_id(Some(id)).filter(|id| id.0 == other),
        (None, None) => None,
    };
    let Some(id) = named.filter(|id| (1..=NodeId::MAX).contains(&id.0)) else {
        return Reply::refused(400, "name one node, from 1 to 999").into();
    };
    let action = match (member.action.as_deref(), member.membership.as_deref()) {
        (Some(action), None) => action,
        (None, Some("voter")) => "promote",
        (None, Some("learner")) => "demote",
        (None, None) => "add",
        _ => return Reply::refused(400, "give an action, or a membership of voter or learner").into(),
    };
    let change = match (action, member.uuid) {
        ("add", Some(uuid)) => Change::AddLearner(Identity { id, uuid }),
        ("add", None) => return Reply::refused(400, "a newcomer is added by its id and uuid").into(),
        ("promote", _) => Change::Promote(id),
        ("demote", _) => Change::Demote(id),
        ("remove", _) => Change::Remove(id),
        _ => return Reply::refused(400, "action is one of add, promote, demote, remove").into(),
    };
    match server.host.change(change, server.deadline()) {
        Outcome::Done(index) => {
            Indexed { reply: Reply::json(200, &json!({"id": id, "index": index})), index: Some(index.0) }
        }
        other => failed(server, other).into(),
    }
}

/// Body of `POST /v1/leader/transfer`; without `to`, the best live voter is chosen.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: Option<u64>,
}

fn transfer(server: &Server, body: &[u8]) -> Reply {
    let parsed = if body.is_empty() { Ok(Transfer::default()) } else { params::object::<Transfer>(body) };
    let to = match parsed {
        Ok(Transfer { to: Some(id) }) if !(1..=NodeId::MAX).contains(&id) => {
            return Reply::refused(400, "name one node, from 1 to 999");
        }
        Ok(Transfer { to }) => to.map(NodeId),
        Err(refusal) => return refusal,
    };
    match server.host.transfer(to, server.deadline()) {
        Outcome::Done(leader) => Reply::json(200, &json!({"leader": leader})),
        other => failed(server, other),
    }
}

/// Body of `POST /v1/digests`: there is nothing to say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {}

/// Has every node digest its state at the index that is answered; `GET` tells the digests of this node.
fn checkpoint(server: &Server, body: &[u8]) -> Indexed {
    if !body.is_empty()
        && let Err(refusal) = params::object::<Checkpoint>(body)
    {
        return refusal.into();
    }
    match server.host.checkpoint(server.deadline()) {
        Outcome::Done(index) => Indexed { reply: Reply::json(200, &json!({"index": index})), index: Some(index.0) },
        other => failed(server, other).into(),
    }
}

/// Body of `POST /v1/note`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewNote {
    id: String,
    text: String,
}

/// Writes a note; writing the same one again changes nothing, so a client may ask again after `unknown`.
fn write_note(server: &Server, head: &Head, body: &[u8]) -> Indexed {
    let NewNote { id, text } = match params::object(body) {
        Ok(note) => note,
        Err(refusal) => return refusal.into(),
    };
    let tag = match idempotency::tag(head, body) {
        Ok(tag) => tag,
        Err(refusal) => return refusal.into(),
    };
    let command = registry::directory_command(&directory::Command::Note { id, text });
    match server.host.ask(Work::Command { tag, command, ack: Ack::Applied }, server.deadline()) {
        Outcome::Done((index, services::Reply::Ok(_))) => {
            Indexed { reply: Reply::json(200, &json!({"index": index})), index: Some(index.0) }
        }
        Outcome::Done((_, services::Reply::Failed(why))) => Reply::error(400, &why, "refused", server.leader()).into(),
        other => failed(server, other).into(),
    }
}

/// Reads a note: as fresh as any acknowledged write, or with `level=eventual` what this node has applied.
fn read_note(server: &Server, id: &str, head: &Head) -> Indexed {
    let level = match level(head) {
        Ok(level) => level,
        Err(refusal) => return refusal.into(),
    };
    let Some(id) = percent_decode(id).and_then(|id| String::from_utf8(id).ok()) else {
        return Reply::refused(400, "malformed name").into();
    };
    let query = registry::directory_query(&directory::Query::Note { id: id.clone() });
    match server.host.query(query, level, server.deadline()) {
        Outcome::Done((index, services::Reply::Ok(bytes))) => {
            let reply = match directory::decode_note(&bytes) {
                Some(note) => Reply::json(200, &json!({"id": id, "text": note.text, "index": note.index})),
                None => Reply::error(404, "no such note", "refused", server.leader()),
            };
            Indexed { reply, index: Some(index.0) }
        }
        Outcome::Done((_, services::Reply::Failed(why))) => Reply::error(400, &why, "refused", server.leader()).into(),
        other => failed(server, other).into(),
    }
}

/// The answer to an outcome that is not `Done`.
pub(crate) fn failed<T>(server: &Server, outcome: Outcome<T>) -> Reply {
    match outcome {
        Outcome::Refused(why) if quota::named_in(&why).is_some() => Reply::error(507, &why, "refused", server.leader()),
        Outcome::Refused(why) => {
            let is_final = [Refusal::BadChange, Refusal::Unsafe, Refusal::BadTarget, Refusal::NotCaughtUp]
                .iter()
                .any(|refusal| why.contains(&refusal.to_string()));
            Reply::error(if is_final { 409 } else { 503 }, &why, "refused", server.leader())
        }
        Outcome::Unknown(why) => Reply::error(504, &why, "unknown", server.leader()),
        Outcome::Done(_) => unreachable!("only failures come here"),
    }
}

fn node_id(text: Option<&str>) -> Option<NodeId> {
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok()).map(NodeId)
}

fn ready(server: &Server, head: &Head) -> Reply {
    let is_verbose = head.query("verbose").is_some();
    match server.host.readiness() {
        Ok(()) if is_verbose => Reply::text(200, ready_text(&server.host.fresh_frame().frame.status.cluster)),
        Ok(()) => Reply::text(200, "ready\n"),
        Err(missing) if is_verbose => {
            Reply::text(503, missing.iter().map(|what| format!("[-] {what}\n")).collect::<String>() + "not ready\n")
        }
        Err(_) => Reply::text(503, "not ready\n"),
    }
}

/// A node whose cluster refuses writes still serves reads: it is ready, and says what does not work.
fn ready_text(cluster: &ClusterStatus) -> String {
    let mut text = "[+] knows a leader\n[+] has caught up\n".to_string();
    if cluster.verdict == Verdict::Unavailable {
        text.extend(cluster.reasons.iter().map(|reason| format!("[!] {reason}\n")));
    }
    text + "ready\n"
}

/// Prometheus text format 0.0.4: figures of one name stand together under one heading.
fn metrics(server: &Server) -> Reply {
    let mut figures = server.host.metrics();
    figures.sort_by_key(|figure| figure.name);
    let mut text = String::with_capacity(4096);
    let mut heading = "";
    for figure in &figures {
        if heading != figure.name {
            heading = figure.name;
            let _ = write!(
                text,
                "# HELP {} {}\n# TYPE {} {}\n",
                figure.name,
                escape(figure.help),
                figure.name,
                figure.kind
            );
        }
        text.push_str(figure.name);
        for (at, (label, value)) in figure.labels.iter().enumerate() {
            let _ =
                write!(text, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escape(value).replace('"', "\\\""));
        }
        let _ = writeln!(text, "{} {}", if figure.labels.is_empty() { "" } else { "}" }, figure.value);
    }
    let counts = &server.counts;
    for (name, kind, help, value) in [
        ("phalanx_http_connections_open", "gauge", "HTTP connections that stand now.", &counts.open),
        ("phalanx_http_connections_total", "counter", "HTTP connections accepted.", &counts.accepted),
        (
            "phalanx_http_turned_away_total",
            "counter",
            "HTTP connections refused for want of room.",
            &counts.turned_away,
        ),
        ("phalanx_http_accept_errors_total", "counter", "Accepts that failed.", &counts.accept_errors),
        ("phalanx_http_requests_total", "counter", "HTTP requests.", &counts.requests),
        (
            "phalanx_http_refused_total",
            "counter",
            "HTTP requests that broke a rule of the door.",
            &counts.refused_requests,
        ),
        (
            "phalanx_http_slow_readers_total",
            "counter",
            "Streams dropped because nobody read.",
            &counts.slow_readers_dropped,
        ),
    ] {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value.load(Relaxed));
    }
    Reply { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Reply::text(200, text) }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}
