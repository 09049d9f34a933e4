//! `/db/execute`, `/db/query`, `/db/request`, `/db/digest`: SQL statements over HTTP.
//!
//! Parameters mean what they mean to rqlite, or nothing: a flag is set regardless of its value (`pretty=yes`), and
//! unknown ones are ignored. Without effect are those that choose another way to the same result (`redirect`,
//! `retries`: every node answers; `queue`, `wait`: the write is done before the response), those that switch off what
//! does not exist here (`noparse`, `norwrandom`, `norwtime`), and those of reads in a request that writes.
//! Not here: the syntax of bodies (`rqlite_json.rs`), whole databases (`files.rs`), what SQL does (`services/sql/`).

use super::rqlite_json::{self, Results, Style};
use crate::http::outcome::{done, failed, unexpected};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::head::Method;
use crate::http::protocol::idempotency;
use crate::http::protocol::params::Params;
use crate::http::protocol::params::percent_decode;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::http::server::Server;
use crate::node::SqlRead;
use crate::outcome::Outcome;
use crate::services::sql::{self, Answer, ReadLevel, Run, RunKind, Statement};
use crate::types::Index;
use serde_json::json;
use std::time::{Duration, Instant};

/// Parameters of all three operations.
pub(crate) const PARAMS: [&str; 21] = [
    "level",
    "freshness",
    "freshness_strict",
    "timings",
    "pretty",
    "transaction",
    "associative",
    "blob_array",
    "qualify_columns",
    "raft_index",
    "queue",
    "wait",
    "redirect",
    "retries",
    "timeout",
    "db_timeout",
    "linearizable_timeout",
    "noleader",
    "noparse",
    "norwrandom",
    "norwtime",
];
/// Longest wait of a request, whatever its `timeout` says.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The parameters of a request.
struct QueryParams {
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

impl QueryParams {
    fn of(server: &Server, params: &Params) -> Result<QueryParams, ApiError> {
        let flag = |name: &str| params.is_set(name);
        let mut most = server.request_timeout();
        for (at, name) in ["timeout", "db_timeout", "linearizable_timeout"].iter().enumerate() {
            if let Some(wait) = params.duration(name, Duration::MAX)? {
                if wait.is_zero() {
                    return Err(ApiError::refused(400, format!("{name} must be greater than 0")));
                }
                most = if at == 0 { wait.min(TIMEOUT_MAX) } else { most.min(wait) };
            }
        }
        let begun = Instant::now();
        Ok(QueryParams {
            style: Style {
                is_associative: flag("associative"),
                has_blob_arrays: flag("blob_array"),
                is_pretty: flag("pretty"),
            },
            has_timings: flag("timings"),
            has_index: flag("raft_index"),
            is_transaction: flag("transaction"),
            is_queued: flag("queue"),
            level: level(params)?,
            freshness: params.duration("freshness", Duration::MAX)?.filter(|most| !most.is_zero()),
            deadline: begun + most,
            begun,
        })
    }

    fn respond(&self, outcome: Outcome<(Index, Answer)>, times: Vec<Duration>) -> ApiResult {
        let (index, outcomes) = results(outcome)?;
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
        let response = Response { content_type: "application/json", body: body.write().into(), ..Response::empty(200) };
        Ok(response.at(index))
    }

    /// Reads that do not go through the log. The response to `/db/execute` holds no rows.
    fn read(&self, server: &Server, statements: Vec<Statement>, kind: RunKind) -> ApiResult {
        let read = SqlRead { statements, level: self.level, freshness: self.freshness, seed: seed() };
        let mut times = Vec::new();
        let mut held = server.host.memory().reservation();
        let mut outcome = server.host.sql_read(read, self.has_timings.then_some(&mut times), &mut held, self.deadline);
        if kind == RunKind::Execute
            && let Outcome::Done((_, Answer::Results(outcomes))) = &mut outcome
        {
            for one in outcomes.iter_mut().filter(|one| matches!(one, sql::Outcome::Rows { .. })) {
                *one = sql::Outcome::Changed { last_insert_id: 0, rows_affected: 0 };
            }
        }
        self.respond(outcome, times)
    }

    fn write(&self, request: &Request, statements: Vec<Statement>, kind: RunKind) -> ApiResult {
        let server = request.server;
        let tag = idempotency::tag(request.head, request.body)?;
        let run = Run { statements, is_transaction: self.is_transaction, kind, seed: seed() };
        if let Some(why) = run.excess() {
            return Err(ApiError::refused(413, why));
        }
        let mut times = Vec::new();
        let outcome = server.host.sql_run(run, tag, self.has_timings.then_some(&mut times), self.deadline);
        self.respond(outcome, times)
    }
}

/// The results of statements that were executed.
fn results(outcome: Outcome<(Index, Answer)>) -> Result<(Index, Vec<sql::Outcome>), ApiError> {
    match done(outcome)? {
        (index, Answer::Results(outcomes)) => Ok((index, outcomes)),
        (_, Answer::Refused(why)) => Err(failed(why)),
        _ => Err(unexpected()),
    }
}

/// Executes statements that only read, and whose results are small.
pub(super) fn read(
    request: &Request,
    statements: Vec<Statement>,
    level: ReadLevel,
) -> Result<(Index, Vec<sql::Outcome>), ApiError> {
    let host = &request.server.host;
    let read = SqlRead { statements, level, freshness: None, seed: seed() };
    results(host.sql_read(read, None, &mut host.memory().reservation(), request.deadline()))
}

/// The level of a read; linearizable unless the request names one.
pub(crate) fn level(params: &Params) -> Result<ReadLevel, ApiError> {
    match params.get("level") {
        None | Some("") if params.is_set("noleader") => Ok(ReadLevel::None),
        None | Some("" | "linearizable") => Ok(ReadLevel::Linearizable),
        Some("none") => Ok(ReadLevel::None),
        Some("weak" | "auto") => Ok(ReadLevel::Weak),
        Some("strong") => Ok(ReadLevel::Strong),
        Some(_) => Err(ApiError::refused(400, "level must be none, weak, linearizable, strong or auto")),
    }
}

/// A random number that differs for every request.
pub(crate) fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// Decodes text of forms and query strings: a plus is a blank.
pub(crate) fn form_decode(text: &str) -> Result<String, ApiError> {
    let bytes =
        percent_decode(&text.replace('+', " ")).ok_or_else(|| ApiError::refused(400, "malformed percent-encoding"))?;
    String::from_utf8(bytes).map_err(|_| ApiError::refused(400, "a query must be UTF-8"))
}

fn statements(body: &[u8]) -> Result<Vec<Statement>, ApiError> {
    rqlite_json::statements(body).map_err(|why| ApiError::refused(400, why))
}

/// `POST /db/execute`: statements that change something.
pub(crate) fn execute(request: &Request) -> ApiResult {
    read_or_write(request, RunKind::Execute)
}

/// `POST /db/request`: statements of both kinds.
pub(crate) fn request(request: &Request) -> ApiResult {
    read_or_write(request, RunKind::Request)
}

/// If all statements only read, the request does not go through the log.
fn read_or_write(request: &Request, kind: RunKind) -> ApiResult {
    idempotency::check(request.head)?;
    let params = QueryParams::of(request.server, &request.params())?;
    let statements = statements(request.body)?;
    if request.server.host.sql_only_reads(&statements, params.deadline) {
        return params.read(request.server, statements, kind);
    }
    params.write(request, statements, kind)
}

/// The statement of the parameter `q`, or those of the body.
fn asked(request: &Request) -> Result<Vec<Statement>, ApiError> {
    match request.params().get("q") {
        Some(sql) => Ok(vec![Statement::bare(form_decode(sql)?)]),
        None if request.head.method == Some(Method::Post) => statements(request.body),
        None => Err(ApiError::refused(400, format!("no statement: use {}?q=SELECT...", request.head.path()))),
    }
}

/// `GET /db/query?q=...` and `POST /db/query`: statements that only read.
pub(crate) fn query(request: &Request) -> ApiResult {
    let params = QueryParams::of(request.server, &request.params())?;
    let run = Run { statements: asked(request)?, is_transaction: false, kind: RunKind::Query, seed: 0 };
    match run.excess() {
        Some(why) => Err(ApiError::refused(413, why)),
        None => params.read(request.server, run.statements, RunKind::Query),
    }
}

/// `GET /db/sql?q=...` and `POST /db/sql`: whether statements can be prepared with the present schema. rqlite shows how it
/// rewrites them; here they are executed as they are.
pub(crate) fn check(request: &Request) -> ApiResult {
    let statements = asked(request)?;
    let plans = statements.iter().map(|one| Statement::bare(format!("EXPLAIN QUERY PLAN {}", one.sql))).collect();
    let (index, outcomes) = read(request, plans, ReadLevel::None)?;
    let result = |(statement, outcome): (&Statement, &sql::Outcome)| match outcome {
        sql::Outcome::Failed(why) => json!({"original": statement.sql, "error": why}),
        _ => json!({"original": statement.sql, "rewritten": statement.sql}),
    };
    let results: Vec<_> = statements.iter().zip(&outcomes).map(result).collect();
    Ok(Response::json(200, &json!({"results": results})).at(index))
}

/// `GET /db/digest`: fingerprints of this node's tables, and the index that they belong to.
pub(crate) fn digest(request: &Request) -> ApiResult {
    let level = level(&request.params())?;
    let digest = done(request.server.host.sql_digest(level, request.deadline()))?;
    let hex = |number: u64| format!("{number:016x}");
    let tables = digest.tables.iter().map(|(name, it)| (name.clone(), hex(*it).into()));
    let tables: serde_json::Map<_, _> = tables.collect();
    let body = json!({"index": digest.index, "schema": hex(digest.schema), "tables": tables});
    Ok(Response::json(200, &body).at(Index(digest.index)))
}
