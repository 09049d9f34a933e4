//! Tells whether a transaction could be committed as far as its foreign keys are concerned.

use rusqlite::{Connection, ffi};

/// Whether rows written by the open transaction break a foreign key: a COMMIT would fail. Only deferred constraints can
/// be broken between two statements.
pub fn are_broken(conn: &Connection) -> bool {
    let (mut is_broken, mut highest) = (0, 0);
    // SAFETY: the handle is that of an open connection, and both pointers point to integers of this function.
    let code = unsafe {
        let handle = conn.handle();
        ffi::sqlite3_db_status(handle, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &raw mut is_broken, &raw mut highest, 0)
    };
    assert!(code == ffi::SQLITE_OK, "SQLite knows this counter since version 3.7.15: {code}");
    is_broken != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_deferred_constraint_counts() {
        let conn = Connection::open_in_memory().unwrap();
        let make = "PRAGMA foreign_keys = ON; CREATE TABLE p (id PRIMARY KEY); \
            CREATE TABLE c (p REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED, q REFERENCES p(id)); \
            BEGIN; SAVEPOINT s";
        conn.execute_batch(make).unwrap();
        assert!(!are_broken(&conn));
        assert!(conn.execute_batch("INSERT INTO c VALUES(NULL, 1)").is_err() && !are_broken(&conn));
        conn.execute_batch("INSERT INTO c VALUES(1, NULL); RELEASE s").unwrap();
        assert!(are_broken(&conn) && conn.execute_batch("COMMIT").is_err());
        conn.execute_batch("INSERT INTO p VALUES(1)").unwrap();
        assert!(!are_broken(&conn));
        conn.execute_batch("DELETE FROM p").unwrap();
        assert!(are_broken(&conn));
        conn.execute_batch("ROLLBACK").unwrap();
        assert!(!are_broken(&conn));
    }
}
