//! Decides by the words of its statements whether a command may make the database larger: when a quota is reached, such
//! commands are refused, and commands that free space are still accepted.
//!
//! A trigger may turn a DELETE into an INSERT: if there are triggers, DELETE is limited as well, by a higher bound.
//! Not here: the quota (`node/quota.rs`).

use crate::services::sql::commands::Command;
use crate::services::sql::tokens::{is_keyword, words_outside};

/// How a command changes the size of the database, as far as is known before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The size does not grow.
    Nothing,
    /// The command frees space, but triggers that it fires may take more than that.
    MayAdd,
    /// The size may grow.
    Adds,
    /// The whole database is replaced by one of this many bytes.
    Replaces(u64),
}

/// Bytes by which a command with the least budget (`token_bucket.rs`) can make the database larger: 1.5 million steps,
/// which write some 1.1 bytes each where they write most, when rows of 4,000 bytes are copied from table to table.
/// Commands with a larger budget share one bucket of steps, with which they can add some 320 MB before it is empty.
pub const COMMAND_GROWTH: u64 = 2 << 20;

/// First words of statements that do not make the database larger.
const MAKES_ROOM: [&str; 7] = ["DELETE", "DROP", "SELECT", "VALUES", "EXPLAIN", "PRAGMA", "REINDEX"];

/// The first words of a statement after common table expressions.
const VERBS: [&str; 6] = ["SELECT", "VALUES", "DELETE", "INSERT", "REPLACE", "UPDATE"];

/// How a command changes the size of the database; see [`Growth`].
pub fn growth(command: &[u8]) -> Growth {
    match postcard::from_bytes::<Command>(command) {
        Ok(Command::Run(run)) if run.statements.iter().all(|statement| makes_room(&statement.sql)) => {
            let removes = |sql: &str| verb(sql).is_some_and(|verb| is_keyword(verb, "DELETE"));
            if run.statements.iter().any(|one| removes(&one.sql)) { Growth::MayAdd } else { Growth::Nothing }
        }
        Ok(Command::Run(_) | Command::Load { .. } | Command::LoadDump { .. }) => Growth::Adds,
        Ok(Command::Prepare { bytes, .. } | Command::PutInPlace { bytes, .. }) => Growth::Replaces(bytes),
        // The size of a file that comes in pieces is checked when it replaces the tables.
        Ok(Command::Stage { .. } | Command::Unstage { .. } | Command::SetForeignKeys { .. }) | Err(_) => {
            Growth::Nothing
        }
    }
}

fn makes_room(sql: &str) -> bool {
    verb(sql).is_some_and(|verb| MAKES_ROOM.iter().any(|known| is_keyword(verb, known)))
}

/// The word that says what a statement does, after any common table expressions.
fn verb(sql: &str) -> Option<&[u8]> {
    let mut words = words_outside(sql);
    match words.next() {
        Some(first) if is_keyword(first, "WITH") => words.find(|word| VERBS.iter().any(|verb| is_keyword(word, verb))),
        first => first,
    }
}

#[cfg(test)]
mod tests {
    use crate::services::sql::budget::growth::*;
    use crate::services::sql::commands::{Run, RunKind, Statement};

    #[test]
    fn statements_that_free_space_are_recognized_by_their_verb() {
        for (sql, expected) in [
            ("DELETE FROM t", true),
            ("  -- no longer\n/* wanted */ drop table t;", true),
            ("select 1", true),
            ("INSERT INTO t VALUES(1)", false),
            ("/* DELETE */ UPDATE t SET a = 1", false),
            ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", false),
            ("WITH x(a) AS (SELECT 1), y AS (INSERT_ME) DELETE FROM t WHERE a IN (SELECT a FROM x)", true),
            ("WITH RECURSIVE x AS (VALUES(1)) SELECT replace(a, 'x', 'y') FROM x", true),
            ("WITH x AS MATERIALIZED (DELETE) REPLACE INTO t SELECT * FROM x", false),
            ("WITH \"delete\" AS (SELECT ')') UPDATE t SET a = 1", false),
            ("; DELETE FROM t", true),
            ("REPLACE INTO t VALUES(1)", false),
            ("CREATE TABLE a(b)", false),
            ("DELETED", false),
            ("-- nothing", false),
            ("/* nothing", false),
            ("", false),
        ] {
            let of = |statements: Vec<Statement>| {
                growth(
                    &Command::Run(Run { statements, is_transaction: false, kind: RunKind::Execute, seed: 1 }).encode(),
                )
            };
            let beside = of(vec![Statement::bare("DELETE FROM a"), Statement::bare(sql)]);
            assert_eq!(beside, if expected { Growth::MayAdd } else { Growth::Adds }, "{sql:?}");
            let removes = expected && sql.to_ascii_lowercase().contains("delete ");
            let alone = of(vec![Statement::bare("SELECT 1"), Statement::bare(sql)]);
            assert_eq!(alone == Growth::MayAdd, removes, "{sql:?}");
        }
        let command = Command::PutInPlace { load: 1, bytes: 77, crc: 0, seed: 0 };
        assert_eq!(growth(&command.encode()), Growth::Replaces(77));
    }
}
