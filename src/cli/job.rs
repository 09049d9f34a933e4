//! `phalanx job`: runs a program on the cluster with live output, or submits it for later.
//!
//! `run` continues with another node when the one that it is connected to dies: the job is in the log, so every node
//! knows it. When its worker dies, the job is restarted on another node, as a line on stderr says; its output is then
//! shown again, because it is another run. Ctrl+C cancels the job. Exit codes of `run`: that of the program; 128 + N if
//! signal N ended it; 1 with a reason otherwise.
//! Not here: the states of a job (`services/jobs/`), HTTP (`http/api/jobs.rs`, `http/api/job_output.rs`).

use super::client::{self, ClientArgs, ClusterClient, RawResponse, Request};
use super::fault::{Fault, code};
use super::kv::{parse_time, put_bytes};
use super::term;
use crate::http::protocol::lines::{Lines, Next};
use crate::node::process::signals;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// After this silence `run` asks another node (a node sends an empty line at least every 2 s).
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How long no node may be reachable before `run` stops following the job.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nodes that have just started may probe their runtimes.
const WORKERS_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait of one request of `show`: proxies close a connection that is silent for a minute.
const WAIT_AT_ONCE: Duration = Duration::from_secs(20);
/// Between two checks for Ctrl+C.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Exit code of a shell for a command that Ctrl+C ended.
const INTERRUPTED: u8 = 130;

/// Whether Ctrl+C was pressed.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Arguments of `phalanx job`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  phalanx job run hello.py\n  phalanx job run Main.java Helper.java -- first second\n  \
        phalanx job submit simulate.c --limit wall_ms=600000\n  phalanx job logs 17 -f\n\nExit codes: run: the \
        program's own, 128 + N for signal N, 1 if it did not compile or exceeded a limit; others: 0 done, 1 refused \
        or no such job, 4 no quorum or unreachable, 5 outcome unknown."
)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum JobCommand {
    /// Run a program on the cluster, show its output live and exit with its exit code
    Run {
        #[command(flatten)]
        program: ProgramArgs,
        /// Do not escape control characters on a terminal
        #[arg(long)]
        raw: bool,
    },
    /// Submit a program and print the job's id
    Submit {
        #[command(flatten)]
        program: ProgramArgs,
    },
    /// List jobs, newest first
    List {
        /// Maximum number of jobs
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Show the state and result of a job
    Show {
        /// Id of the job
        id: u64,
        /// Wait until the job has ended, at most this long (30s, 5m)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        wait: Option<Duration>,
    },
    /// Print the output of a job
    Logs {
        /// Id of the job
        id: u64,
        /// Print new output until the job has ended
        #[arg(short, long)]
        follow: bool,
        /// Do not escape control characters on a terminal
        #[arg(long)]
        raw: bool,
    },
    /// Cancel a job that is queued or running
    Cancel {
        /// Id of the job
        id: u64,
    },
    /// List the languages that the cluster can run, with nodes and versions
    Runtimes,
}

/// A program.
#[derive(Clone, Debug, clap::Args)]
struct ProgramArgs {
    /// Source files; the first one is run
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Language [default: by the extension of the first file]
    #[arg(short, long)]
    language: Option<String>,
    /// File for standard input, or - for stdin of this command [default: empty]
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Set a limit: wall_ms, cpu_ms, memory_mb, output_bytes, files_mb or processes; repeatable
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = parse_limit)]
    limits: Vec<(String, u64)>,
    /// Arguments of the program
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

fn parse_limit(text: &str) -> Result<(String, u64), String> {
    let (name, number) = text.split_once('=').ok_or("expected NAME=NUMBER, for example wall_ms=60000")?;
    Ok((name.to_string(), number.parse().map_err(|_| format!("{number:?} is not a number"))?))
}

pub fn run(args: &JobArgs) -> Result<(), Fault> {
    let client = &args.client;
    match &args.command {
        JobCommand::Run { program, raw } => run_program(program, *raw, client),
        JobCommand::Submit { program } => {
            let id = submit(&ClusterClient::new(client)?, &body_of(program, client)?)?;
            term::answer(client.json, &json!({"id": id}), || id.to_string());
            Ok(())
        }
        JobCommand::List { limit } => list(*limit, client),
        JobCommand::Show { id, wait } => show(*id, *wait, client),
        JobCommand::Logs { id, follow, raw } => {
            let asking = ClusterClient::new(client)?;
            let follow = if *follow { "follow&" } else { "" };
            let path = format!("/v1/jobs/{id}/output?{follow}format=ndjson");
            Watch::new(&asking, path, !client.json, *raw).follow(|| Ok(())).map(|_| ())
        }
        JobCommand::Cancel { id } => {
            let done = answered(ClusterClient::new(client)?.exchange(&cancellation(*id))?)?;
            term::answer(client.json, &done, || format!("job {id} is cancelled"));
            Ok(())
        }
        JobCommand::Runtimes => runtimes(client),
    }
}

fn cancellation(id: u64) -> Request {
    Request::once("DELETE", format!("/v1/jobs/{id}"), None)
}

/// The body of an answer that reports success.
fn answered(raw: RawResponse) -> Result<Value, Fault> {
    let next = match raw.status {
        200..=299 => return Ok(raw.json()),
        404 => "phalanx job list shows the jobs; results are kept for jobs_keep_ms",
        409 => "phalanx job show shows how it ended",
        400 => "phalanx job runtimes lists the languages",
        403 => "name a node where jobs are enabled with -e HOST:PORT",
        _ => return Err(raw.fault()),
    };
    Err(Fault::new(code::FAILED, raw.reason(), next))
}

/// A request for `POST /v1/jobs`.
fn body_of(program: &ProgramArgs, client: &ClientArgs) -> Result<Vec<u8>, Fault> {
    let language = match &program.language {
        Some(language) => language.clone(),
        None => language_of(&program.files[0], client)?,
    };
    let files = program.files.iter().map(|file| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut row = json!({"name": name});
        put_bytes(&mut row, "content", "encoding", read(file)?);
        Ok(row)
    });
    let files: Vec<Value> = files.collect::<Result<_, Fault>>()?;
    let limits: Map<String, Value> =
        program.limits.iter().map(|(name, number)| (name.clone(), (*number).into())).collect();
    let mut body = json!({"language": language, "files": files, "args": program.args, "limits": limits});
    if let Some(stdin) = &program.stdin {
        put_bytes(&mut body, "stdin", "stdin_encoding", read(stdin)?);
    }
    Ok(body.to_string().into_bytes())
}

/// Bytes of a file that are read: more than any node accepts. Some files have no end.
const READ_MAX: u64 = 16 << 20;

fn read(file: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => io::stdin().lock().take(READ_MAX + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(file).and_then(|open| open.take(READ_MAX + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|e| {
        Fault::new(code::USAGE, format!("cannot read {}: {e}", file.display()), "give a file that can be read")
    })?;
    if bytes.len() as u64 > READ_MAX {
        let message = format!("{} is longer than {} MiB", file.display(), READ_MAX >> 20);
        return Err(Fault::new(code::USAGE, message, "sources and input of a job may have at most 4 MiB together"));
    }
    Ok(bytes)
}

/// The language whose usual file has the same extension.
fn language_of(file: &Path, client: &ClientArgs) -> Result<String, Fault> {
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ending = match ending.as_str() {
        "cc" | "cxx" => "cpp",
        "mjs" => "js",
        "bash" => "sh",
        other => other,
    };
    let runtimes = client::settings(client.settings.as_deref()).unwrap_or_default().runtimes;
    let has_ending = |name: &str| Path::new(name).extension().is_some_and(|other| other == ending);
    runtimes.into_iter().find(|runtime| has_ending(&runtime.file_name)).map(|runtime| runtime.language).ok_or_else(
        || {
            let message = format!("{}: no language is known for this file extension", file.display());
            Fault::new(code::USAGE, message, "give it with --language; phalanx job runtimes lists the languages")
        },
    )
}

/// Submits a job. Waits for nodes that have just started and still probe their runtimes, which takes longer than a node
/// holds a request.
fn submit(client: &ClusterClient, body: &[u8]) -> Result<u64, Fault> {
    let until = Instant::now() + WORKERS_WITHIN;
    let (mut has_said, mut was_late) = (false, false);
    let raw = loop {
        match client.exchange(&Request::once("POST", "/v1/jobs".to_string(), Some(body.to_vec()))) {
            Err(fault) if fault.code == code::UNREACHABLE && Instant::now() < until => match workers(client) {
                Some(0) => {}
                // The first may have joined since the refusal.
                Some(_) if !std::mem::replace(&mut was_late, true) => continue,
                _ => return Err(fault),
            },
            result => break result?,
        }
        if IS_INTERRUPTED.load(Ordering::Relaxed) {
            return Err(Fault::new(INTERRUPTED, "interrupted: no job was submitted", ""));
        }
        if !std::mem::replace(&mut has_said, true) {
            eprintln!("waiting: no worker has joined yet");
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let done = answered(raw)?;
    done["id"]
        .as_u64()
        .ok_or_else(|| Fault::new(code::UNKNOWN, "the response has no job id", "phalanx job list shows the jobs"))
}

/// Number of workers that have joined; `None` without a leader.
fn workers(client: &ClusterClient) -> Option<usize> {
    let status = client.exchange(&Request::get("/v1/status")).map(|raw| raw.json()).unwrap_or_default();
    status["cluster"]["leader"].as_u64()?;
    Some(status["jobs"]["workers"].as_array()?.len())
}

fn run_program(program: &ProgramArgs, is_raw: bool, args: &ClientArgs) -> Result<(), Fault> {
    let client = ClusterClient::new(args)?;
    // If this fails, Ctrl+C ends this command and the job continues.
    let _ = signals::listen(|_| IS_INTERRUPTED.store(true, Ordering::Relaxed));
    let id = submit(&client, &body_of(program, args)?)?;
    let path = format!("/v1/jobs/{id}/output?follow&format=ndjson");
    let interrupt = || match IS_INTERRUPTED.load(Ordering::Relaxed) {
        true => {
            let message = match client.exchange(&cancellation(id)).and_then(answered) {
                Ok(_) => format!("interrupted: job {id} is cancelled"),
                Err(fault) => format!("interrupted, but job {id} could not be cancelled: {}", fault.message),
            };
            Err(Fault::new(INTERRUPTED, message, ""))
        }
        false => Ok(()),
    };
    let end = Watch::new(&client, path, !args.json, is_raw).follow(interrupt)?;
    if args.json {
        term::json(&end);
    }
    ending(id, &end)
}

/// The result of this command for how the job ended.
fn ending(id: u64, end: &Value) -> Result<(), Fault> {
    let state = end["state"].as_str().unwrap_or("unknown");
    let worker = end["worker"].as_u64().unwrap_or(0);
    let exit = |number: i64| u8::try_from(number).unwrap_or(code::FAILED);
    Err(match (state, end["exit_code"].as_i64(), end["signal"].as_i64()) {
        ("finished", Some(0), _) => return Ok(()),
        ("finished", Some(number), _) => Fault::new(exit(number), "", ""),
        ("finished", None, Some(signal)) => {
            let message = format!("job {id} was killed by signal {signal} on node {worker}");
            Fault::new(exit(128 + signal), message, "")
        }
        ("not_compiled", ..) => Fault::failed(format!("job {id} did not compile")),
        ("failed", ..) => {
            let why = end["error"].as_str().unwrap_or("no reason given");
            Fault::new(code::FAILED, format!("job {id} failed: {why}"), format!("phalanx job show {id}"))
        }
        ("cancelled", ..) => Fault::failed(format!("job {id} was cancelled")),
        (limit, ..) => {
            let next = "raise the limit with --limit NAME=NUMBER; phalanx job show lists the limits of the job";
            Fault::new(code::FAILED, format!("job {id}: {} on node {worker}", limit.replace('_', " ")), next)
        }
    })
}

/// A job's output, from whichever node has it.
struct Watch<'a> {
    client: &'a ClusterClient,
    path: String,
    is_shown: bool,
    /// Whether control characters are not escaped on a terminal.
    is_raw: bool,
    /// Of standard output and standard error, on a terminal.
    pieces: [term::Pieces; 2],
    attempt: u64,
    /// Why the job waits, as printed last.
    waits_for: String,
    /// Bytes of standard output and standard error of this attempt that were shown.
    shown: [usize; 2],
    /// Bytes received on this connection, which starts with the first byte again.
    heard: [usize; 2],
}

impl<'a> Watch<'a> {
    fn new(client: &'a ClusterClient, path: String, is_shown: bool, is_raw: bool) -> Watch<'a> {
        let pieces = Default::default();
        let waits_for = String::new();
        Watch { client, path, is_shown, is_raw, pieces, attempt: 0, waits_for, shown: [0; 2], heard: [0; 2] }
    }

    /// Shows all output; returns the last line of a job that has ended, else `null`.
    fn follow(&mut self, interrupt: impl Fn() -> Result<(), Fault>) -> Result<Value, Fault> {
        let mut lost_at: Option<Instant> = None;
        loop {
            interrupt()?;
            match self.client.lines(&self.path, LOOK_EVERY) {
                Ok(mut lines) => {
                    lost_at = None;
                    self.heard = [0; 2];
                    if let Some(end) = self.listen(&mut lines, &interrupt)? {
                        return Ok(end);
                    }
                    self.client.turn_to_next();
                }
                Err(fault) if fault.code != code::UNREACHABLE => return Err(fault),
                Err(fault) => {
                    if lost_at.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(fault);
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
    }

    /// Shows the output from one node; `None` if the connection broke.
    fn listen(&mut self, lines: &mut Lines, interrupt: impl Fn() -> Result<(), Fault>) -> Result<Option<Value>, Fault> {
        let mut last_word = Instant::now();
        loop {
            let line = match lines.next() {
                Ok(Next::Line(line)) => line,
                Ok(Next::Nothing) if last_word.elapsed() < SILENCE_MAX => {
                    interrupt()?;
                    continue;
                }
                Ok(Next::End) if !self.path.contains("follow") => return Ok(Some(Value::Null)),
                Ok(Next::Nothing | Next::End) | Err(_) => return Ok(None),
            };
            last_word = Instant::now();
            interrupt()?;
            let Ok(said) = serde_json::from_slice::<Value>(&line) else { continue };
            if said["state"].is_string() {
                return Ok(Some(said));
            }
            if let Some(why) = said["waiting"].as_str() {
                self.explain(why);
                continue;
            }
            self.turn_to(said["attempt"].as_u64().unwrap_or(self.attempt), &said);
            let bytes = match (said["text"].as_str(), said["base64"].as_str()) {
                (Some(text), _) => text.as_bytes().to_vec(),
                (_, Some(text)) => BASE64.decode(text).unwrap_or_default(),
                _ => continue,
            };
            self.show(if said["stream"] == "stderr" { 1 } else { 0 }, &bytes)?;
        }
    }

    /// Prints why the job waits, unless that was printed last.
    fn explain(&mut self, why: &str) {
        if self.is_shown && self.waits_for != why {
            let text = format!("waiting: {}", term::plain_err(why));
            eprintln!("{}", term::paint_err(&text, term::Colour::Yellow));
        }
        self.waits_for = why.to_string();
    }

    fn turn_to(&mut self, attempt: u64, said: &Value) {
        if attempt == self.attempt {
            return;
        }
        if self.attempt > 0 && self.is_shown {
            let where_to = said["worker"].as_u64().map_or(String::new(), |worker| format!(" on node {worker}"));
            let why = if said["why"] == "not_started" { "its sandbox did not start" } else { "its worker was lost" };
            let text = format!("{why}: restarted{where_to}, attempt {attempt}");
            eprintln!("{}", term::paint_err(&text, term::Colour::Yellow));
        }
        self.attempt = attempt;
        (self.shown, self.heard) = ([0; 2], [0; 2]);
    }

    fn show(&mut self, place: usize, bytes: &[u8]) -> Result<(), Fault> {
        let known = (self.shown[place] - self.heard[place]).min(bytes.len());
        self.heard[place] += bytes.len();
        self.shown[place] += bytes.len() - known;
        if !self.is_shown {
            return Ok(());
        }
        let written = match place {
            0 => term::piece(io::stdout(), &bytes[known..], &mut self.pieces[0], self.is_raw),
            _ => term::piece(io::stderr(), &bytes[known..], &mut self.pieces[1], self.is_raw),
        };
        written.map_err(|e| Fault::failed(format!("cannot write the output: {e}")))
    }
}

fn list(limit: u64, args: &ClientArgs) -> Result<(), Fault> {
    let answer = answered(ClusterClient::new(args)?.exchange(&Request::get(format!("/v1/jobs?limit={limit}")))?)?;
    if args.json {
        term::json(&answer);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = answer["jobs"].as_array().into_iter().flatten().map(row).collect();
    match rows.is_empty() {
        true => eprintln!("no jobs; submit one with: phalanx job run FILE"),
        false => {
            term::out(&term::table(&["job", "language", "state", "exit", "node", "attempt", "took", "files"], &rows))
        }
    }
    Ok(())
}

fn row(job: &Value) -> Vec<String> {
    let text = |name: &str| match &job[name] {
        Value::String(text) => term::plain(text),
        Value::Null => "-".to_string(),
        other => other.to_string(),
    };
    let exit = match job["signal"].as_i64() {
        Some(signal) => format!("signal {signal}"),
        None => text("exit_code"),
    };
    let took = match (job["compile_ms"].as_u64(), job["run_ms"].as_u64()) {
        (Some(compile), Some(run)) => term::span(compile + run),
        _ => "-".to_string(),
    };
    let files: Vec<&str> = job["files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    vec![
        text("id"),
        text("language"),
        text("state"),
        exit,
        text("worker"),
        text("attempt"),
        took,
        term::plain(&files.join(" ")),
    ]
}

fn show(id: u64, wait: Option<Duration>, args: &ClientArgs) -> Result<(), Fault> {
    let mut client = ClusterClient::new(args)?;
    if wait.is_some() {
        client = client.waiting(WAIT_AT_ONCE + Duration::from_secs(5));
    }
    let until = wait.map(|wait| Instant::now() + wait);
    let job = loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()).min(WAIT_AT_ONCE));
        let param = left.map_or(String::new(), |left| format!("?wait={}ms", left.as_millis()));
        let job = answered(client.exchange(&Request::get(format!("/v1/jobs/{id}{param}")))?)?;
        let has_ended = !matches!(job["state"].as_str(), Some("queued" | "running"));
        if has_ended || left.is_none_or(|left| left.is_zero()) {
            break job;
        }
    };
    if args.json {
        term::json(&job);
        return Ok(());
    }
    for (name, value) in job.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let name = term::plain(name);
        let text = value.as_str().map(|text| format!("\"{}\"", term::plain(text.trim_end_matches('\n'))));
        let shown = text.unwrap_or_else(|| term::escaped(&value.to_string()));
        term::line(&format!("{name:<16} {shown}"));
    }
    Ok(())
}

fn runtimes(args: &ClientArgs) -> Result<(), Fault> {
    let answer = answered(ClusterClient::new(args)?.exchange(&Request::get("/v1/runtimes".to_string()))?)?;
    if args.json {
        term::json(&answer);
        return Ok(());
    }
    for trouble in answer["troubles"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{}", term::paint_err(&term::plain_err(trouble), term::Colour::Yellow));
    }
    let mut watched =
        answer["workers"].as_array().into_iter().flatten().filter(|row| row["process_limit"] == "watched");
    if let Some(first) = watched.next() {
        let ids = watched.fold(first["id"].to_string(), |ids, row| ids + " " + &row["id"].to_string());
        let text =
            format!("nodes {ids}: no cgroup limits the processes of a job; the node counts them at intervals instead");
        eprintln!("{}", term::paint_err(&text, term::Colour::Yellow));
    }
    let rows = answer["runtimes"].as_array().into_iter().flatten().map(|row| {
        let nodes = row["nodes"].as_array().cloned().unwrap_or_default();
        let ids: Vec<String> = nodes.iter().filter_map(|node| Some(node["id"].as_u64()?.to_string())).collect();
        let mut versions: Vec<&str> = nodes.iter().filter_map(|node| node["version"].as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        vec![row["language"].as_str().unwrap_or_default().to_string(), ids.join(" "), versions.join(", ")]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    match rows.is_empty() {
        true => eprintln!("no node has a runtime yet: try again in a second, or see the nodes' logs"),
        false => term::out(&term::table(&["language", "nodes", "version"], &rows)),
    }
    Ok(())
}
