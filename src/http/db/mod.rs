//! `/db/execute`, `/db/query`, `/db/request`: the database in the shape that rqlite's clients know, on any node.
//!
//! A request that was understood is answered with 200, and a statement that failed with an `error` in its place, as rqlite does.
//! Flags of rqlite that only choose a way to the same end are taken and change nothing (`redirect`: every node answers;
//! `wait`: nothing is answered before it is done); `queue` is taken, and the write is done before it is answered. What would
//! promise something else than is done here is refused by its name.
//! Not here: the spelling of bodies (`rqlite_json.rs`), whole databases (`files.rs`), what SQL does (`services/sql/`).

pub mod files;
pub mod rqlite_json;
use self::rqlite_json::{Results, Style};
use super::api::failed;
use super::protocol::idempotency;
use super::protocol::params::Params;
use super::protocol::parse::{Head, Method, percent_decode};
use super::protocol::reply::Reply;
use super::routes::Indexed;
use super::server::Server;
use crate::node::SqlRead;
use crate::services::sql::{self, Answer, Kind, ReadLevel, Run, Statement};
use crate::types::{Index, Outcome};
use serde_json::json;
use std::time::{Duration, Instant};

/// Flags of all doors.
pub(crate) const OF_ALL: [&str; 9] =
    ["timings", "pretty", "transaction", "redirect", "timeout", "raft_index", "noparse", "norwrandom", "norwtime"];
/// Of those that write.
pub(crate) const OF_WRITES: [&str; 3] = ["queue", "wait", "noleader"];
/// Of those that read.
pub(crate) const OF_READS: [&str; 8] = [
    "level",
    "freshness",
    "freshness_strict",
    "associative",
    "blob_array",
    "db_timeout",
    "linearizable_timeout",
    "noleader",
];
/// Longest that a request waits, whatever its `timeout` says.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What a request asks for behind the question mark.
struct Asked {
    style: Style,
    has_timings: bool,
    has_index: bool,
    is_transaction: bool,
    is_queued: bool,
    level: ReadLevel,
    freshness: Option<Duration>,
    deadline: Instant,
    begun: Instant,
}

impl Asked {
    fn of(server: &Server, params: &Params) -> Result<Asked, Reply> {
        let flag = |name: &str| params.flag(name);
        for (name, why) in [
            ("freshness_strict", "a node does not know how old what it lacks is: use level=linearizable"),
            ("norwrandom", "random() must give the same on every node"),
            ("norwtime", "the time must be the same on every node"),
            ("noparse", "each statement is read before it is carried out"),
        ] {
            if flag(name)? {
                return Err(Reply::refused(400, &format!("{name} is not available: {why}")));
            }
        }
        // These change nothing here; their values are looked at all the same.
        let _ = (flag("redirect")?, flag("wait")?, flag("noleader")?);
        let mut most = server.host.request_timeout();
        for (at, name) in ["timeout", "db_timeout", "linearizable_timeout"].iter().enumerate() {
            if let Some(wait) = span(params, name)? {
                if wait.is_zero() {
                    return Err(Reply::refused(400, &format!("{name} must be longer than nothing")));
                }
                most = if at == 0 { wait.min(TIMEOUT_MAX) } else { most.min(wait) };
            }
        }
        let begun = Instant::now();
        Ok(Asked {
            style: Style {
                is_associative: flag("associative")?,
                has_blob_arrays: flag("blob_array")?,
                is_pretty: flag("pretty")?,
            },
            has_timings: flag("timings")?,
            has_index: flag("raft_index")?,
            is_transaction: flag("transaction")?,
            is_queued: flag("queue")?,
            level: level(params)?,
            freshness: span(params, "freshness")?,
            deadline: begun + most,
            begun,
        })
    }

    fn answer(
        &self,
        server: &Server,
        outcome: Outcome<(Index, Answer)>,
        times: Vec<Duration>,
    ) -> Result<Indexed, Reply> {
        let (index, answer) = match outcome {
            Outcome::Done(done) => done,
            other => return Err(failed(server, other)),
        };
        let outcomes = match answer {
            Answer::Results(outcomes) => outcomes,
            Answer::Refused(why) => return Err(Reply::error(400, &why, "refused", server.leader())),
            _ => return Err(super::api::kv::strange()),
        };
        let body = Results {
            outcomes: &outcomes,
            style: self.style,
            times: &times,
            time: self.has_timings.then(|| self.begun.elapsed()),
            index: match (self.is_queued, self.has_index) {
                (true, _) => Some(("sequence_number", index.0)),
                (false, true) => Some(("raft_index", index.0)),
                (false, false) => None,
            },
        };
        let reply = Reply { content_type: "application/json", body: body.write().into(), ..Reply::empty(200) };
        Ok(Indexed { reply, index: Some(index.0) })
    }

    /// Reads beside the log. Who asked to execute is told of no rows.
    fn read(&self, server: &Server, statements: Vec<Statement>, kind: Kind) -> Result<Indexed, Reply> {
        let read = SqlRead { statements, level: self.level, freshness: self.freshness, seed: seed() };
        let mut times = Vec::new();
        let mut held = server.host.memory().reservation();
        let mut outcome = server.host.sql_read(read, self.has_timings.then_some(&mut times), &mut held, self.deadline);
        if kind == Kind::Execute
            && let Outcome::Done((_, Answer::Results(outcomes))) = &mut outcome
        {
            for one in outcomes.iter_mut().filter(|one| matches!(one, sql::Outcome::Rows { .. })) {
                *one = sql::Outcome::Changed { last_insert_id: 0, rows_affected: 0 };
            }
        }
        self.answer(server, outcome, times)
    }

    fn write(
        &self,
        server: &Server,
        kind: Kind,
        statements: Vec<Statement>,
        head: &Head,
        body: &[u8],
    ) -> Result<Indexed, Reply> {
        let tag = idempotency::tag(head, body)?;
        let run = Run { statements, is_transaction: self.is_transaction, kind, seed: seed() };
        if let Some(why) = run.excess() {
            return Err(Reply::refused(413, &why));
        }
        let mut times = Vec::new();
        let outcome = server.host.sql_run(run, tag, self.has_timings.then_some(&mut times), self.deadline);
        self.answer(server, outcome, times)
    }
}

/// What the level of a read is; linearizable if nobody says.
pub(crate) fn level(params: &Params) -> Result<ReadLevel, Reply> {
    match params.get("level") {
        Some(_) if params.flag("noleader").unwrap_or(false) => {
            Err(Reply::refused(400, "noleader and level exclude each other"))
        }
        None if params.flag("noleader")? => Ok(ReadLevel::None),
        None | Some("linearizable") => Ok(ReadLevel::Linearizable),
        Some("none") => Ok(ReadLevel::None),
        Some("weak" | "auto") => Ok(ReadLevel::Weak),
        Some("strong") => Ok(ReadLevel::Strong),
        Some(_) => Err(Reply::refused(400, "level is none, weak, linearizable, strong or auto")),
    }
}

/// What no two requests have in common.
pub(crate) fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

fn span(params: &Params, name: &str) -> Result<Option<Duration>, Reply> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let text = form_decode(text)?;
    rqlite_json::span(&text)
        .map(Some)
        .ok_or_else(|| Reply::refused(400, &format!("{name} must be a time, as in {name}=1.5s")))
}

/// Text as forms and query strings carry it: a plus is a blank.
fn form_decode(text: &str) -> Result<String, Reply> {
    let bytes = percent_decode(&text.replace('+', " ")).ok_or_else(|| Reply::refused(400, "malformed escape"))?;
    String::from_utf8(bytes).map_err(|_| Reply::refused(400, "a query is UTF-8"))
}

fn statements(body: &[u8]) -> Result<Vec<Statement>, Reply> {
    rqlite_json::statements(body).map_err(|why| Reply::refused(400, &why))
}

/// `POST /db/execute`: statements that change something.
pub(crate) fn execute(server: &Server, head: &Head, body: &[u8]) -> Indexed {
    let answered = (|| {
        let params = Params::of(head);
        let asked = Asked::of(server, &params)?;
        let statements = statements(body)?;
        if server.host.sql_only_reads(&statements, asked.deadline) {
            return asked.read(server, statements, Kind::Execute);
        }
        asked.write(server, Kind::Execute, statements, head, body)
    })();
    answered.unwrap_or_else(Indexed::from)
}

/// `GET /db/query?q=...` and `POST /db/query`: statements that only read.
pub(crate) fn query(server: &Server, method: Method, head: &Head, body: &[u8]) -> Indexed {
    let answered = (|| {
        let params = Params::of(head);
        let asked = Asked::of(server, &params)?;
        let statements = match params.get("q") {
            Some(sql) => vec![Statement::bare(form_decode(sql)?)],
            None if method == Method::Post => statements(body)?,
            None => return Err(Reply::refused(400, "give a statement: /db/query?q=SELECT...")),
        };
        let run = Run { statements, is_transaction: false, kind: Kind::Query, seed: 0 };
        match run.excess() {
            Some(why) => Err(Reply::refused(413, &why)),
            None => asked.read(server, run.statements, Kind::Query),
        }
    })();
    answered.unwrap_or_else(Indexed::from)
}

/// `POST /db/request`: statements of both kinds. If all of them only read, no log is needed.
pub(crate) fn request(server: &Server, head: &Head, body: &[u8]) -> Indexed {
    let answered = (|| {
        let asked = Asked::of(server, &Params::of(head))?;
        let statements = statements(body)?;
        if server.host.sql_only_reads(&statements, asked.deadline) {
            return asked.read(server, statements, Kind::Request);
        }
        asked.write(server, Kind::Request, statements, head, body)
    })();
    answered.unwrap_or_else(Indexed::from)
}

/// `GET /db/digest`: fingerprints of this node's tables, and the index that they are of.
pub(crate) fn digest(server: &Server, head: &Head) -> Indexed {
    let answered = (|| {
        let level = level(&Params::of(head))?;
        match server.host.sql_digest(level, server.deadline()) {
            Outcome::Done(digest) => {
                let hex = |number: u64| format!("{number:016x}");
                let tables = digest.tables.iter().map(|(name, it)| (name.clone(), hex(*it).into()));
                let tables: serde_json::Map<_, _> = tables.collect();
                let body = json!({"index": digest.index, "schema": hex(digest.schema), "tables": tables});
                Ok(Indexed { reply: Reply::json(200, &body), index: Some(digest.index) })
            }
            other => Err(failed(server, other)),
        }
    })();
    answered.unwrap_or_else(|reply: Reply| reply.into())
}
