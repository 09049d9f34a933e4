//! What can be asked of the database, and what it answers: the types that endpoints and the service share.
//!
//! An endpoint turns what its client sent into a [`Run`] and draws its seed; everything that a statement could take from a clock
//! or from chance comes from the entry's time and from this seed, so that every node computes the same.
//!
//! Invariants: a command's meaning is complete in itself: no connection state, no clock, no local setting.
//! Not here: what a command does (`apply.rs`), rqlite's spelling of it (`http/`).

use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;
use std::collections::BTreeMap;

/// Statements of one request.
pub const STATEMENTS_MAX: usize = 65_536;
/// Bytes of one statement's text. A whole dump may be longer: see [`Command::Load`].
pub const SQL_BYTES_MAX: usize = 4 << 20;
/// Bytes of one text, blob or row: as large as a value of the key-value store.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// What SQLite may hold as one row: a value with what surrounds it.
pub const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX + 1024;
/// Bytes of statements and parameters of one command; the rest of [`crate::limits::COMMAND_BYTES_MAX`] is for the form in
/// which it goes on.
pub const RUN_BYTES_MAX: usize = crate::limits::COMMAND_BYTES_MAX - (256 << 10);
/// Bytes of rows that a command which goes through the log may answer: they are kept until the client has them.
pub const RUN_ROWS_BYTES_MAX: usize = 4 << 20;
/// Bytes of rows that a read beside the log may answer.
pub const READ_ROWS_BYTES_MAX: usize = 32 << 20;
/// A row is thought to be as long as the parameters of its statement together, up to here.
const SHORT_ROW_BYTES: usize = 1 << 10;
/// Rows of one read.
pub const READ_ROWS_MAX: usize = 1_000_000;
/// Bytes of one piece of a database file on its way through the log ([`Command::Stage`]).
pub const STAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a database file that is to be loaded: until it is in place it takes as much room on the disk of each node four times.
pub const LOAD_BYTES_MAX: usize = 1 << 30;
/// Steps of work that one write may take, the same on every node. A step is some nanoseconds at most: what SQLite's machine does
/// costs as many as it takes time (`services/sql/budget/step_cost.rs`), and more where values are longer than 256 bytes
/// (`services/sql/budget/length_tiers.rs`).
pub const STEPS_MAX: u64 = 300_000_000;
/// The same for a whole database file, which is prepared beside the log: so many, and so many for each of its bytes.
pub const FILE_STEPS_MAX: u64 = 20 * STEPS_MAX;
pub const FILE_STEPS_PER_BYTE: u64 = 100;

/// One value of SQLite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing.
    Null,
    /// 64 bits, signed.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

impl Value {
    /// Bytes that it takes, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Null => 1,
            Value::Integer(_) | Value::Real(_) => 9,
            Value::Text(text) => 5 + text.len(),
            Value::Blob(blob) => 5 + blob.len(),
        }
    }
}

/// What stands in for the question marks and names of a statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Params {
    /// Nothing does.
    #[default]
    None,
    /// In order, the first for `?1`.
    Positional(Vec<Value>),
    /// By name, with or without its `:`, `@` or `$`.
    Named(Vec<(String, Value)>),
}

impl Params {
    /// Bytes that they take, roughly.
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
    /// Its parameters.
    pub params: Params,
}

impl Statement {
    /// A statement without parameters.
    pub fn bare(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), params: Params::None }
    }

    /// Bytes of its longest parameter, or of a short row that all of them make.
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

    /// Bytes that it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.sql.len() + 8 + self.params.bytes()
    }
}

/// What is wanted of the statements of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// That they are carried out: rows that a statement may give are thrown away (rqlite's `/db/execute`).
    Execute,
    /// Their rows too, of those that give any (`/db/request`).
    Request,
    /// Their rows alone: a statement that could change anything is refused (`/db/query`). Doors send none through the log.
    Query,
}

/// Statements that are carried out one after another with nothing in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// In order.
    pub statements: Vec<Statement>,
    /// All or nothing; else each stands for itself, and one that fails is an error in its place.
    pub is_transaction: bool,
    /// What is wanted.
    pub kind: Kind,
    /// Drawn by the endpoint: what `random()` and `randomblob()` are made from.
    pub seed: u64,
}

impl Run {
    /// Why it is too large to be a command, if it is: the endpoint says so before it goes to the log.
    pub fn excess(&self) -> Option<String> {
        if self.statements.len() > STATEMENTS_MAX {
            return Some(format!("a request has at most {STATEMENTS_MAX} statements"));
        }
        let bytes: usize = self.statements.iter().map(Statement::bytes).sum();
        (bytes > RUN_BYTES_MAX).then(|| format!("the statements of a request have at most {RUN_BYTES_MAX} bytes"))
    }
}

/// Changes the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Statements: [`Answer::Results`], one for each; in a transaction that failed, up to the one that did.
    Run(Run),
    /// A dump as `.dump` of sqlite3 makes it, all or nothing: [`Answer::Done`] or [`Answer::Refused`].
    Load {
        /// Any number of statements.
        sql: String,
        /// As in a [`Run`].
        seed: u64,
    },
    /// One piece of a database file that is to be put in place: [`Answer::Done`]. A piece at 0 begins a new file.
    Stage {
        /// Drawn by the endpoint: names this file.
        load: u64,
        /// Where the piece belongs: at the end of those before.
        offset: u64,
        /// At most [`STAGE_BYTES_MAX`] of them.
        bytes: Bytes,
    },
    /// Replaces all tables by those of the file whose pieces were sent, all or nothing: [`Answer::Done`] or
    /// [`Answer::Refused`]. A node that has not prepared it waits until it has.
    PutInPlace {
        /// Which.
        load: u64,
        /// How long it is.
        bytes: u64,
        /// CRC-32 of all of it.
        crc: u32,
        /// As in a [`Run`].
        seed: u64,
    },
    /// All pieces of a file were sent: every node makes a database of it, beside the log: [`Answer::Done`].
    Prepare {
        /// Which.
        load: u64,
        /// How long it is.
        bytes: u64,
        /// CRC-32 of all of it.
        crc: u32,
        /// As in a [`Run`].
        seed: u64,
    },
    /// A file is not wanted any more; removes a piece of it, or of another that nobody wants: [`Answer::More`] while
    /// pieces are left, then [`Answer::Done`].
    Unstage {
        /// Which.
        load: u64,
    },
}

impl Command {
    /// The bytes that go into the log, without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// What became of one statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out and gave no rows, or nobody wanted them.
    Changed {
        /// Row that was inserted last by this command; 0 if none was.
        last_insert_id: i64,
        /// Rows inserted, changed or deleted by this statement.
        rows_affected: u64,
    },
    /// What it gave.
    Rows {
        /// Names.
        columns: Vec<String>,
        /// Declared types in lower case; what has none is called by the type of its first value.
        types: Vec<String>,
        /// Row by row, as many values as there are columns.
        values: Vec<Vec<Value>>,
    },
    /// Nothing of it was done: why.
    Failed(String),
}

/// What a command or query answers: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// One for each statement.
    Results(Vec<Outcome>),
    /// Done.
    Done,
    /// Nothing was changed: why.
    Refused(String),
    /// To [`Query::Applied`].
    Applied,
    /// To [`Query::Digest`].
    Digest(Digest),
    /// Done, and the same command is to be sent again.
    More,
    /// Nothing was changed: requests before this one did so much that there is no time for it. It may come again.
    Busy {
        /// When there will be time, if no other request does much before.
        after_ms: u64,
    },
}

impl Answer {
    /// The bytes of the reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Reads a reply back; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Fingerprints of the content, whatever the pages look like: equal on all nodes that have applied the same index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Index that was applied.
    pub index: u64,
    /// Of all definitions (tables, indexes, views, triggers).
    pub schema: u64,
    /// Of each table's rows.
    pub tables: BTreeMap<String, u64>,
}

/// Asks about the database without changing it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Nothing: that it is answered says that the index is applied.
    Applied,
    /// Rows, from the connection that writes: for the simulator and for tests. A node reads beside it.
    Read(Vec<Statement>),
    /// [`Answer::Digest`].
    Digest,
}

/// How fresh a read must be: rqlite's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// What this node has applied so far.
    None,
    /// What the leader has applied: here the same as `Linearizable`, which costs no more.
    Weak,
    /// Sees every write acknowledged before it was called.
    Linearizable,
    /// The same: rqlite's word for it.
    Strong,
}
