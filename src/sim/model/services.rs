//! The services that virtual nodes run: the real ones, through the real registry, with real session tags.
//!
//! Clients set registers, swap them if they hold what the client saw last, and count; each is a run of the key-value
//! store in a batch like a node's. Some batches have an additional operation: a key that expires, a lock, a number.
//! Commands of the jobs come from clients, workers and leaders. The whole state is hashed after every entry, so it is
//! kept small.
//!
//! Not here: who proposes what (`sim/steps/clients.rs`, `sim/steps/workers.rs`), what must come out
//! (`sim/checks/kv_model.rs`, `sim/checks/jobs_checker.rs`, `sim/checks/client_checker.rs`).

#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::{ChatBugs, JobsBugs, SqlBugs};
use crate::services::Replicated;
use crate::services::chat::Chat;
use crate::services::jobs::JobTable;
use crate::services::kv::Store;
use crate::services::kv::{Batch, BatchReply, Condition, Expiry, Op, Value};
use crate::services::registry::{Registry, checkpoint_command, encode_batch};
use crate::services::sessions::Tag;
use crate::services::sql::Database;
use crate::services::{Reply, chat, jobs, sql};
use crate::types::Index;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::io::{self, Read, Write};

/// What a client asks of the replicated state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Which attempt of which operation this is: unique in a run. The services never see it.
    pub attempt: u64,
    /// Leader time.
    pub at_ms: u64,
    /// The name under which it takes effect once.
    pub tag: Tag,
    /// What to do.
    pub body: Body,
}

/// What a command is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The key-value store: operations of one run.
    Store(Vec<Op>),
    Jobs(jobs::Command),
    /// The database.
    Sql(sql::Command),
    Chat(chat::Command),
    /// All nodes digest their state.
    Checkpoint,
}

impl Body {
    /// The bytes that the registry takes.
    fn routed(&self) -> Vec<u8> {
        match self {
            Body::Store(ops) => Store::encode_command(&Batch { watched: Vec::new(), ops: ops.clone() }),
            Body::Jobs(command) => JobTable::encode_command(command),
            Body::Sql(command) => Database::encode_command(command),
            Body::Chat(command) => Chat::encode_command(command),
            Body::Checkpoint => checkpoint_command(),
        }
    }
}

impl Command {
    /// The bytes that go into the log.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a command has no unknown length")
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8]) -> Option<Command> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Mistakes that a service can make, for the simulator to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceBugs {
    /// The session table is not in the snapshot.
    pub sessions_left_out_of_snapshot: bool,
    /// The keys are not in the snapshot.
    pub keys_left_out_of_snapshot: bool,
    /// The jobs are not in the snapshot.
    pub jobs_left_out_of_snapshot: bool,
    /// The time of an entry is the clock of the node that applies it.
    pub local_clock_in_apply: bool,
    /// Times to live end by the clock of the node that applies.
    pub expiry_by_local_clock: bool,
    /// A command that was sent again runs again.
    pub copies_run_again: bool,
    /// A job that was submitted again is another job.
    pub submissions_run_again: bool,
    /// Mistakes of the job table.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub jobs: JobsBugs,
    /// Mistakes of the database.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub sql: SqlBugs,
    /// `now` in SQL is the clock of the node that applies.
    pub sql_by_local_clock: bool,
    /// `now` in SQL is that clock if it is spelt as a blob.
    pub sql_overlooks_spellings: bool,
    /// `random()` in SQL differs between nodes.
    pub sql_seed_of_the_node: bool,
    /// Mistakes of the chat.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub chat: ChatBugs,
}

/// The services of one node.
#[derive(Default)]
pub struct Registers {
    /// The real one.
    pub registry: Registry,
    /// Mistakes in force.
    pub bugs: ServiceBugs,
    /// The node's own clock, which `apply` must not read.
    pub local_ms: u64,
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Index of the entry in which it took effect: an earlier one, if this is a copy.
    pub effect_at: Index,
    pub reply: Reply,
}

/// The key of a register.
pub fn register(number: u8) -> ByteBuf {
    ByteBuf::from(format!("r{number}").into_bytes())
}

/// The key of a counter.
pub const COUNTER: u8 = 100;

pub fn set(key: u8, value: u64) -> Op {
    swap(key, Condition::Always, value)
}

/// Sets a register if it holds this value; `None`: nothing.
pub fn set_if(key: u8, from: Option<u64>, to: u64) -> Op {
    let held = from.map(|from| Condition::Equals(ByteBuf::from(from.to_string().into_bytes())));
    swap(key, held.unwrap_or(Condition::Absent), to)
}

fn swap(key: u8, condition: Condition, value: u64) -> Op {
    let value = ByteBuf::from(value.to_string().into_bytes());
    Op::Set { key: register(key), value, condition, expiry: Expiry::Never, get: false }
}

pub fn count() -> Op {
    Op::IncrBy { key: register(COUNTER), by: 1 }
}

/// An additional operation of a write: a key that expires or gets another name, a lock, a decimal number. The digest
/// and the model of the store cover both.
pub fn rider(rng: &mut fastrand::Rng) -> Option<Op> {
    let name = ByteBuf::from(vec![b"xyz"[rng.usize(0..3)]]);
    let ms = rng.u64(1..300);
    match rng.u8(0..8) {
        0 => {
            let value = ByteBuf::from(b"fleeting".to_vec());
            Some(Op::Set { key: name, value, condition: Condition::Always, expiry: Expiry::In(ms), get: false })
        }
        1 => Some(Op::LockAcquire { name, ttl_ms: ms }),
        2 => Some(Op::Rename { from: name, to: ByteBuf::from(b"w".to_vec()), if_absent: false }),
        3 => Some(Op::IncrByFloat { key: ByteBuf::from(b"f".to_vec()), by: ByteBuf::from(b"0.5".to_vec()) }),
        4 => Some(Op::SetRange { key: name, offset: ms % 10, value: ByteBuf::from(b"!".to_vec()) }),
        _ => None,
    }
}

/// SQL statements that use the time and random numbers, and changes that are visible when they are made twice.
pub fn sql_run(rng: &mut fastrand::Rng) -> sql::Command {
    let all = [
        "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER, at TEXT, r INTEGER)",
        "INSERT INTO t(n, at, r) VALUES(1, datetime('now', 'subsec'), random())",
        "INSERT INTO t(n) SELECT n + 1 FROM t ORDER BY id DESC LIMIT 1",
        "UPDATE t SET n = n + 1, at = CURRENT_TIMESTAMP WHERE id % 2 = 0",
        "UPDATE t SET n = n * 2, r = random() WHERE id = (SELECT max(id) FROM t)",
        "DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 5",
        "INSERT INTO t(id, n) VALUES(1, 0)",
        "UPDATE t SET at = strftime('%F %R:%f', x'4e4f57') WHERE id = (SELECT max(id) FROM t)",
        "ALTER TABLE t ADD COLUMN more DEFAULT 7",
        "ALTER TABLE t DROP COLUMN more",
        "INSERT INTO nowhere VALUES(1)",
    ];
    let mut statements: Vec<_> =
        (0..rng.usize(1..=3)).map(|_| sql::Statement::bare(all[rng.usize(1..all.len())])).collect();
    if rng.u8(0..4) == 0 {
        statements.insert(0, sql::Statement::bare(all[0]));
    }
    let (is_transaction, seed) = (rng.bool(), rng.u64(..));
    sql::Command::Run(sql::Run { statements, is_transaction, kind: sql::RunKind::Request, seed })
}

/// The answer of the first operation of a run, from its reply.
pub fn first(reply: &[u8]) -> Option<Value> {
    match BatchReply::decode(reply)? {
        BatchReply::Values(values) => values.into_iter().next(),
        BatchReply::Aborted => None,
    }
}

impl Registers {
    /// Empty services.
    pub fn new(bugs: ServiceBugs) -> Registers {
        let mut new = Registers { bugs, ..Registers::default() };
        new.plant();
        new
    }

    /// Enables the planted bugs of the services, which are not in snapshots.
    fn plant(&mut self) {
        #[cfg(any(test, feature = "planted-bugs"))]
        {
            self.registry.jobs.bugs = self.bugs.jobs;
            let local_ms = self.bugs.sql_by_local_clock.then_some(self.local_ms);
            let random_seed = self.bugs.sql_seed_of_the_node.then_some(self.local_ms);
            let overlooked_now_ms = self.bugs.sql_overlooks_spellings.then_some(self.local_ms);
            self.registry.sql.bugs = SqlBugs { local_ms, random_seed, overlooked_now_ms, ..self.bugs.sql };
            self.registry.chat.bugs = self.bugs.chat;
        }
    }

    /// Planted bugs: parts that a snapshot does not hold.
    #[cfg(any(test, feature = "planted-bugs"))]
    fn leave_out_of(&self, copy: &mut Registry) {
        if self.bugs.sessions_left_out_of_snapshot {
            copy.sessions = crate::services::sessions::Sessions::default();
        }
        if self.bugs.keys_left_out_of_snapshot {
            copy.kv = Store::default();
        }
        if self.bugs.jobs_left_out_of_snapshot {
            copy.jobs = JobTable::default();
        }
        if self.bugs.chat.read_marks_are_not_saved {
            copy.chat.forget_read_marks();
        }
    }

    /// The newest stamp that was applied.
    pub fn log_ms(&self) -> u64 {
        self.registry.applied().at_ms
    }

    pub fn jobs(&self) -> &jobs::JobTable {
        self.registry.jobs()
    }

    /// Asserts the invariants of the services. Only in test builds, because these checks read the whole state.
    pub fn check(&self) {
        #[cfg(any(test, feature = "planted-bugs"))]
        {
            self.registry.jobs().check();
            if self.bugs.chat == ChatBugs::default() {
                self.registry.chat().check();
            }
            self.check_columns();
        }
    }

    /// A read must return the columns that its table has at that time.
    #[cfg(any(test, feature = "planted-bugs"))]
    fn check_columns(&self) {
        if !self.registry.sql().is_open() {
            return;
        }
        let read = ["SELECT name FROM pragma_table_info('t')", "SELECT * FROM t"].map(sql::Statement::bare);
        let Reply::Ok(reply) = self.registry.query(&Database::encode_query(&sql::Query::Read(read.to_vec()))) else {
            return;
        };
        let Some(sql::Answer::Results(outcomes)) = sql::Answer::decode(&reply) else { return };
        let [sql::Outcome::Rows { values: names, .. }, found] = &outcomes[..] else { return };
        if names.is_empty() {
            return; // There is no such table yet.
        }
        let names: Vec<_> = names.iter().flatten().cloned().collect();
        let sql::Outcome::Rows { columns, .. } = found else { panic!("a table cannot be read: {found:?}") };
        let columns: Vec<_> = columns.iter().cloned().map(sql::Value::Text).collect();
        assert!(columns == names, "a read answers the columns {columns:?}, the table has {names:?}");
    }

    /// The digest of the whole state, and that of the database; `None` while its file is ahead of what was applied.
    pub fn digest(&self) -> (u64, Option<u64>) {
        self.registry.digests()
    }

    /// Starts with the database's file as an earlier process left it.
    pub fn open_sql(&mut self, file: &[u8]) {
        self.registry.sql = sql::Database::survivor(file);
        self.plant();
    }

    /// Starts without a snapshot.
    pub fn settle(&mut self) {
        self.registry.reset_services().expect("it is in memory");
        self.plant();
    }

    /// Applies an entry with one command.
    pub fn apply(&mut self, index: Index, command: &Command) -> Applied {
        self.plant();
        let at_ms = if self.bugs.local_clock_in_apply { self.local_ms } else { command.at_ms };
        let mut tag = command.tag;
        let is_submission = matches!(command.body, Body::Jobs(jobs::Command::Submit(_)));
        if self.bugs.copies_run_again || (self.bugs.submissions_run_again && is_submission) {
            tag.origin = uuid::Uuid::from_u128(tag.origin.as_u128() ^ u128::from(index.0));
        }
        let batch = encode_batch(at_ms, [(tag, command.body.routed().as_slice())]);
        let mut replies = self.registry.apply(index, &batch);
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.bugs.expiry_by_local_clock {
            let local = crate::types::Stamp { at_ms: self.local_ms, ..self.registry.applied() };
            crate::services::Service::expire(&mut self.registry.kv, local);
        }
        let (effect_at, reply) = replies.pop().expect("one command, one reply");
        Applied { effect_at, reply }
    }

    pub fn value(&self, key: u8) -> Option<u64> {
        let run = Batch { watched: Vec::new(), ops: vec![Op::Get(register(key))] };
        let Reply::Ok(reply) = self.registry.query(&Store::encode_command(&run)) else { panic!("a read needs no log") };
        match first(&reply) {
            Some(Value::Bytes(value)) => std::str::from_utf8(&value).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Writes the whole state, from a copy, as a node does.
    pub fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        #[cfg_attr(not(any(test, feature = "planted-bugs")), expect(unused_mut, reason = "only tests plant bugs"))]
        let mut copy = self.registry.clone();
        #[cfg(any(test, feature = "planted-bugs"))]
        self.leave_out_of(&mut copy);
        copy.snapshot(out)
    }

    /// Replaces the state by one that `snapshot` wrote.
    pub fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.registry.restore(from)?;
        self.plant();
        Ok(())
    }
}
