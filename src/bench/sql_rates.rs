//! The figures of `phalanx bench sql`: single-row inserts and point queries over HTTP, per second.
//!
//! Each insert is a request of its own with one statement and one parameter, so each is a transaction of its own that a
//! quorum has synced before it is answered. Each query reads one row by its key, drawn at random from those that were
//! filled in before. Not here: the clients (`load.rs`), printing (`cli/lab/bench.rs`).

use super::http_reply::{self, HttpReply};
use super::kv_rates::{LoadArgs, Rate};
use super::load;
use super::monitors;
use super::protocols::{Dialect, ServerReply};
use crate::lab::cluster::Cluster;
use crate::lab::{LabError, Result, web};
use crate::progress::Progress;
use crate::text::basic_credentials;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Rows that one request inserts while the table is filled.
const FILL_ROWS: u64 = 500;
/// Longest wait for an answer while the tables are created and filled.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Data is stored in a temporary folder: set TMPDIR to a folder on the disk to be measured.\n\
    With --endpoint, the tables bench_grown and bench_read of that database are dropped and created again.")]
pub struct Options {
    #[command(flatten)]
    pub common: LoadArgs,
    /// Size of the text in each row, in bytes
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=1 << 16))]
    pub value_bytes: u64,
    /// Number of rows to query
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rows: u64,
    /// Read consistency of the queries
    #[arg(long, default_value = "linearizable", value_parser = ["none", "weak", "linearizable", "strong"])]
    pub level: String,
}

/// Makes the tables, inserts, and queries; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, or one cannot be driven.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Vec<Rate>> {
    monitors::raise_file_limit();
    // Dropped at the end: it kills its nodes.
    let mut own = None;
    let addresses = options.common.servers(&mut own, exe, Cluster::http, progress)?;
    let value: String = std::iter::repeat_with(fastrand::alphanumeric).take(options.value_bytes as usize).collect();
    progress.begin_counted(&format!("filling in {} rows", options.rows), options.rows);
    let password = options.common.password.as_deref();
    prepare(&addresses[0], password, options.rows, &value, progress)?;
    let load = options.common.load(addresses, 1, options.rows);
    let (clients, span) = (options.common.clients, options.common.span);
    progress.begin_timed(&format!("inserts: {clients} clients for {} s", span.as_secs_f64()), span);
    let inserts = load::run(&load, &|| Box::new(SqlDialect::inserting(&value).with_password(password)))?;
    progress.begin_timed(&format!("queries: {clients} clients for {} s", span.as_secs_f64()), span);
    let queries = load::run(&load, &|| Box::new(SqlDialect::querying(&options.level).with_password(password)))?;
    Ok(vec![Rate::new("inserts", &inserts), Rate::new(format!("queries, {}", options.level), &queries)])
}

/// Drops and creates both tables: one that grows, and one of `rows` rows to be read.
fn prepare(address: &str, password: Option<&str>, rows: u64, value: &str, progress: &Progress) -> Result<()> {
    let execute = |statements: serde_json::Value| -> Result<()> {
        let answer = web::ask_with(password, address, "POST", "/db/execute", Some(&statements), PATIENCE)
            .map_err(LabError::io(format!("ask {address}")))?;
        match answer.status == 200 && !answer.text().contains("\"error\"") {
            true => Ok(()),
            false => Err(LabError::Answer(format!("{address} says {}: {}", answer.status, answer.text()))),
        }
    };
    execute(json!([
        "DROP TABLE IF EXISTS bench_grown",
        "DROP TABLE IF EXISTS bench_read",
        "CREATE TABLE bench_grown(id INTEGER PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE bench_read(id INTEGER PRIMARY KEY, value TEXT NOT NULL)",
    ]))?;
    let mut first = 0;
    while first < rows {
        let end = rows.min(first + FILL_ROWS);
        let series = "WITH RECURSIVE n(id) AS (VALUES(?) UNION ALL SELECT id + 1 FROM n WHERE id + 1 < ?) \
                      INSERT INTO bench_read SELECT id, ? FROM n";
        execute(json!([[series, first, end, value]]))?;
        first = end;
        progress.set(end);
    }
    Ok(())
}

/// One connection that sends requests of one statement.
#[derive(Debug)]
struct SqlDialect {
    target: String,
    body_prefix: String,
    body_suffix: String,
    is_keyed: bool,
    /// A header line, or nothing.
    authorization: String,
    /// A part of the body of each successful answer.
    success_marker: &'static str,
}

impl SqlDialect {
    fn inserting(value: &str) -> SqlDialect {
        SqlDialect {
            target: "/db/execute".into(),
            body_prefix: format!(r#"[["INSERT INTO bench_grown(value) VALUES(?)","{value}"]]"#),
            body_suffix: String::new(),
            is_keyed: false,
            authorization: String::new(),
            success_marker: "\"rows_affected\":1",
        }
    }

    fn querying(level: &str) -> SqlDialect {
        SqlDialect {
            target: format!("/db/query?level={level}"),
            body_prefix: r#"[["SELECT value FROM bench_read WHERE id = ?","#.into(),
            body_suffix: "]]".into(),
            is_keyed: true,
            authorization: String::new(),
            success_marker: "\"values\":[[",
        }
    }

    fn with_password(self, password: Option<&str>) -> SqlDialect {
        let authorization = password.map(|it| format!("Authorization: {}\r\n", basic_credentials(it)));
        SqlDialect { authorization: authorization.unwrap_or_default(), ..self }
    }
}

impl Dialect for SqlDialect {
    fn hello(&mut self) -> (Vec<u8>, usize) {
        (Vec::new(), 0)
    }

    fn write_command(&mut self, key: u64, out: &mut Vec<u8>) {
        let key = if self.is_keyed { key.to_string() } else { String::new() };
        let SqlDialect { target, body_prefix, body_suffix, authorization, .. } = self;
        let length = body_prefix.len() + key.len() + body_suffix.len();
        write!(
            out,
            "POST {target} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body_prefix}{key}{body_suffix}"
        )
        .expect("a Vec takes every write");
    }

    fn read_reply(
        &mut self,
        input: &[u8],
        _: &mut Vec<u8>,
    ) -> std::result::Result<Option<(usize, ServerReply)>, String> {
        let Some(HttpReply { length, status, body }) = http_reply::read(input)? else { return Ok(None) };
        let body = String::from_utf8_lossy(body);
        if status.starts_with('4') {
            return Err(format!("{status}: {body}"));
        }
        let heard = match status.starts_with("200") && body.contains(self.success_marker) {
            true => ServerReply::Fine,
            false => ServerReply::Refused(format!("{} {body}", status.get(..3).unwrap_or(status))),
        };
        Ok(Some((length, heard)))
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::sql_rates::*;

    #[test]
    fn answers_are_cut_at_every_byte_and_judged() {
        let answer =
            |status: &str, name: &str, body: &str| format!("HTTP/1.1 {status}\r\n{name}: {}\r\n\r\n{body}", body.len());
        let fine = answer("200 OK", "Content-Length", "{\"rows_affected\":1   }");
        let none = answer("200 OK", "content-length", "{\"error\":\"no table\"}\n");
        let gone = answer("503 Service Unavailable", "Content-Length", "{}");
        let whole = [fine, none, gone].concat();
        let mut dialect = SqlDialect::inserting("v");
        let (mut heard, mut at) = (Vec::new(), 0);
        for end in 0..=whole.len() {
            while at < end
                && let Some((used, what)) = dialect.read_reply(&whole.as_bytes()[at..end], &mut Vec::new()).unwrap()
            {
                at += used;
                heard.push(what);
            }
        }
        let refused = |text: &str| ServerReply::Refused(text.into());
        assert_eq!(heard, [ServerReply::Fine, refused("200 {\"error\":\"no table\"}\n"), refused("503 {}")]);
        let wrong = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(dialect.read_reply(wrong, &mut Vec::new()), Err("400 Bad Request: no".into()));
        assert!(dialect.read_reply(b"+OK\r\n\r\n\r\n", &mut Vec::new()).is_err());
    }

    #[test]
    fn requests_are_whole_and_keyed() {
        let mut out = Vec::new();
        SqlDialect::querying("none").write_command(17, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /db/query?level=none HTTP/1.1\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(body.ends_with(",17]]"), "{body}");
    }
}
