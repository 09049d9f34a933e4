//! Which commands may make the database larger, told by the first word of each statement: a quota that is reached refuses those,
//! and lets what makes room go on.
//!
//! A trigger may turn a DELETE into an INSERT: a quota bounds what is kept, about; it proves nothing.
//! Not here: the quota (`node/quota.rs`).

use super::words::Command;
use crate::services::Growth;

/// First words of statements that take no room.
const MAKES_ROOM: [&str; 7] = ["DELETE", "DROP", "SELECT", "VALUES", "EXPLAIN", "PRAGMA", "REINDEX"];

/// See [`Growth`].
pub fn growth(command: &[u8]) -> Growth {
    match postcard::from_bytes::<Command>(command) {
        Ok(Command::Run(run)) if run.statements.iter().all(|statement| makes_room(&statement.sql)) => Growth::Nothing,
        Ok(Command::Run(_) | Command::Load { .. }) => Growth::Adds,
        Ok(Command::Prepare { bytes, .. } | Command::PutInPlace { bytes, .. }) => Growth::Replaces(bytes),
        // A file that comes in pieces is judged when it takes the place of the tables.
        Ok(Command::Stage { .. } | Command::Unstage { .. }) | Err(_) => Growth::Nothing,
    }
}

fn makes_room(sql: &str) -> bool {
    let mut rest = sql.trim_start();
    loop {
        let after = match rest.get(..2) {
            Some("--") => rest.find('\n').map(|at| &rest[at..]),
            Some("/*") => rest.find("*/").map(|at| &rest[at + 2..]),
            _ => break,
        };
        rest = after.unwrap_or("").trim_start();
    }
    let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    MAKES_ROOM.iter().any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::words::{Kind, Run, Statement};
    use super::*;

    #[test]
    fn what_makes_room_is_told_by_its_first_word() {
        for (sql, expected) in [
            ("DELETE FROM t", true),
            ("  -- no longer\n/* wanted */ drop table t;", true),
            ("select 1", true),
            ("INSERT INTO t VALUES(1)", false),
            ("/* DELETE */ UPDATE t SET a = 1", false),
            ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", false),
            ("CREATE TABLE a(b)", false),
            ("DELETED", false),
            ("-- nothing", false),
            ("/* nothing", false),
            ("", false),
        ] {
            let statements = vec![Statement::bare("DELETE FROM a"), Statement::bare(sql)];
            let run = Command::Run(Run { statements, is_transaction: false, kind: Kind::Execute, seed: 1 });
            assert_eq!(growth(&run.encode()) == Growth::Nothing, expected, "{sql:?}");
        }
        let command = Command::PutInPlace { load: 1, bytes: 77, crc: 0, seed: 0 };
        assert_eq!(growth(&command.encode()), Growth::Replaces(77));
    }
}
