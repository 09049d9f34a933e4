//! `phalanx kv`: keys and values of any bytes, through whichever node answers.
//!
//! `get` writes the value to stdout unchanged. `scan` and `watch` write lines: they escape bytes that are not text as
//! `\xff`, tabs and line breaks as `\t`, `\n` and `\r`, and a backslash as `\\`; on a terminal also control characters.
//! Every change carries an `Idempotency-Key`, so that it can be sent to the next node when one dies, and takes effect
//! once. Exit codes: 0; 1 no such key, or the condition is not met; 4 and 5 as for all commands.
//! Not here: what the store does (`services/kv/`), HTTP (`http/api/kv.rs`).

use super::client::{ClientArgs, ClusterClient, RawResponse, Request};
use super::fault::{Fault, code};
use super::term;
use crate::text::percent_encode;
use crate::time::parse_duration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keys asked for at once.
const PAGE: u64 = 200;
/// How long one request of `watch` waits.
const WATCH_SECONDS: u64 = 25;

/// Arguments of `phalanx kv`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx kv put greeting 'hello world'\n  phalanx kv get greeting\n  \
    phalanx kv put logo --file logo.png --ttl 1h\n  phalanx kv cas greeting 17 'hello again'\n  \
    phalanx kv scan user/ --json\n\nExit codes: 0 done, 1 no such key or condition not met, 4 no quorum or unreachable, \
    5 outcome unknown.")]
pub struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
    #[command(flatten)]
    client: ClientArgs,
}

/// How fresh a read is, or when a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    // No doc comments: clap would print them for reads and writes alike.
    #[default]
    Linearizable,
    Eventual,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum KvCommand {
    /// Print the value of a key; on a terminal, control characters are escaped
    Get {
        /// The key
        key: OsString,
        /// Do not escape control characters on a terminal
        #[arg(long)]
        raw: bool,
        /// linearizable: sees every acknowledged write; eventual: what the asked node has applied
        #[arg(long, value_enum, default_value_t)]
        level: Level,
    },
    /// Write a key; print its new index
    Put {
        /// The key
        key: OsString,
        /// The value; - reads it from stdin, as does none if stdin is not empty
        #[arg(allow_hyphen_values = true, value_parser = OsStringValueParser::new().try_map(parse_value))]
        value: Option<OsString>,
        /// Write only if the key has this index (0: only if it does not exist)
        #[arg(long, value_name = "INDEX")]
        if_index: Option<u64>,
        /// Acknowledged by: linearizable, a quorum; eventual, the leader alone, which may lose the write
        #[arg(long, value_enum, default_value_t)]
        level: Level,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a key
    Del {
        /// The key
        key: OsString,
        /// Remove only if the key has this index
        #[arg(long, value_name = "INDEX")]
        if_index: Option<u64>,
    },
    /// Add to the number in a key; print the sum
    Incr {
        /// The key; a missing one counts as 0
        key: OsString,
        /// The number to add
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Write a key only if it has this index (compare and set); print its new index
    Cas {
        /// The key
        key: OsString,
        /// The index that the key must have (0: it must not exist)
        index: u64,
        /// The value; - reads it from stdin, as does none if stdin is not empty
        #[arg(allow_hyphen_values = true, value_parser = OsStringValueParser::new().try_map(parse_value))]
        value: Option<OsString>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List keys in order, one line each: index, key, value
    Scan {
        /// List only keys with this prefix
        #[arg(default_value = "")]
        prefix: OsString,
        /// Maximum number of keys
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Print keys without index and value
        #[arg(long)]
        keys_only: bool,
        /// linearizable: sees every acknowledged write; eventual: what the asked node has applied
        #[arg(long, value_enum, default_value_t)]
        level: Level,
    },
    /// Print a key's value now and after each change, one line each
    Watch {
        /// The key
        key: OsString,
        /// Start with the first change after this index
        #[arg(long, value_name = "INDEX")]
        index: Option<u64>,
        /// Exit after one line
        #[arg(long)]
        once: bool,
    },
}

/// Where a value comes from, and how long it stays.
#[derive(Clone, Debug, clap::Args)]
struct WriteArgs {
    /// Read the value from this file (- is stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Remove the key after this time (500ms, 30s or 30, 5m, 1h)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    ttl: Option<Duration>,
}

/// A value as typed. One that looks like a misspelt option is refused, unless it stands after `--`.
fn parse_value(value: OsString) -> Result<OsString, String> {
    let is_like_option = value.as_bytes().starts_with(b"--") && value.len() > 2;
    match is_like_option && std::env::args_os().all(|arg| arg != "--") {
        true => Err("no such option; a value that begins with -- stands after --: kv put KEY -- VALUE".to_string()),
        false => Ok(value),
    }
}

/// A duration of at least a millisecond.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let is_whole = |time: &Duration| (1..=u128::from(u64::MAX)).contains(&time.as_millis());
    let why = || format!("{text:?} is not a duration above 0, as in 500ms, 30s, 1m30s or 1h");
    parse_duration(text).filter(is_whole).ok_or_else(why)
}

pub fn run(args: &KvArgs) -> Result<(), Fault> {
    let client = &args.client;
    match &args.command {
        KvCommand::Get { key, raw, level } => get(key, *raw, *level, client),
        KvCommand::Put { key, value, if_index, level, write } => {
            put(key, value.as_ref(), *if_index, *level, write, client)
        }
        KvCommand::Del { key, if_index } => del(key, *if_index, client),
        KvCommand::Incr { key, by } => incr(key, *by, client),
        KvCommand::Cas { key, index, value, write } => {
            put(key, value.as_ref(), Some(*index), Level::Linearizable, write, client)
        }
        KvCommand::Scan { prefix, limit, keys_only, level } => scan(prefix, *limit, *keys_only, *level, client),
        KvCommand::Watch { key, index, once } => watch(key, *index, *once, client),
    }
}

fn path(key: &OsString, params: &[(&str, String)]) -> String {
    let mut path = format!("/v1/kv/{}", percent_encode(key.as_bytes()));
    for (n, (name, value)) in params.iter().enumerate() {
        let _ = write!(path, "{}{name}={value}", if n == 0 { '?' } else { '&' });
    }
    path
}

fn level_param(level: Level) -> Vec<(&'static str, String)> {
    if level == Level::Eventual { vec![("level", "eventual".to_string())] } else { Vec::new() }
}

/// The error for a status other than success.
fn declined(raw: &RawResponse) -> Fault {
    let said = raw.reason();
    match raw.status {
        404 => Fault::new(code::FAILED, said, "phalanx kv scan lists the keys"),
        412 => Fault::new(code::FAILED, format!("condition not met: {said}"), "read the key again before you retry"),
        _ => raw.fault(),
    }
}

/// Sends a request; an answer other than success is an error.
fn succeed(client: &ClusterClient, request: &Request) -> Result<RawResponse, Fault> {
    let raw = client.exchange(request)?;
    if matches!(raw.status, 200 | 202) { Ok(raw) } else { Err(declined(&raw)) }
}

fn get(key: &OsString, is_raw: bool, level: Level, args: &ClientArgs) -> Result<(), Fault> {
    let raw = succeed(&ClusterClient::new(args)?, &Request::get(path(key, &level_param(level))))?;
    if args.json {
        term::json(&described(key.clone().into_vec(), &raw));
        return Ok(());
    }
    let mut bytes = raw.body;
    if io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    match term::piece(io::stdout(), &bytes, &mut term::Pieces::default(), is_raw) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Fault::failed(format!("cannot write to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// A key and its value in the form of `/v1/kv?prefix=`.
fn described(key: Vec<u8>, raw: &RawResponse) -> Value {
    let mut value = json!({"index": raw.key_index});
    if let Some(ttl_ms) = raw.ttl_ms {
        value["ttl_ms"] = ttl_ms.into();
    }
    put_bytes(&mut value, "key", "key_encoding", key);
    match raw.status {
        200 => put_bytes(&mut value, "value", "encoding", raw.body.clone()),
        _ => value["value"] = Value::Null,
    }
    value
}

/// Adds bytes to a JSON object: as text, or in base64 with a field that says so.
pub fn put_bytes(into: &mut Value, name: &str, encoding: &str, bytes: Vec<u8>) {
    match String::from_utf8(bytes) {
        Ok(text) => into[name] = text.into(),
        Err(e) => {
            into[name] = BASE64.encode(e.as_bytes()).into();
            into[encoding] = "base64".into();
        }
    }
}

/// The bytes to write: from the argument, a file or stdin.
fn value_of(value: Option<&OsString>, file: Option<&Path>) -> Result<Vec<u8>, Fault> {
    let unreadable =
        |from: &str, e: io::Error| Fault::new(code::FAILED, format!("cannot read {from}: {e}"), "nothing was sent");
    match (value, file) {
        (Some(value), _) if value != "-" => Ok(value.clone().into_vec()),
        (_, Some(file)) if file != Path::new("-") => {
            std::fs::read(file).map_err(|e| unreadable(&file.display().to_string(), e))
        }
        (value, file) => {
            if value.is_none() && file.is_none() && io::stdin().is_terminal() {
                eprintln!("reading the value from the terminal; press Ctrl+D to end it");
            }
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map_err(|e| unreadable("stdin", e))?;
            if bytes.is_empty() && value.is_none() && file.is_none() && !io::stdin().is_terminal() {
                let next = "nothing was sent; give a value: '' is an empty one, and - takes stdin even if it is empty";
                return Err(Fault::new(code::USAGE, "no value: none is given, and stdin is empty", next));
            }
            Ok(bytes)
        }
    }
}

fn put(
    key: &OsString,
    value: Option<&OsString>,
    if_index: Option<u64>,
    level: Level,
    write: &WriteArgs,
    args: &ClientArgs,
) -> Result<(), Fault> {
    let client = ClusterClient::new(args)?;
    let mut params = level_param(level);
    params.extend(if_index.map(|index| ("cas", index.to_string())));
    params.extend(write.ttl.map(|ttl| ("ttl_ms", ttl.as_millis().to_string())));
    let body = value_of(value, write.file.as_deref())?;
    let raw = succeed(&client, &Request::once("PUT", path(key, &params), Some(body)))?;
    match raw.status {
        _ if args.json => term::json(&raw.json()),
        202 => eprintln!("accepted by the leader; not yet on a quorum"),
        _ => term::line(&raw.json()["index"].to_string()),
    }
    Ok(())
}

fn del(key: &OsString, if_index: Option<u64>, args: &ClientArgs) -> Result<(), Fault> {
    let params: Vec<_> = if_index.map(|index| ("cas", index.to_string())).into_iter().collect();
    let answer = succeed(&ClusterClient::new(args)?, &Request::once("DELETE", path(key, &params), None))?.json();
    if args.json {
        term::json(&answer);
    }
    match answer["deleted"] == true {
        true => Ok(()),
        false => Err(Fault::new(code::FAILED, "no such key", "phalanx kv scan lists the keys")),
    }
}

fn incr(key: &OsString, by: i64, args: &ClientArgs) -> Result<(), Fault> {
    let request = Request::change("POST", path(key, &[]), &json!({"incr": by}));
    let answer = succeed(&ClusterClient::new(args)?, &request)?.json();
    term::answer(args.json, &answer, || answer["value"].to_string());
    Ok(())
}

fn scan(prefix: &OsString, limit: Option<u64>, keys_only: bool, level: Level, args: &ClientArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(args)?;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut after = String::new();
    while left > 0 {
        let mut path = format!("/v1/kv?prefix={}&limit={}", percent_encode(prefix.as_bytes()), left.min(PAGE));
        for (name, value) in level_param(level) {
            let _ = write!(path, "&{name}={value}");
        }
        let page = succeed(&client, &Request::get(path + &after))?.json();
        let mut text = String::new();
        for row in page["keys"].as_array().into_iter().flatten() {
            left -= 1;
            let (key, value) = (bytes_of(row, "key", "key_encoding"), bytes_of(row, "value", "encoding"));
            match (args.json, keys_only) {
                (true, _) => _ = writeln!(text, "{}", term::escaped(&row.to_string())),
                (false, true) => _ = writeln!(text, "{}", printable(&key)),
                (false, false) => _ = writeln!(text, "{}\t{}\t{}", row["index"], printable(&key), printable(&value)),
            }
        }
        term::out(&text);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    Ok(())
}

fn bytes_of(row: &Value, name: &str, encoding: &str) -> Vec<u8> {
    let text = row[name].as_str().unwrap_or_default();
    match row[encoding] == "base64" {
        true => BASE64.decode(text).unwrap_or_default(),
        false => text.as_bytes().to_vec(),
    }
}

/// Any bytes as text on one line; on a terminal without control characters.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if term::obeys(c) => c.to_string().bytes().for_each(|byte| _ = write!(text, "\\x{byte:02x}")),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn watch(key: &OsString, index: Option<u64>, once: bool, args: &ClientArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(args)?;
    // The answer comes only when the wait is over.
    let client =
        client.waiting(Duration::from_secs_f64(args.timeout.unwrap_or(5.0)) + Duration::from_secs(WATCH_SECONDS));
    let mut known = index;
    loop {
        let params: Vec<_> = match known {
            Some(index) => vec![("watch", index.to_string()), ("wait", format!("{WATCH_SECONDS}s"))],
            None => Vec::new(),
        };
        let raw = client.exchange(&Request::get(path(key, &params)))?;
        let revision = raw.key_index.unwrap_or(0);
        match raw.status {
            304 => continue,
            200 | 404 if raw.key_index.is_some() => {}
            _ => return Err(declined(&raw)),
        }
        known = Some(revision);
        match (args.json, raw.status) {
            (true, _) => term::line(&term::escaped(&described(key.clone().into_vec(), &raw).to_string())),
            (false, 200) => term::line(&format!("{revision}\t{}", printable(&raw.body))),
            (false, _) => term::line("0\t(no such key)"),
        }
        if once {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_millisecond_at_least() {
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "999us", "soon", "9223372036854775807"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_hold_any_bytes_and_no_commands_to_the_terminal() {
        assert_eq!(printable("grün\n\\".as_bytes()), "grün\\n\\\\");
        assert_eq!(printable(b"a\xff\tb\r"), "a\\xff\\tb\\r");
    }
}
