//! Limits the space that a request frees at once.
//!
//! DROP TABLE, DROP INDEX and DELETE without WHERE free all pages of a table at once, and a row that is removed,
//! replaced or changed frees all of its pages in one step, however long it is. Counting steps does not bound this work.
//!
//! The number of pages of a table differs between nodes, so this cannot be part of a command's effects: the endpoint
//! that receives a request checks it with the node's own file before it puts the request into the log. For a DELETE or
//! UPDATE it adds up the lengths of the rows found. For everything else that removes rows (REPLACE, ON CONFLICT,
//! triggers, actions of foreign keys), SQLite's program shows from which tables: one row for each such instruction
//! outside of a loop, otherwise all long rows of the table.
//!
//! Not here: other costs of a statement (`step_cost.rs`), the length of rows (`long_rows.rs`), the caller
//! (`node/sql/handle.rs`).

use super::long_rows::{LONG_BYTES, LongRows, row_length};
use super::prices::JUMPS;
use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::text_cost::too_many_selects;
use crate::services::sql::commands::{Outcome, Params, RunKind, SQL_BYTES_MAX, Statement, Value};
use crate::services::sql::connection::foreign_keys;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::statement::Executor;
use crate::services::sql::tokens::{contains_any, from_first_word, is_keyword, tokens, words, words_outside};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;

/// Largest number of bytes that one request may free at once.
pub const FREED_BYTES_MAX: i64 = 256 << 20;
/// Commands with which a full-text table removes its whole index.
const CLEARS_INDEX: [&str; 2] = ["delete-all", "rebuild"];
/// If a program has more triggers than this, each of them is assumed to remove any number of rows.
const TRIGGERS_MAX: u64 = 4;

/// What a statement frees, according to SQLite's program.
#[derive(Clone, Debug, Default)]
struct FreedSpace {
    /// Tables and indexes that are freed as a whole.
    whole: Vec<String>,
    /// The first table that the statement writes to: its root page and name.
    written: Option<(i64, String)>,
    /// Root pages of the tables from which the statement removes rows, and how many; `None`: any number. Triggers are
    /// counted separately.
    own: BTreeMap<i64, Option<u64>>,
    by_triggers: BTreeMap<i64, Option<u64>>,
}

/// Whether a request contains statements that may free much, judged by their words. `has_triggers`: the database has
/// triggers, by which any written row may cause others to be removed.
pub fn may_free(statements: &[Statement], has_triggers: bool) -> bool {
    statements.iter().any(|statement| frees(&statement.sql, has_triggers) || clears(statement))
}

/// Whether a statement may free much. `has_triggers`: any row that it writes may cause others to be removed.
fn frees(sql: &str, has_triggers: bool) -> bool {
    let first = words(sql).next().unwrap_or_default();
    let mut removes =
        words(sql).filter(|word| ["replace", "conflict", "delete", "update"].iter().any(|one| is_keyword(word, one)));
    if is_keyword(first, "insert") || is_keyword(first, "with") {
        // Inserted rows that FTS5 takes as commands can remove rows as well.
        has_triggers || removes.next().is_some() || contains_any(sql.as_bytes(), &CLEARS_INDEX)
    } else {
        ["drop", "delete", "update", "replace"].iter().any(|one| is_keyword(first, one))
    }
}

/// The reason for refusing a request that would free too much, judged by the file of this connection. The statements
/// that inspect rows are charged to the budget of `hooks`.
///
/// # Errors
/// The file cannot be read.
pub fn excess(
    conn: &Connection,
    hooks: &HookState,
    long_rows: &LongRows,
    statements: &[Statement],
) -> Result<Option<String>> {
    let number = |sql: &str| {
        let _own = InternalStatements::begin(hooks);
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    let page_bytes = number("PRAGMA page_size")?;
    let most = FREED_BYTES_MAX / page_bytes;
    if number("PRAGMA page_count")? - number("PRAGMA freelist_count")? <= most {
        return Ok(None);
    }
    let has_triggers = foreign_keys::are_enforced(hooks)
        || number("SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger')")? > 0;
    let renames =
        statements.iter().any(|one| words(&one.sql).next().is_some_and(|word| word.eq_ignore_ascii_case(b"alter")));
    let mut pages = 0;
    let mut known: BTreeMap<&str, FreedSpace> = BTreeMap::new();
    let mut removed: BTreeMap<i64, u64> = BTreeMap::new();
    for statement in statements.iter().filter(|one| frees(&one.sql, has_triggers) || clears(one)) {
        // A statement that cannot be prepared now will fail, or uses a table that this request creates.
        let freed = match known.get(statement.sql.as_str()) {
            Some(freed) => freed.clone(),
            None => freed_by(conn, hooks, &statement.sql).unwrap_or_default(),
        };
        known.entry(&statement.sql).or_insert_with(|| freed.clone());
        if renames && (!freed.whole.is_empty() || freed.written.is_none()) {
            let why = "in a large database, ALTER cannot be in the same request as statements that delete a whole \
                table: send them separately";
            return Ok(Some(why.to_string()));
        }
        let cleared = if clears(statement) { indexes(conn, hooks)? } else { Vec::new() };
        for name in freed.whole.iter().chain(&cleared) {
            let _own = InternalStatements::begin(hooks);
            pages += conn
                .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM dbstat WHERE name = ?1 LIMIT ?2)")?
                .query_row((name, most + 1 - pages), |row| row.get::<_, i64>(0))?;
        }
        let mut tables = freed.own;
        if freed.whole.is_empty()
            && let Some((root, table)) = &freed.written
            && let Some(bytes) = removed_bytes(conn, hooks, statement, table)?
        {
            pages += bytes / page_bytes;
            tables.remove(root);
        }
        for (root, count) in tables.into_iter().chain(freed.by_triggers) {
            let _own = InternalStatements::begin(hooks);
            let (all, longest) = long_rows.of(conn, root, FREED_BYTES_MAX.unsigned_abs() / 4)?;
            let bytes = count.map_or(all, |count| longest.saturating_mul(count).min(all));
            let sum = removed.entry(root).or_default();
            *sum = sum.saturating_add(bytes).min(all);
        }
        let replaced =
            removed.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)) / page_bytes.unsigned_abs();
        if pages.unsigned_abs().saturating_add(replaced) > most.unsigned_abs() {
            return Ok(Some(format!(
                "this could free more than {} MiB at once and block other writes meanwhile: delete or change the rows in key \
                 ranges first, about ten thousand at a time, or fewer if they are long; replace one row with each statement, \
                 each of which counts as the longest of its table; and delete long rows by statements of their own, not by \
                 triggers",
                FREED_BYTES_MAX >> 20
            )));
        }
    }
    Ok(None)
}

/// Whether a statement may make a full-text table remove its whole index.
fn clears(statement: &Statement) -> bool {
    statement.mentions(&CLEARS_INDEX)
}

/// The shadow tables that contain the indexes of full-text tables.
fn indexes(conn: &Connection, hooks: &HookState) -> Result<Vec<String>> {
    let _own = InternalStatements::begin(hooks);
    let find = "SELECT s.name FROM main.sqlite_schema s JOIN main.sqlite_schema v ON v.rootpage = 0 AND v.type = 'table' \
                AND s.name IN (v.name || '_data', v.name || '_idx', v.name || '_docsize')";
    let mut names = conn.prepare_cached(find)?;
    names.query_map([], |row| row.get(0))?.collect()
}

/// The program of a statement, or of one of its triggers.
#[derive(Default)]
struct Section {
    /// Address of its constants; the program jumps back to its beginning after them.
    constants: i64,
    cursors: BTreeMap<i64, i64>,
    /// Instructions that remove a row: their address, and the root page of the table.
    removals: Vec<(i64, i64)>,
    triggers: Vec<i64>,
    /// Backward jumps, which form loops: their target and their address.
    rounds: Vec<(i64, i64)>,
}

impl Section {
    fn is_round(&self, at: i64) -> bool {
        self.rounds
            .iter()
            .any(|(to, from)| (*to..=*from).contains(&at) && (self.constants == 0 || *from < self.constants))
    }
}

/// Determines what a statement frees. It is prepared with the same limits as a read.
fn freed_by(conn: &Connection, hooks: &HookState, sql: &str) -> Result<FreedSpace> {
    if sql.len() > SQL_BYTES_MAX || too_many_selects(sql).is_some() {
        return Ok(FreedSpace::default());
    }
    hooks.begin_statement();
    let mut explain = conn.prepare(&format!("EXPLAIN {}", from_first_word(sql)))?;
    let mut rows = explain.raw_query();
    let (mut roots, mut modules, mut written) = (Vec::new(), Vec::new(), None);
    let mut sections: Vec<Section> = Vec::new();
    while let Some(row) = rows.next()? {
        let [address, p1, p2, p3] = [0, 2, 3, 4].map(|column| row.get::<_, i64>(column).unwrap_or(0));
        if address == 0 || sections.is_empty() {
            sections.push(Section::default());
        }
        let Some(section) = sections.last_mut() else { continue };
        let ValueRef::Text(name) = row.get_ref(1)? else { continue };
        let name = std::str::from_utf8(name).unwrap_or_default();
        match name {
            "Destroy" | "Clear" => roots.push(p1),
            "VDestroy" => modules.push(row.get_ref(5)?.as_str().unwrap_or_default().to_string()),
            "OpenWrite" => {
                written = written.or(Some(p2));
                section.cursors.insert(p1, p2);
            }
            "Delete" => section.removals.push((address, section.cursors.get(&p1).copied().unwrap_or(0))),
            "Program" => section.triggers.push(address),
            "Init" if p2 > 1 => section.constants = p2,
            "Jump" => {
                section.rounds.extend([p1, p2, p3].map(|to| (to, address)).into_iter().filter(|(to, at)| to < at))
            }
            _ if p2 > 0 && p2 < address && JUMPS.split(' ').any(|jump| jump == name) => {
                section.rounds.push((p2, address));
            }
            _ => {}
        }
    }
    drop(rows);
    let (mut own, mut by_triggers) = (BTreeMap::new(), BTreeMap::new());
    let triggers = sections.iter().map(|section| section.triggers.len() as u64).sum::<u64>();
    let are_round =
        triggers > TRIGGERS_MAX || sections.iter().any(|one| one.triggers.iter().any(|at| one.is_round(*at)));
    for (number, section) in sections.iter().enumerate() {
        let (found, times) = if number == 0 { (&mut own, 1) } else { (&mut by_triggers, triggers) };
        for (at, root) in &section.removals {
            let count: &mut Option<u64> = found.entry(*root).or_insert(Some(0));
            let is_any = section.is_round(*at) || (number > 0 && are_round);
            *count = count.filter(|_| !is_any).map(|count| count + times);
        }
    }
    let _own = InternalStatements::begin(hooks);
    let named = |root: i64| {
        let mut name = conn.prepare_cached("SELECT name FROM main.sqlite_schema WHERE rootpage = ?1")?;
        let names = name.query_map([root], |row| row.get::<_, String>(0))?;
        names.collect::<Result<Vec<_>>>()
    };
    let mut whole = Vec::new();
    for root in roots {
        whole.extend(named(root)?);
    }
    for table in modules {
        // The names of shadow tables begin with the name of the virtual table.
        let find = "SELECT name FROM main.sqlite_schema WHERE substr(name, 1, length(?1) + 1) = ?1 || '_'";
        let mut own = conn.prepare_cached(find)?;
        whole.extend(own.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?);
    }
    let name = written.map(named).transpose()?.and_then(|names| names.into_iter().next());
    Ok(FreedSpace { whole, written: written.zip(name), own, by_triggers })
}

/// Length in bytes of the rows that a DELETE or UPDATE finds; `None` for other statements, or if the rows cannot be
/// determined.
fn removed_bytes(conn: &Connection, hooks: &HookState, statement: &Statement, table: &str) -> Result<Option<i64>> {
    let own = InternalStatements::begin(hooks);
    let Some(length) = row_length(conn, table)? else { return Ok(None) };
    drop(own);
    let Some((sql, passed_over)) = sum_query(&statement.sql, &length) else { return Ok(None) };
    let Ok(wanted) = conn.prepare(&sql).map(|prepared| prepared.parameter_count()) else { return Ok(None) };
    let params = match &statement.params {
        // The parameters before these belong to SET, those after them to RETURNING.
        Params::Positional(values) => {
            Params::Positional(values.iter().skip(passed_over).take(wanted).cloned().collect())
        }
        other => other.clone(),
    };
    let mut limit = AnswerLimit::new(1 << 10, 1);
    let mut executor = Executor { conn, hooks, kind: RunKind::Query, limit: &mut limit };
    match executor.read(&Statement { sql, params }) {
        Ok(Outcome::Rows { values, .. }) => match values.first().and_then(|row| row.first()) {
            Some(Value::Integer(bytes)) => Ok(Some(*bytes)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Derives a SELECT from a DELETE or UPDATE that adds up the bytes of the rows it finds; of an UPDATE only those of
/// long rows. Also returns the number of leading positional parameters that the SELECT does not use.
fn sum_query(sql: &str, length: &str) -> Option<(String, usize)> {
    let at = |word: &[u8]| word.as_ptr().addr() - sql.as_ptr().addr();
    let mut words = words_outside(sql).peekable();
    let verb = words.find(|word| ["delete", "update", "insert", "replace"].iter().any(|one| is_keyword(word, one)))?;
    let begin = at(verb);
    let trimmed = |text: &str| text.trim_end_matches([';', ' ', '\n', '\r', '\t']).to_string();
    if is_keyword(verb, "delete") {
        let end = words.find(|word| is_keyword(word, "returning")).map_or(sql.len(), at);
        let rest = trimmed(&sql[begin + verb.len()..end]);
        return Some((format!("{}SELECT ifnull(sum({length}), 0){rest}", &sql[..begin]), 0));
    }
    if !is_keyword(verb, "update") {
        return None;
    }
    let mut table_from = begin + verb.len();
    if words.next_if(|word| is_keyword(word, "or")).is_some() {
        let how = words.next()?;
        table_from = at(how) + how.len();
    }
    let set = at(words.find(|word| is_keyword(word, "set"))?);
    let behind = words.find(|word| ["from", "where", "returning"].iter().any(|one| is_keyword(word, one)));
    let (values_to, rest) = match behind {
        None => (sql.len(), String::new()),
        Some(word) if is_keyword(word, "from") => return None,
        Some(word) if is_keyword(word, "returning") => (at(word), String::new()),
        Some(word) => {
            let end = words.find(|word| is_keyword(word, "returning")).map_or(sql.len(), at);
            (at(word), trimmed(&sql[at(word)..end]))
        }
    };
    // If parameters cannot be assigned to their places, all long rows of the table are counted.
    let count = |text: &str| tokens(text).filter(|token| *token == b"?").count();
    let is_numbered = sql.as_bytes().windows(2).any(|two| two[0] == b'?' && two[1].is_ascii_digit());
    if is_numbered || count(&sql[..begin]) > 0 {
        return None;
    }
    let table = &sql[table_from..set];
    let select = format!("SELECT ifnull(sum(max({length} - {LONG_BYTES}, 0)), 0) FROM{table}{rest}");
    Some((format!("{}{select}", &sql[..begin]), count(&sql[set..values_to])))
}

#[cfg(test)]
mod tests {
    use crate::services::sql::budget::freed_space::*;

    #[test]
    fn words_tell_what_may_free_much() {
        for (sql, expected) in [
            ("DROP TABLE t", true),
            ("/* x */ drop index i", true),
            ("DELETE FROM t", true),
            ("DELETE FROM t WHERE a = 1", true),
            ("WITH c AS (SELECT 1) DELETE FROM t", true),
            ("WITH c AS (SELECT 1) INSERT INTO t SELECT 1 FROM c", false),
            ("INSERT INTO t VALUES('DROP')", false),
            ("UPDATE t SET a = 1", true),
            ("INSERT INTO t VALUES(1)", false),
            ("INSERT OR REPLACE INTO t VALUES(1)", true),
            ("INSERT INTO t VALUES(1) ON CONFLICT DO UPDATE SET a = 2", true),
            ("REPLACE INTO t VALUES(1)", true),
            ("INSERT INTO f(f) VALUES('delete-all')", true),
        ] {
            assert_eq!(frees(sql, false), expected, "{sql}");
        }
    }

    #[test]
    fn freed_space_includes_indexes_and_shadow_tables() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t (a, b); CREATE INDEX i ON t(a); CREATE INDEX j ON t(b); CREATE VIRTUAL TABLE f USING fts5(x); CREATE TABLE g_data (a)",
        )
        .unwrap();
        let found = |sql: &str| {
            let mut found = freed_by(&conn, &HookState::default(), sql).unwrap().whole;
            found.sort();
            found.join(" ")
        };
        assert_eq!(found("DROP TABLE t"), "i j t");
        assert_eq!(found("; /* x */ ;DROP TABLE t"), "i j t");
        assert_eq!(found("DROP INDEX j"), "j");
        assert_eq!(found("DELETE FROM t"), "i j t");
        assert_eq!(found("DELETE FROM t WHERE a > 1"), "");
        assert_eq!(found("DROP TABLE f"), "f_config f_content f_data f_docsize f_idx");
        assert_eq!(found("DROP TABLE IF EXISTS missing"), "");
    }

    #[test]
    fn a_select_weighs_what_a_delete_removes() {
        let sum = "SELECT ifnull(sum(n), 0)";
        for (sql, expected) in [
            ("DELETE FROM t WHERE a > ?;", Some("{} FROM t WHERE a > ?")),
            ("/* delete */ delete from t returning a", Some("/* delete */ {} from t")),
            (
                "WITH d AS (SELECT 'delete') DELETE FROM t WHERE a IN d",
                Some("WITH d AS (SELECT 'delete') {} FROM t WHERE a IN d"),
            ),
            ("INSERT INTO t VALUES(1)", None),
        ] {
            assert_eq!(sum_query(sql, "n"), expected.map(|text| (text.replace("{}", sum), 0)), "{sql}");
        }
        let sum = "SELECT ifnull(sum(max(n - 4000, 0)), 0) FROM";
        for (sql, expected) in [
            ("UPDATE t SET a = ?, b = '?' WHERE c = ? RETURNING ?", Some(("{} t WHERE c = ?", 1))),
            ("update or replace t AS u set a = (SELECT 1 FROM x WHERE ?);", Some(("{} t AS u ", 1))),
            (
                "WITH x AS (SELECT 1) UPDATE t SET a = 1 WHERE b IN x",
                Some(("WITH x AS (SELECT 1) {} t WHERE b IN x", 0)),
            ),
            ("WITH x AS (SELECT ?) UPDATE t SET a = 1 WHERE b IN x", None),
            ("UPDATE t SET a = 1 FROM u WHERE t.a = u.a", None),
            ("UPDATE t SET a = ?2 WHERE b = ?1", None),
        ] {
            assert_eq!(sum_query(sql, "n"), expected.map(|(text, count)| (text.replace("{}", sum), count)), "{sql}");
        }
    }

    #[test]
    fn a_large_table_is_not_freed_at_once() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE large (a); CREATE TABLE small (a); INSERT INTO small VALUES(1)").unwrap();
        let excess = |sql: &[&str]| {
            excess(
                &conn,
                &HookState::default(),
                &LongRows::default(),
                &sql.iter().map(|sql| Statement::bare(*sql)).collect::<Vec<_>>(),
            )
            .unwrap()
        };
        assert_eq!(excess(&["DROP TABLE large"]), None);
        for _ in 0..260 {
            conn.execute("INSERT INTO large VALUES(zeroblob(1 << 20))", []).unwrap();
        }
        for refused in [&["DROP TABLE large"][..], &["SELECT 1", "DELETE FROM large"], &["DROP TABLE IF EXISTS large"]]
        {
            assert!(excess(refused).is_some_and(|why| why.contains("256 MiB")), "{refused:?}");
        }
        for fine in [
            &["DROP TABLE small"][..],
            &["DELETE FROM large WHERE rowid < 5"],
            &["DROP TABLE missing"],
            &["DELETE FROM large WHERE rowid < 0", "DELETE FROM small WHERE a"],
            &["ALTER TABLE small RENAME TO s", "DELETE FROM large WHERE rowid = 1"],
        ] {
            assert_eq!(excess(fine), None, "{fine:?}");
        }
        for refused in [
            &["DELETE FROM large WHERE rowid > 0"][..],
            &["DELETE FROM large WHERE rowid < 130", "DELETE FROM large AS l WHERE l.rowid >= 130 RETURNING 1"],
            &["WITH most(id) AS (VALUES(2)) DELETE FROM large WHERE rowid > (SELECT id FROM most)"],
        ] {
            assert!(excess(refused).is_some_and(|why| why.contains("fewer if they are long")), "{refused:?}");
        }
        let sql = "DELETE FROM large WHERE rowid > ? RETURNING ?".to_string();
        let weighed = |least: i64| {
            let params = Params::Positional(vec![Value::Integer(least), Value::Integer(1)]);
            super::excess(&conn, &HookState::default(), &LongRows::default(), &[Statement { sql: sql.clone(), params }])
                .unwrap()
        };
        assert!(weighed(1).is_some() && weighed(100).is_none(), "parameters count");
        let renamed = excess(&["ALTER TABLE large RENAME TO l", "DROP TABLE IF EXISTS l"]);
        assert!(renamed.is_some_and(|why| why.contains("send them separately")));
        conn.execute("DELETE FROM large WHERE rowid > 10", []).unwrap();
        assert_eq!(excess(&["DROP TABLE large"]), None);
    }

    #[test]
    fn space_freed_by_updates_replacements_and_triggers_is_bounded() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE large (id INTEGER PRIMARY KEY, n UNIQUE, b); CREATE TABLE w (id PRIMARY KEY, b) WITHOUT ROWID; \
             CREATE TABLE few (id INTEGER PRIMARY KEY, b); INSERT INTO few VALUES(1, zeroblob(1000000)), (2, 'b'); \
             CREATE TABLE one (n); CREATE TABLE all_of_them (n); CREATE TABLE loud (n); \
             CREATE TRIGGER o AFTER INSERT ON one BEGIN DELETE FROM large WHERE id = new.n; END; \
             CREATE TRIGGER a AFTER INSERT ON all_of_them BEGIN DELETE FROM large WHERE id > new.n; END; \
             CREATE TRIGGER l AFTER INSERT ON loud BEGIN UPDATE few SET b = new.n; END;",
        )
        .unwrap();
        for n in 0..300 {
            conn.execute("INSERT INTO large(n, b) VALUES(?1, zeroblob(1 << 20))", [n]).unwrap();
        }
        conn.execute("INSERT INTO w SELECT id, b FROM large", []).unwrap();
        let long_rows = LongRows::default();
        let excess = |sql: &[&str]| {
            let statements = sql.iter().map(|sql| Statement::bare(*sql)).collect::<Vec<_>>();
            super::excess(&conn, &HookState::default(), &long_rows, &statements).unwrap()
        };
        let many = |sql: &str, count: usize| vec![sql.to_string(); count];
        for refused in [
            "UPDATE large SET b = NULL",
            "UPDATE OR REPLACE large AS l SET b = 1 WHERE l.id > 5 RETURNING 1",
            "UPDATE large SET b = few.b FROM few WHERE few.id = large.n",
            "REPLACE INTO large(id, b) SELECT id, 1 FROM large",
            "REPLACE INTO large(id, b) VALUES(1, 1), (2, 2)",
            "INSERT OR REPLACE INTO w SELECT id, 1 FROM large",
            "INSERT INTO large(id, b) SELECT id, 1 FROM large WHERE true ON CONFLICT(id) DO UPDATE SET b = excluded.b",
            "UPDATE w SET b = NULL",
            "INSERT INTO all_of_them VALUES(1)",
            "INSERT INTO one SELECT id FROM large",
        ] {
            assert!(excess(&[refused]).is_some_and(|why| why.contains("256 MiB")), "{refused}");
        }
        for fine in [
            "UPDATE large SET b = NULL WHERE id BETWEEN 1 AND 100",
            "UPDATE large SET n = n + 1 WHERE id = 7",
            "REPLACE INTO large(id, b) VALUES(1, 1)",
            "INSERT INTO large(id, b) VALUES(1, 1) ON CONFLICT(id) DO UPDATE SET b = excluded.b",
            "INSERT INTO one VALUES(1)",
            "INSERT INTO loud SELECT 1 FROM large",
            "INSERT INTO large(n) SELECT n + 1000 FROM large",
            "UPDATE few SET b = NULL",
        ] {
            assert_eq!(excess(&[fine]), None, "{fine}");
        }
        // One row each, and each counts as the longest row of the table.
        for (sql, most) in [("REPLACE INTO few VALUES(1, 1)", 1_000), ("REPLACE INTO large(id, b) VALUES(1, 1)", 100)] {
            let all = many(sql, most);
            assert_eq!(excess(&all.iter().map(String::as_str).collect::<Vec<_>>()), None, "{sql}");
        }
        let all = many("REPLACE INTO large(id, b) VALUES(1, 1)", 400);
        assert!(excess(&all.iter().map(String::as_str).collect::<Vec<_>>()).is_some());
        // Long rows that were written after the table was examined.
        long_rows.note(1 << 30);
        assert!(excess(&["UPDATE large SET b = NULL"]).is_some());
        assert_eq!(excess(&["INSERT INTO loud SELECT 1 FROM large"]), None);
    }

    #[test]
    fn rows_removed_by_foreign_key_actions_count() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "PRAGMA foreign_keys = ON; CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES(1), (2); \
             CREATE TABLE large (p INTEGER REFERENCES p(id) ON DELETE CASCADE, b); CREATE INDEX i ON large(p)",
        )
        .unwrap();
        for _ in 0..300 {
            conn.execute("INSERT INTO large VALUES(1, zeroblob(1 << 20))", []).unwrap();
        }
        for (is_on, sql, is_refused) in [
            (true, "DELETE FROM p WHERE id = 1", true),
            (true, "REPLACE INTO p VALUES(1)", true),
            (true, "INSERT INTO p VALUES(3)", false),
            (false, "DELETE FROM p WHERE id = 1", false),
        ] {
            let hooks = HookState::default();
            foreign_keys::enforce(&conn, &hooks, true).unwrap();
            foreign_keys::enforce(&conn, &hooks, is_on).unwrap();
            let excess = super::excess(&conn, &hooks, &LongRows::default(), &[Statement::bare(sql)]).unwrap();
            assert_eq!(excess.is_some(), is_refused, "{is_on} {sql}: {excess:?}");
        }
    }
}
