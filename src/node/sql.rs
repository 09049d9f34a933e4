//! The database as doors use it: writes through the log, reads beside it.
//!
//! Not here: what a statement does (`services/sql/`), rqlite's spelling (`http/`).

use super::handle::{Ack, Handle, Level, Work};
use crate::services::sessions::Tag;
use crate::services::sql::{Answer, Command, Kind, Query, ReadLevel, Run, Statement};
use crate::services::{Reply, registry};
use crate::types::{Index, Outcome};
use std::io::Write;
use std::time::{Duration, Instant};

/// A read of the database.
#[derive(Clone, Debug)]
pub struct SqlRead {
    /// One after another, from one state.
    pub statements: Vec<Statement>,
    /// How fresh.
    pub level: ReadLevel,
    /// With level `None`: refuse if this node has heard from no leader for longer.
    pub freshness: Option<Duration>,
    /// What `random()` is made from.
    pub seed: u64,
}

/// In which form the whole database is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupForm {
    /// A SQLite file.
    File,
    /// The statements that make it anew, as `.dump` of sqlite3 gives them.
    Sql,
}

impl Handle {
    /// Runs a command of the database through the log, on whichever node leads. `tag`: its name, if the client chose one.
    pub fn sql_write(&self, command: &Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)> {
        let command = registry::sql_command(command);
        understood(self.ask(Work::Command { tag, command, ack: Ack::Applied }, deadline))
    }

    /// Reads. Whatever its level, a statement that could change anything fails in its place.
    pub fn sql_read(&self, read: SqlRead, deadline: Instant) -> Outcome<(Index, Answer)> {
        let SqlRead { statements, level, seed, .. } = read;
        if level == ReadLevel::Strong {
            let run = Run { statements, is_transaction: false, kind: Kind::Query, seed };
            return self.sql_write(&Command::Run(run), None, deadline);
        }
        let level = if level == ReadLevel::None { Level::Eventual } else { Level::Linearizable };
        understood(self.query(registry::sql_query(&Query::Read(statements)), level, deadline))
    }

    /// Whether each of these only reads, as far as this node's schema tells: such a request needs no log.
    pub fn sql_only_reads(&self, _statements: &[Statement]) -> bool {
        false
    }

    /// Writes the whole database out, as it is at the index that is answered.
    pub fn sql_backup(
        &self,
        _form: BackupForm,
        _level: ReadLevel,
        _deadline: Instant,
        _out: &mut dyn Write,
    ) -> Outcome<Index> {
        Outcome::Refused("there is no database yet".to_string())
    }
}

fn understood(outcome: Outcome<(Index, Reply)>) -> Outcome<(Index, Answer)> {
    match outcome {
        Outcome::Done((index, Reply::Ok(bytes))) => match Answer::decode(&bytes) {
            Some(answer) => Outcome::Done((index, answer)),
            None => Outcome::Unknown("the database gave an answer that this node does not know".to_string()),
        },
        Outcome::Done((index, Reply::Failed(why))) => Outcome::Done((index, Answer::Refused(why))),
        Outcome::Refused(why) => Outcome::Refused(why),
        Outcome::Unknown(why) => Outcome::Unknown(why),
    }
}
