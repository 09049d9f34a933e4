//! The commands, queries and answers of the database: the types that endpoints and the service share.
//!
//! An endpoint turns a client's request into a [`Run`] and draws its seed; everything that a statement could take from
//! a clock or a random source comes from the entry's time and from this seed, so that every node computes the same.
//!
//! Invariant: a command's meaning is self-contained: no connection state, no clock, no local setting.
//! Not here: what a command does (`apply.rs`), rqlite's syntax for it (`http/`).

use crate::services::sql::tokens::contains_any;
use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;
use std::collections::BTreeMap;

/// Largest number of statements in one request.
pub const STATEMENTS_MAX: usize = 65_536;
/// Largest size of one statement's text in bytes. A whole dump may be longer: see [`Command::Load`].
pub const SQL_BYTES_MAX: usize = 4 << 20;
/// Largest size of one text, blob or row in bytes: the same as of a value of the key-value store.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Largest size of a row in SQLite, in bytes: a value and its overhead.
pub const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX + 1024;
/// Largest size in bytes of the statements and parameters of one command; the rest of
/// [`crate::limits::COMMAND_BYTES_MAX`] is for the encoding.
pub const RUN_BYTES_MAX: usize = crate::limits::COMMAND_BYTES_MAX - (256 << 10);
/// Largest size in bytes of the rows that a command in the log may return: they are kept until the client has them.
pub const RUN_ROWS_BYTES_MAX: usize = 4 << 20;
/// Largest size in bytes of the rows that a read outside of the log may return.
pub const READ_ROWS_BYTES_MAX: usize = 32 << 20;
/// A row is estimated to be as long as all parameters of its statement together, up to this many bytes.
const SHORT_ROW_BYTES: usize = 1 << 10;
/// Largest number of rows that one read may return.
pub const READ_ROWS_MAX: usize = 1_000_000;
/// Largest size in bytes of one piece of a database file on its way through the log ([`Command::Stage`]).
pub const STAGE_BYTES_MAX: usize = 4 << 20;
/// Largest size in bytes of a database file to be loaded. Until it is in place, it takes four times its size on the
/// disk of each node.
pub const LOAD_BYTES_MAX: usize = 1 << 30;
/// Steps of work that one write may take, the same on every node. A step is some nanoseconds at most: each instruction
/// of SQLite costs steps in proportion to its time (`services/sql/budget/step_cost.rs`), and more where values are
/// longer than 256 bytes (`services/sql/budget/length_tiers.rs`).
pub const STEPS_MAX: u64 = 300_000_000;
/// The same for a whole database file, which is prepared outside of the log: a fixed part, and a part for each of its
/// bytes.
pub const FILE_STEPS_MAX: u64 = 20 * STEPS_MAX;
pub const FILE_STEPS_PER_BYTE: u64 = 100;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Null,
    /// A signed integer of 64 bits.
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Bytes),
}

impl Value {
    /// Approximate size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Null => 1,
            Value::Integer(_) | Value::Real(_) => 9,
            Value::Text(text) => 5 + text.len(),
            Value::Blob(blob) => 5 + blob.len(),
        }
    }
}

/// The values of a statement's parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Params {
    #[default]
    None,
    /// In order; the first is `?1`.
    Positional(Vec<Value>),
    /// By name, with or without its `:`, `@` or `$`.
    Named(Vec<(String, Value)>),
}

impl Params {
    /// Approximate size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Params::None => 0,
            Params::Positional(values) => values.iter().map(Value::bytes).sum(),
            Params::Named(values) => values.iter().map(|(name, value)| name.len() + 2 + value.bytes()).sum(),
        }
    }
}

/// A statement and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Exactly one statement of SQL.
    pub sql: String,
    pub params: Params,
}

impl Statement {
    /// A statement without parameters.
    pub fn bare(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), params: Params::None }
    }

    /// Whether its SQL or a text among its parameters contains one of these words, in any case.
    pub fn mentions(&self, words: &[&str]) -> bool {
        let has = |text: &str| contains_any(text.as_bytes(), words);
        let of = |value: &Value| matches!(value, Value::Text(text) if has(text));
        has(&self.sql)
            || match &self.params {
                Params::None => false,
                Params::Positional(values) => values.iter().any(of),
                Params::Named(values) => values.iter().any(|(_, value)| of(value)),
            }
    }

    /// Length in bytes of its longest parameter, or of all parameters together up to `SHORT_ROW_BYTES`, whichever is
    /// greater.
    pub fn longest(&self) -> usize {
        let each: &mut dyn Iterator<Item = &Value> = match &self.params {
            Params::None => return 0,
            Params::Positional(values) => &mut values.iter(),
            Params::Named(values) => &mut values.iter().map(|(_, value)| value),
        };
        let (longest, all) = each.fold((0, 0), |(longest, all), value| {
            let bytes = value.bytes().saturating_sub(5);
            (bytes.max(longest), bytes + all)
        });
        longest.max(all.min(SHORT_ROW_BYTES))
    }

    /// Approximate size in bytes.
    pub fn bytes(&self) -> usize {
        self.sql.len() + 8 + self.params.bytes()
    }
}

/// What the statements of a run are executed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunKind {
    /// For their changes: rows that a statement may return are discarded (rqlite's `/db/execute`).
    Execute,
    /// For their changes and rows (`/db/request`).
    Request,
    /// For their rows alone: a statement that could change anything is refused (`/db/query`). Endpoints send none
    /// through the log.
    Query,
}

/// Statements that run one after another with no other command in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// In order.
    pub statements: Vec<Statement>,
    /// All statements take effect or none. If false, each statement is independent, and one that fails yields an error
    /// in its place.
    pub is_transaction: bool,
    /// What the statements are run for.
    pub kind: RunKind,
    /// Drawn by the endpoint: the source of `random()` and `randomblob()`.
    pub seed: u64,
}

impl Run {
    /// The reason if the run is too large to be a command: the endpoint refuses it before it goes to the log.
    pub fn excess(&self) -> Option<String> {
        if self.statements.len() > STATEMENTS_MAX {
            return Some(format!("a request has at most {STATEMENTS_MAX} statements"));
        }
        let bytes: usize = self.statements.iter().map(Statement::bytes).sum();
        (bytes > RUN_BYTES_MAX).then(|| format!("the statements of a request have at most {RUN_BYTES_MAX} bytes"))
    }
}

/// A change of the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Runs statements. Answered by [`Answer::Results`] with one outcome for each statement; in a transaction that
    /// failed, up to the statement that failed.
    Run(Run),
    /// Loads statements, all or nothing. Answered by [`Answer::Done`] or [`Answer::Refused`]. Only in older logs:
    /// [`Command::LoadDump`] replaces it.
    Load {
        /// Any number of statements.
        sql: String,
        /// As in a [`Run`].
        seed: u64,
    },
    /// Stores one piece of a database file that is to be loaded. Answered by [`Answer::Done`]. A piece at offset 0
    /// begins a new file.
    Stage {
        /// Drawn by the endpoint: identifies this file.
        load: u64,
        /// Offset of the piece in bytes: the end of the previous piece.
        offset: u64,
        /// At most [`STAGE_BYTES_MAX`] bytes.
        bytes: Bytes,
    },
    /// Replaces all tables by those of the file whose pieces were sent, all or nothing. Answered by [`Answer::Done`] or
    /// [`Answer::Refused`]. A node that has not finished preparing the file waits until it has.
    PutInPlace {
        /// Identifies the file.
        load: u64,
        /// Length of the file in bytes.
        bytes: u64,
        /// CRC-32 of the whole file.
        crc: u32,
        /// As in a [`Run`].
        seed: u64,
    },
    /// All pieces of a file were sent: every node prepares a database from it, outside of the log. Answered by
    /// [`Answer::Done`].
    Prepare {
        /// Identifies the file.
        load: u64,
        /// Length of the file in bytes.
        bytes: u64,
        /// CRC-32 of the whole file.
        crc: u32,
        /// As in a [`Run`].
        seed: u64,
    },
    /// Abandons a file: removes one of its pieces, or one of another file that is no longer being loaded. Answered by
    /// [`Answer::More`] while pieces are left, then by [`Answer::Done`].
    Unstage {
        /// Identifies the file.
        load: u64,
    },
    /// Has foreign keys enforced from now on, or not. Rows that already break one stay. Answered by [`Answer::Done`].
    SetForeignKeys { are_enforced: bool },
    /// Loads a dump as made by sqlite3's `.dump`, all or nothing. Answered as [`Command::Load`].
    LoadDump {
        /// Any number of statements.
        sql: String,
        /// As in a [`Run`].
        seed: u64,
    },
}

impl Command {
    /// The bytes that go into the log, without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// The outcome of one statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was run and returned no rows, or its rows were not requested.
    Changed {
        /// Row id of the row that was inserted last by this command; 0 if none was.
        last_insert_id: i64,
        /// Rows inserted, changed or deleted by this statement.
        rows_affected: u64,
    },
    /// The rows that it returned.
    Rows {
        columns: Vec<String>,
        /// Declared types in lower case; a column without one has the type of its first value.
        types: Vec<String>,
        /// One list for each row, with as many values as there are columns.
        values: Vec<Vec<Value>>,
    },
    /// None of its changes were made: the reason.
    Failed(String),
}

/// The answer to a command or query: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// One outcome for each statement.
    Results(Vec<Outcome>),
    Done,
    /// Nothing was changed: the reason.
    Refused(String),
    /// Answers [`Query::Applied`].
    Applied,
    /// Answers [`Query::Digest`].
    Digest(Digest),
    /// Done; the same command must be sent again to continue.
    More,
    /// Nothing was changed: earlier requests have used up the steps that are available now. The command may be sent
    /// again.
    Busy {
        /// Milliseconds until enough steps are available, if no other request uses many before.
        after_ms: u64,
    },
}

impl Answer {
    /// The bytes of the reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Decodes a reply; `None` if it is malformed.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Fingerprints of the content, independent of the page layout: equal on all nodes that have applied the same index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub index: u64,
    /// Fingerprint of all definitions (tables, indexes, views, triggers).
    pub schema: u64,
    /// Fingerprint of each table's rows.
    pub tables: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Only waits: the answer means that the index is applied.
    Applied,
    /// Reads rows on the connection that writes: for the simulator and for tests. A node reads on other connections.
    Read(Vec<Statement>),
    /// Answered by [`Answer::Digest`].
    Digest,
}

/// How fresh a read must be, in rqlite's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// What this node has applied so far.
    None,
    /// What the leader has applied: here the same as `Linearizable`, which costs no more.
    Weak,
    /// Sees every write that was acknowledged before the read was requested.
    Linearizable,
    /// The same as `Linearizable`, under rqlite's name.
    Strong,
}
