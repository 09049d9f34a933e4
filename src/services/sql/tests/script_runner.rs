//! A simulated node around the database, and the commands of the scripts.
//!
//! `execute`, `request` and `strong` take statements as quoted words, send them through the log and print the outcome
//! of each; `query` reads. `transaction=true` makes them one transaction; other words with a value are parameters:
//! `1=..` by position, a name by name. `wait MS` advances log time, `load SQL` loads a dump as an endpoint does, `dump`
//! prints one, `foreign_keys on` has foreign keys enforced, `snapshot` takes a snapshot, `crash` kills the process and
//! starts it from the snapshot, the log and the file, `wipe` does the same without the file.

use crate::services::Replicated;
use crate::services::Reply;
use crate::services::registry::{Registry, encode_batch};
use crate::services::sessions::Tag;
use crate::services::sql::{
    Answer, Command, Database, Outcome, Params, Query, Run, RunKind, Statement, Value, rewritten_dump,
};
use crate::types::Index;
use std::error::Error;
use std::fmt::Write as _;
use uuid::Uuid;

/// A node that can crash.
#[derive(Default)]
pub struct Node {
    pub registry: Registry,
    pub log: Vec<Vec<u8>>,
    pub snapshot: Option<(u64, Vec<u8>)>,
    pub tags: u64,
}

impl Node {
    /// Applies an entry with these commands; returns the reply to each.
    pub fn entry(&mut self, at_ms: u64, commands: &[Command]) -> Vec<Reply> {
        let commands: Vec<Vec<u8>> = commands.iter().map(Database::encode_command).collect();
        let tags = self.tags;
        self.tags += commands.len() as u64;
        let tag = |number: usize| {
            let number = tags + number as u64 + 1;
            Tag { origin: Uuid::from_u128(1), number, done_below: number.saturating_sub(3).max(1) }
        };
        let batch =
            encode_batch(at_ms, commands.iter().enumerate().map(|(number, bytes)| (tag(number), bytes.as_slice())));
        self.log.push(batch.clone());
        let index = Index(self.log.len() as u64);
        self.registry.apply(index, &batch).into_iter().map(|(_, reply)| reply).collect()
    }

    /// Applies a run as an entry of its own; it is sent again while the answer is [`Answer::Busy`].
    pub fn run(&mut self, at_ms: u64, run: Run) -> Vec<Outcome> {
        let (mut at_ms, command) = (at_ms, [Command::Run(run)]);
        loop {
            let reply = self.entry(at_ms, &command).pop().unwrap();
            // As an endpoint waits before it sends a request again.
            let Answer::Busy { after_ms } = answer(reply.clone()) else { return results(reply) };
            at_ms = self.registry.applied().at_ms + after_ms;
        }
    }

    /// Runs statements without parameters.
    pub fn execute(&mut self, sql: &[&str]) -> Vec<Outcome> {
        let seed = self.log.len() as u64;
        self.run(1_000 * seed, request(sql, RunKind::Execute, seed))
    }

    pub fn read(&self, sql: &str) -> Outcome {
        let reply = self.registry.query(&Database::encode_query(&Query::Read(vec![Statement::bare(sql)])));
        results(reply).pop().unwrap()
    }

    pub fn take_snapshot(&mut self) {
        let copy = self.registry.clone();
        let mut bytes = Vec::new();
        copy.snapshot(&mut bytes).unwrap();
        copy.saved();
        self.snapshot = Some((self.registry.applied().index.0, bytes));
    }

    /// Restarts from snapshot and log. `file`: the remaining content of the database file.
    pub fn start_from(&mut self, file: Option<Database>) {
        let mut registry = Registry::default();
        if let Some(file) = file {
            registry.sql = file;
        }
        let mut from = 0;
        if let Some((index, bytes)) = &self.snapshot {
            registry.restore(&mut bytes.as_slice()).unwrap();
            from = *index;
        }
        for (place, batch) in self.log.iter().enumerate().skip(from as usize) {
            registry.apply(Index(place as u64 + 1), batch);
        }
        self.registry = registry;
    }

    /// Restarts as after kill -9: the file has everything that was committed.
    pub fn crash(&mut self) {
        let image = self.registry.sql().image();
        self.start_from(Some(Database::survivor(&image)));
    }

    pub fn dump(&self) -> String {
        let image = self.registry.sql().image();
        let conn = crate::services::sql::storage::load::open(image[16..].to_vec()).unwrap();
        let mut out = Vec::new();
        crate::services::sql::storage::dump::write(&conn, &[], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}

pub fn request(sql: &[&str], kind: RunKind, seed: u64) -> Run {
    let statements = sql.iter().map(|sql| Statement::bare(*sql)).collect();
    Run { statements, is_transaction: false, kind, seed }
}

pub fn results(reply: Reply) -> Vec<Outcome> {
    match answer(reply) {
        Answer::Results(outcomes) => outcomes,
        Answer::Refused(why) => vec![Outcome::Failed(why)],
        other => panic!("{other:?}"),
    }
}

pub fn answer(reply: Reply) -> Answer {
    let Reply::Ok(bytes) = reply else { panic!("{reply:?}") };
    Answer::decode(&bytes).unwrap()
}

pub fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Changed { last_insert_id, rows_affected } => {
            format!("changed {rows_affected}, last id {last_insert_id}")
        }
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Rows { columns, types, values } => {
            let names = columns.iter().zip(types).map(|(name, kind)| format!("{name}:{kind}"));
            let mut text = format!("[{}]", names.collect::<Vec<_>>().join(" "));
            for row in values {
                let row: Vec<String> = row.iter().map(value_text).collect();
                let _ = write!(text, "\n  {}", row.join(" | "));
            }
            text
        }
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Blob(blob) => format!("x{}", blob.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// Runs scripts.
#[derive(Default)]
pub struct ScriptRunner {
    node: Node,
    at_ms: u64,
}

impl goldenscript::Runner for ScriptRunner {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &Self::Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = line.consume_args();
        let (mut is_transaction, mut seed) = (false, 1);
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_string());
        }
        let (mut places, mut names) = (Vec::new(), Vec::new());
        while let Some((key, value)) = args.next_key().map(|(key, value)| (key.to_string(), value.to_string())) {
            match key.as_str() {
                "transaction" => is_transaction = value.parse()?,
                "seed" => seed = value.parse()?,
                _ => {}
            }
            if ["transaction", "seed"].contains(&key.as_str()) {
                continue;
            }
            let value = match value.parse::<i64>() {
                Ok(number) => Value::Integer(number),
                Err(_) if value == "null" => Value::Null,
                Err(_) => Value::Text(value),
            };
            if key.parse::<u8>().is_ok() { places.push(value) } else { names.push((key, value)) }
        }
        let params = match (places.is_empty(), names.is_empty()) {
            (true, true) => Params::None,
            (false, _) => Params::Positional(places),
            _ => Params::Named(names),
        };
        let statements = |words: &[String]| -> Vec<Statement> {
            words.iter().map(|sql| Statement { sql: sql.clone(), params: params.clone() }).collect()
        };
        let kind = match line.name.as_str() {
            "execute" => Some(RunKind::Execute),
            "request" => Some(RunKind::Request),
            "strong" => Some(RunKind::Query),
            _ => None,
        };
        if let Some(kind) = kind {
            let run = Run { statements: statements(&words), is_transaction, kind, seed };
            return Ok(outcomes_text(&self.node.run(self.at_ms, run)));
        }
        match line.name.as_str() {
            "query" => {
                let query = Query::Read(statements(&words));
                Ok(outcomes_text(&results(self.node.registry.query(&Database::encode_query(&query)))))
            }
            "wait" => {
                self.at_ms += words.first().ok_or("how long?")?.parse::<u64>()?;
                Ok(String::new())
            }
            "load" => {
                let sql = match rewritten_dump(&words.join("\n")) {
                    Ok(sql) => sql.into_owned(),
                    Err(why) => return Ok(format!("refused before the log: {why}\n")),
                };
                let reply = self.node.entry(self.at_ms, &[Command::LoadDump { sql, seed }]).pop().ok_or("no reply")?;
                Ok(format!("{:?}\n", answer(reply)))
            }
            "foreign_keys" => {
                let are_enforced = words.first().is_some_and(|word| word == "on");
                self.node.entry(self.at_ms, &[Command::SetForeignKeys { are_enforced }]);
                Ok(String::new())
            }
            "dump" => Ok(self.node.dump()),
            "snapshot" => {
                self.node.take_snapshot();
                Ok(String::new())
            }
            "crash" | "wipe" => {
                let before = self.node.registry.digests();
                if line.name == "crash" {
                    self.node.crash()
                } else {
                    self.node.start_from(None)
                }
                let is_same = self.node.registry.digests() == before;
                Ok(if is_same { "the same as before\n" } else { "DIFFERENT\n" }.to_string())
            }
            other => Err(format!("unknown command '{other}'").into()),
        }
    }
}

fn outcomes_text(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(|outcome| outcome_text(outcome) + "\n").collect()
}

/// Sends a whole file as one piece, and puts it in place with the next command.
pub fn load_file(node: &mut Node, image: &[u8]) -> Answer {
    let pieces = image.chunks(1000).enumerate();
    let stages =
        pieces.map(|(n, piece)| Command::Stage { load: 7, offset: 1000 * n as u64, bytes: piece.to_vec().into() });
    let mut commands: Vec<Command> = stages.collect();
    commands.push(Command::PutInPlace { load: 7, bytes: image.len() as u64, crc: crc32fast::hash(image), seed: 1 });
    let mut last = None;
    for command in commands {
        last = node.entry(0, &[command]).pop();
    }
    answer(last.unwrap())
}
