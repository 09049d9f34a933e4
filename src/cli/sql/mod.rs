//! `phalanx sql`: a shell for the database, on whichever node answers.
//!
//! Each statement is a request of its own under an `Idempotency-Key`: when its node dies, it is sent to the next one,
//! and takes effect once. So there are no transactions over several requests; the part of a script up to its last
//! COMMIT (as in a dump) is loaded as a whole, all or nothing. At the prompt, Ctrl+C ends the wait for an answer, not
//! the shell.
//! Exit codes: 0; 1 a statement failed (those before it are applied); 2 usage; 4 and 5 as for all commands.
//! Not here: where statements end and how rows are printed (`text.rs`), rqlite's format (`http/db/rqlite_json.rs`).

pub(crate) mod interrupt;
pub(crate) mod text;
use self::interrupt::Interrupts;
use self::text::OutputFormat;
use super::client::{ClientArgs, ClusterClient, RawResponse, Request};
use super::fault::{Fault, code};
use super::term;
use crate::progress::Progress;
use crate::text::without_byte_order_mark;
use rustyline::error::ReadlineError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines between two checks whether Ctrl+C was pressed.
const LINES_AT_ONCE: usize = 100;
/// Longest wait for a whole database.
const DUMP_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum depth of nested `.read`.
const READS_MAX: u32 = 16;
/// The commands of the shell besides SQL.
const HELP: &str = "\
.tables            list tables and views
.schema [NAME]     show the definitions of all tables, or of one
.dump              print the whole database as SQL
.read FILE         run the SQL in a file; from BEGIN to COMMIT it is one transaction
.foreign_keys [on|off]  show or set for the whole cluster whether foreign keys are enforced
.mode table|csv|json
.help .quit        statements end with ; and may span several lines
";

/// Arguments of `phalanx sql`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx sql\n  phalanx sql -c 'SELECT * FROM users' --csv\n  \
    phalanx sql -f schema.sql\n\nExit codes: 0 done, 1 a statement failed, 2 usage, 4 no quorum or unreachable, \
    5 outcome unknown.")]
pub struct SqlArgs {
    /// Run these statements and exit; repeatable
    #[arg(short, long, value_name = "SQL", allow_hyphen_values = true)]
    command: Vec<String>,
    /// Run the SQL in a file and exit; - is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    file: Option<PathBuf>,
    /// Print rows as CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Read consistency
    #[arg(long, value_name = "LEVEL", default_value = "linearizable",
        value_parser = ["none", "weak", "linearizable", "strong"])]
    level: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Body of a response.
#[derive(Debug, Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<StatementResult>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatementResult {
    error: Option<String>,
    columns: Option<Vec<String>>,
    values: Vec<Vec<Value>>,
    rows_affected: u64,
}

struct Shell {
    client: ClusterClient,
    form: OutputFormat,
    level: String,
    is_interactive: bool,
    /// Ctrl+C, at a terminal.
    interrupts: Option<Interrupts>,
    /// Node that answered last.
    node: String,
    /// Depth of nested `.read`.
    depth: u32,
}

/// # Errors
/// Those of the exit codes at the top of this file.
pub fn run(args: &SqlArgs) -> Result<(), Fault> {
    let form = match (args.csv, args.client.json) {
        (true, _) => OutputFormat::Csv,
        (_, true) => OutputFormat::Json,
        _ => OutputFormat::Table,
    };
    let client = ClusterClient::new(&args.client)?;
    let (level, node) = (args.level.clone(), String::new());
    let mut shell = Shell { client, form, level, is_interactive: false, interrupts: None, node, depth: 0 };
    if !args.command.is_empty() {
        return args.command.iter().try_for_each(|text| shell.script(text));
    }
    // A shell or a script may run longer than the nodes that were given.
    shell.client.learn();
    match &args.file {
        Some(path) if path.as_os_str() != "-" => shell.read(path),
        None if io::stdin().is_terminal() => {
            shell.is_interactive = true;
            shell.interrupts = Interrupts::catch();
            shell.talk()
        }
        _ => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(|e| unreadable(Path::new("stdin"), &e))?;
            shell.script(sql_in(&bytes, Path::new("stdin"))?)
        }
    }
}

/// The text of a script.
fn sql_in<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, Fault> {
    let text = without_byte_order_mark(bytes).map_err(|e| unreadable(path, &e))?;
    std::str::from_utf8(text).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> Fault {
    Fault::new(code::USAGE, format!("cannot read {}: {error}", path.display()), "give a file with SQL in UTF-8")
}

fn interrupted() -> Fault {
    Fault::new(code::UNKNOWN, "interrupted; the statement may still be applied", "")
}

fn failed(why: impl std::fmt::Display) -> Fault {
    Fault::new(code::FAILED, why, "")
}

impl Shell {
    /// Reads lines until the end of input; a statement that fails does not end the shell.
    fn talk(&mut self) -> Result<(), Fault> {
        let broken = |e: ReadlineError| failed(format!("cannot use the terminal: {e}"));
        let mut editor = rustyline::DefaultEditor::new().map_err(broken)?;
        let history = history_path();
        if let Some(path) = &history {
            let _ = path.parent().map(std::fs::create_dir_all);
            // The file does not exist the first time.
            let _ = editor.load_history(path);
        }
        term::line("Phalanx SQL shell. End statements with ; and type .help for help.");
        let (mut open, mut is_leaving) = (String::new(), false);
        loop {
            let prompt = if open.is_empty() { "phalanx> " } else { "    ...> " };
            let line = match editor.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) if !is_leaving => {
                    open.clear();
                    is_leaving = true;
                    term::line("press Ctrl+C again or Ctrl+D to exit");
                    continue;
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => break,
                Err(e) => return Err(broken(e)),
            };
            is_leaving = false;
            if let Some(interrupts) = &self.interrupts {
                interrupts.forget();
            }
            if open.is_empty() && line.trim_start().starts_with('.') {
                remember(&mut editor, history.as_deref(), line.trim());
                match self.dot(line.trim()) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) => is_leaving = report_fault(&fault),
                }
                continue;
            }
            open += &line;
            open.push('\n');
            let (whole, rest) = text::statements(&open);
            if whole.is_empty() && !rest.is_empty() {
                continue;
            }
            remember(&mut editor, history.as_deref(), open.trim());
            for sql in whole {
                let done = if sql.starts_with('.') { self.dot(sql).map(drop) } else { self.statement(sql) };
                if let Err(fault) = done {
                    is_leaving = report_fault(&fault);
                    break;
                }
            }
            open = rest.to_string();
        }
        Ok(())
    }

    /// A line that begins with a dot; `false` ends the shell.
    fn dot(&mut self, line: &str) -> Result<bool, Fault> {
        let (word, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match (word, argument) {
            (".quit" | ".exit", "") => return Ok(false),
            (".help", _) => term::out(HELP),
            (".tables", "") => {
                let names = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
                    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
                self.texts(&json!([names]), "")?;
            }
            (".schema", "") => {
                let all = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name <> 'sqlite_phalanx' ORDER BY rowid";
                self.texts(&json!([all]), ";")?;
            }
            (".schema", name) => {
                let one = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name = ? COLLATE NOCASE";
                self.texts(&json!([[one, name]]), ";")?;
            }
            (".dump", "") => {
                let path = format!("/db/backup?fmt=sql&level={}", self.level);
                let progress = Progress::new();
                let raw = self.exchange(self.client.waiting(DUMP_TIMEOUT), Request::get(path))?;
                drop(progress);
                match raw.status {
                    200 => self.show(&String::from_utf8_lossy(&raw.body))?,
                    _ => return Err(raw.fault()),
                }
            }
            (".foreign_keys", value @ ("" | "on" | "off")) => self.foreign_keys(value)?,
            (".read", path) if !path.is_empty() => self.read(Path::new(path))?,
            (".mode", "table") => self.form = OutputFormat::Table,
            (".mode", "csv") => self.form = OutputFormat::Csv,
            (".mode", "json") => self.form = OutputFormat::Json,
            _ => return Err(Fault::new(code::USAGE, format!("unknown command {line:?}"), ".help lists the commands")),
        }
        Ok(true)
    }

    /// Shows whether foreign keys are enforced; with `on` or `off`, changes it first.
    fn foreign_keys(&mut self, value: &str) -> Result<(), Fault> {
        let path = "/db/settings".to_string();
        let request = match value {
            "" => Request::get(path),
            _ => Request::once("PUT", path, Some(json!({"foreign_keys": value == "on"}).to_string().into_bytes())),
        };
        let raw = self.exchange(self.client.clone(), request)?;
        if raw.status != 200 {
            return Err(raw.fault());
        }
        let is_on = raw.json()["foreign_keys"] == true;
        term::line(&format!("foreign keys: {}", if is_on { "on" } else { "off" }));
        Ok(())
    }

    fn read(&mut self, path: &Path) -> Result<(), Fault> {
        let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
        let text = sql_in(&bytes, path)?;
        if self.depth == READS_MAX {
            return Err(failed(format!("{}: .read is nested more than {READS_MAX} deep", path.display())));
        }
        self.depth += 1;
        let done = self.script(text);
        self.depth -= 1;
        done
    }

    /// Runs all statements and dot commands of a text, up to the first that fails; the last one needs no semicolon.
    fn script(&mut self, text: &str) -> Result<(), Fault> {
        let (mut whole, rest) = text::statements(text);
        if !rest.trim().is_empty() {
            whole.push(rest.trim());
        }
        for some in whole.chunk_by(|a, b| a.starts_with('.') == b.starts_with('.')) {
            if !some[0].starts_with('.') {
                self.run_all(some)?;
                continue;
            }
            for line in some {
                if !self.dot(line)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Runs statements up to the first that fails; those in explicit transactions as a whole.
    fn run_all(&mut self, whole: &[&str]) -> Result<(), Fault> {
        if text::leaves_open(whole) {
            let why = "a transaction has BEGIN but no COMMIT: nothing was sent";
            return Err(Fault::new(code::FAILED, why, "end it with COMMIT in the same script"));
        }
        let (loaded, rest) = whole.split_at(text::in_transactions(whole));
        if let Some(at) = loaded.iter().position(|sql| text::is_question(sql)) {
            let why = format!("statement {}: a transaction in a script cannot return rows: nothing was sent", at + 1);
            return Err(Fault::new(code::FAILED, why, "move it after COMMIT, or remove BEGIN and COMMIT"));
        }
        if !loaded.is_empty() {
            let text: String = loaded.iter().flat_map(|sql| [*sql, "\n;\n"]).collect();
            let mut load = Request::once("POST", "/db/load".to_string(), Some(text.into_bytes()));
            load.media = Some("application/octet-stream");
            let progress = Progress::new();
            let raw = self.exchange(self.client.clone(), load)?;
            drop(progress);
            if raw.status != 200 {
                return Err(raw.fault());
            }
        }
        if let [one] = rest {
            return self.statement(one);
        }
        let progress = Progress::new();
        progress.count(rest.len() as u64);
        rest.iter().try_for_each(|sql| {
            let one = self.ask(&json!([sql]))?;
            progress.advance(1);
            progress.aside(|| self.shown(&one))
        })
    }

    /// Runs one statement and prints its result.
    fn statement(&mut self, sql: &str) -> Result<(), Fault> {
        let one = self.ask(&json!([sql]))?;
        self.shown(&one)
    }

    fn shown(&self, one: &StatementResult) -> Result<(), Fault> {
        match &one.columns {
            Some(columns) => self.show(&text::rows(self.form, columns, &one.values))?,
            None if self.is_interactive => match one.rows_affected {
                0 => term::line("done"),
                1 => term::line("1 row changed"),
                many => term::line(&format!("{many} rows changed")),
            },
            None => {}
        }
        Ok(())
    }

    /// Writes the texts of one column, each in a line.
    fn texts(&mut self, statements: &Value, end: &str) -> Result<(), Fault> {
        let one = self.ask(statements)?;
        let texts = one.values.iter().filter_map(|row| row.first()?.as_str());
        self.show(&texts.map(|text| format!("{text}{end}\n")).collect::<String>())
    }

    /// Writes data of users, until Ctrl+C.
    fn show(&self, text: &str) -> Result<(), Fault> {
        let Some(interrupts) = &self.interrupts else {
            term::out(&term::plain_lines(text));
            return Ok(());
        };
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for some in lines.chunks(LINES_AT_ONCE) {
            if interrupts.came() {
                return Err(interrupted());
            }
            term::out(&term::plain_lines(&some.concat()));
        }
        Ok(())
    }

    /// Sends a request and waits for the answer or Ctrl+C.
    fn exchange(&self, client: ClusterClient, request: Request) -> Result<RawResponse, Fault> {
        let Some(interrupts) = &self.interrupts else { return client.exchange(&request) };
        let asked = interrupts.or_done(move || (client.exchange(&request), client));
        let (answer, client) = asked.ok_or_else(interrupted)?;
        self.client.follow(&client);
        answer
    }

    fn ask(&mut self, statements: &Value) -> Result<StatementResult, Fault> {
        let path = format!("/db/request?blob_array&level={}", self.level);
        let request = Request::once("POST", path, Some(statements.to_string().into_bytes()));
        let raw = self.exchange(self.client.clone(), request)?;
        if raw.status != 200 {
            return Err(raw.fault());
        }
        if self.is_interactive && self.node != raw.from {
            let word = if self.node.is_empty() { "node" } else { "now node" };
            eprintln!("{}", term::paint_err(&format!("-- {word} {}", term::plain_err(&raw.from)), term::Colour::Cyan));
        }
        let unexpected =
            || failed(format!("{}: unexpected response; check that the node has the same version", raw.from));
        let results: Results = serde_json::from_slice(&raw.body).map_err(|_| unexpected())?;
        self.node.clone_from(&raw.from);
        let one = results.results.into_iter().next().ok_or_else(unexpected)?;
        match one.error {
            Some(why) => Err(failed(why)),
            None => Ok(one),
        }
    }
}

/// Prints a fault; returns whether it was Ctrl+C.
fn report_fault(fault: &Fault) -> bool {
    fault.report();
    *fault == interrupted()
}

/// Saves a line in the history at once, so that it is not lost if the shell is killed.
fn remember(editor: &mut rustyline::DefaultEditor, history: Option<&Path>, line: &str) {
    let is_new = editor.add_history_entry(line).unwrap_or(false);
    if let (true, Some(path)) = (is_new, history) {
        // Without a writable folder the shell works, but forgets.
        let _ = editor.append_history(path);
    }
}

/// Path of the history: `$PHALANX_SQL_HISTORY`, else in the user's state folder.
fn history_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PHALANX_SQL_HISTORY").or_else(|| {
        let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
        Some(state.join("phalanx").join("sql_history"))
    })
}
