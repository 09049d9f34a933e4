//! What a schema change costs, and how large a schema may become.
//!
//! SQLite processes the whole schema within single steps, which step counting does not see: it searches the schema for
//! each new definition, and ALTER TABLE parses all of it, several times. So a statement that changes the schema is
//! charged for the schema's size before it runs. From then on SQLite reads the whole schema again after each rollback to
//! a savepoint in the same transaction: each statement that is undone is charged for that.
//!
//! Invariant: D1 the charge follows from the statement and the schema alone: it is the same on every node.
//! Not here: what the program of such a statement costs (`step_cost.rs`).

use super::{fulltext, length_tiers};
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::tokens::words;
use rusqlite::Connection;
use std::sync::atomic::Ordering::Relaxed;

/// Tables, indexes, views and triggers of a database, including those that SQLite creates by itself.
const OBJECTS_MAX: u64 = 2_000;
/// Bytes of all definitions.
const BYTES_MAX: u64 = 1 << 20;
/// Virtual tables among them: SQLite informs each of them of every savepoint, and they may read from one another, ever
/// more deeply nested.
pub const VIRTUAL_MAX: u64 = 32;
/// The cost of any change, and the cost for each existing object.
const CHANGE_STEPS: u64 = 150_000;
const STEPS_PER_OBJECT: u64 = 300;
/// The cost of reading the schema again: for each object, and for each byte of the definitions.
const READ_STEPS_PER_OBJECT: u64 = 5_000;
const READ_STEPS_PER_BYTE: u64 = 125;
/// The cost of a comma in a statement, which may separate two columns, and of the square of their number.
const STEPS_PER_COMMA: u64 = 3_000;
/// The cost of ALTER TABLE: a fixed part, and parts for each object of the schema, for each comma in the definitions,
/// and for each byte of them.
struct Alter {
    once: u64,
    object: u64,
    comma: u64,
    byte: u64,
}

const ADD: Alter = Alter { once: 400_000, object: 6_000, comma: 1_500, byte: 50 };
/// Renaming or removing: each definition is parsed again and searched for the name.
const RENAME: Alter = Alter { once: 2_000_000, object: 30_000, comma: 10_000, byte: 300 };

/// Largest number of names in an ALTER TABLE, including the words RENAME and COLUMN, which may be names.
const NAMES_MAX: usize = 6;
/// Bytes that are moved in the time of one step.
const MOVED_PER_STEP: u64 = 10;

/// How large a schema is.
struct Size {
    objects: u64,
    bytes: u64,
    virtual_tables: u64,
    /// Commas in all definitions; known for ALTER TABLE alone.
    commas: u64,
    /// Bytes that are moved if a new name is written in every place that may refer to the old one; known for ALTER
    /// TABLE alone.
    moved: u64,
    /// Length of the longest definition that belongs to the altered table; known for ALTER TABLE alone.
    longest: u64,
}

/// Charges for a statement that changes the schema.
///
/// # Errors
/// The budget is exceeded, the schema has reached its size limit, or the statement needs a higher tier.
pub fn charge(conn: &Connection, hooks: &HookState, sql: &str, tier: usize) -> Result<(), StatementError> {
    let mut verbs = words(sql).map(<[u8]>::to_ascii_lowercase);
    let verb = verbs.next().unwrap_or_default();
    let altered = (verb == b"alter").then_some(sql);
    let size = size(conn, hooks, tier, altered).map_err(|error| classify(hooks, &error))?;
    let Size { objects, bytes, virtual_tables, .. } = size;
    let own_bytes = sql.len() as u64;
    if altered.is_some() {
        // The statement writes these definitions.
        length_tiers::suits(hooks, tier, usize::try_from(size.longest + own_bytes).unwrap_or(usize::MAX))?;
    }
    let commas = sql.bytes().filter(|byte| *byte == b',').count() as u64;
    let mut steps = CHANGE_STEPS + objects * STEPS_PER_OBJECT + commas * STEPS_PER_COMMA + commas * commas;
    let mut parsed = 0;
    if verb == b"alter" {
        // A new name is written wherever the old one occurs.
        let touched = bytes + objects * own_bytes;
        let renames = verbs.any(|word| word == b"rename" || word == b"drop");
        let Alter { once, object, comma, byte } = if renames { RENAME } else { ADD };
        parsed = objects * object + size.commas * comma + touched * byte;
        steps += once + parsed;
        if renames {
            steps = steps.saturating_add(size.moved / MOVED_PER_STEP);
        }
    } else if verb == b"create" && verbs.next().is_some_and(|word| word == b"virtual") && virtual_tables >= VIRTUAL_MAX
    {
        return Err(StatementError::Failed(format!(
            "a database has at most {VIRTUAL_MAX} virtual tables: drop one first"
        )));
    }
    if hooks.is_creating_virtual.load(Relaxed)
        && let Some(why) = fulltext::writes::refusal(sql)
    {
        return Err(StatementError::Failed(why));
    }
    let reread_steps = (objects + 1) * READ_STEPS_PER_OBJECT + (bytes + own_bytes) * READ_STEPS_PER_BYTE;
    // One reading is paid for in advance, because anything that ends the command may roll it back.
    let paid = hooks.reread_steps.load(Relaxed);
    steps = steps.saturating_add(reread_steps.saturating_sub(paid.max(parsed)));
    if !hooks.charge(steps) {
        return Err(StatementError::BudgetExceeded);
    }
    let grows = verb == b"create" || verb == b"alter";
    if grows && (objects >= OBJECTS_MAX || bytes + own_bytes > BYTES_MAX) {
        return Err(StatementError::Failed(format!(
            "a database has {OBJECTS_MAX} tables, indexes, views and triggers and {BYTES_MAX} bytes of definitions at most, this one has \
             {objects} and {bytes}: drop some of them first"
        )));
    }
    hooks.reread_steps.store(reread_steps.max(paid), Relaxed);
    Ok(())
}

fn size(conn: &Connection, hooks: &HookState, tier: usize, altered: Option<&str>) -> rusqlite::Result<Size> {
    let _own = InternalStatements::begin(hooks);
    let select = match altered {
        None => {
            "SELECT count(*), total(octet_length(sql)), count(*) FILTER (WHERE type = 'table' AND rootpage = 0), 0.0, 0.0, 0 FROM main.sqlite_schema"
        }
        // SQLite moves the rest of a definition for each place where it writes the new name. The statement is at least
        // as long as that name.
        Some(_) => {
            "SELECT count(*), total(octet_length(sql)), count(*) FILTER (WHERE type = 'table' AND rootpage = 0), \
             total(octet_length(sql) - octet_length(replace(sql, ',', ''))), total(places * (octet_length(sql) + places * ?1) / 2), \
             ifnull(max(octet_length(sql)) FILTER (WHERE ?2 OR lower(tbl_name) IN (SELECT value FROM json_each(?3))), 0) \
             FROM (SELECT sql, type, rootpage, tbl_name, CASE WHEN ?2 THEN octet_length(sql) / 2.0 ELSE \
             (SELECT total((octet_length(sql) - octet_length(replace(lower(sql), value, ''))) / octet_length(value)) FROM json_each(?3)) \
             END AS places FROM main.sqlite_schema)"
        }
    };
    length_tiers::at_any_length(conn, tier, || {
        let mut prepared = conn.prepare_cached(select)?;
        if let Some(sql) = altered {
            prepared.raw_bind_parameter(1, sql.len() as f64)?;
            let names = names(sql);
            prepared.raw_bind_parameter(2, names.is_none())?;
            prepared.raw_bind_parameter(3, serde_json::json!(names.unwrap_or_default()).to_string())?;
        }
        let mut rows = prepared.raw_query();
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let whole = |place| row.get::<_, i64>(place).map(i64::unsigned_abs);
        let number = |place| row.get::<_, f64>(place).map(|number| number as u64);
        Ok(Size {
            objects: whole(0)?,
            bytes: number(1)?,
            virtual_tables: whole(2)?,
            commas: number(3)?,
            moved: number(4)?,
            longest: whole(5)?,
        })
    })?
}

/// The names in an ALTER TABLE, in lower case, and words that may be names; `None`: they cannot be determined.
fn names(sql: &str) -> Option<Vec<String>> {
    // Words that SQLite accepts as names only in quotes.
    const KEYWORDS: [&str; 4] = ["alter", "table", "drop", "to"];
    let (mut rest, mut names) = (sql, Vec::new());
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let quote = match first {
            '"' | '`' | '\'' => Some(first),
            '[' => Some(']'),
            _ => None,
        };
        if let Some(quote) = quote {
            let (name, behind) = rest[1..].split_once(quote)?;
            if behind.starts_with(quote) {
                return None;
            }
            names.push(name.to_ascii_lowercase());
            rest = behind;
        } else if is_name(first) {
            let name = rest.split(|c| !is_name(c)).next()?;
            if !KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(name)) {
                names.push(name.to_ascii_lowercase());
            }
            rest = &rest[name.len()..];
        } else if rest.starts_with("--") || rest.starts_with("/*") {
            return None;
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    names.retain(|name| !name.is_empty());
    (names.len() <= NAMES_MAX).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn names_in_a_statement_are_found() {
        for (sql, expected) in [
            ("ALTER TABLE T RENAME TO u", Some("t rename u")),
            ("ALTER TABLE \"to\" RENAME TO u", Some("to rename u")),
            ("ALTER TABLE column RENAME TO u", Some("column rename u")),
            ("alter table main . \"my t\" rename a to [B]", Some("main my t rename a b")),
            ("ALTER TABLE`t`RENAME COLUMN a TO 'to be'", Some("t rename column a to be")),
            ("ALTER TABLE \"a\"\"b\" RENAME TO u", None),
            ("ALTER TABLE /* t */ t RENAME TO u", None),
            ("ALTER TABLE a.b RENAME c TO d", Some("a b rename c d")),
            ("ALTER TABLE a b c d e f g", None),
        ] {
            assert_eq!(names(sql).map(|names| names.join(" ")).as_deref(), expected, "{sql}");
        }
    }
}
