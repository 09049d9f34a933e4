//! What statements may do: an allow-list that SQLite consults for each action of a statement while it prepares it.
//!
//! Refused are actions that reach files, that belong to one connection alone, that differ between nodes or between two
//! runs, or that would break the transaction around a whole entry. The reason is kept for the client.
//! Not here: the lists of functions, pragmas and modules (`catalogue.rs`), checks on the values that a statement meets
//! (`mod.rs`, `functions.rs`).

use super::catalogue::{
    FUNCTIONS, FUNCTIONS_OF_MATCHES, FUNCTIONS_OF_THE_BUILD, FUNCTIONS_REFUSED, MODULES, PRAGMAS, PRAGMAS_BARE,
    PRAGMAS_OF_COLUMNS, PRAGMAS_OF_PAGES, PRAGMAS_OF_THE_BUILD, PRAGMAS_OF_THE_PAST, PRAGMAS_SET, TABLES_REFUSED,
};
use super::foreign_keys;
use super::hook_state::{HookState, Purpose};
use crate::services::sql::budget::prices;
use crate::services::sql::errors::BUDGET_EXCEEDED;
use crate::services::sql::storage::own_table;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};
use std::sync::atomic::Ordering::Relaxed;

/// Prefix of names that are reserved for our own tables.
const RESERVED: &str = own_table::OLD_TABLE;

/// Pragmas that dumps begin with, and that have no effect here.
const PRAGMAS_OF_DUMPS: &[&str] = &["foreign_keys", "defer_foreign_keys"];
/// The cost of ALTER TABLE reading the whole table in one step, in steps.
const STEPS_OF_CHECK: u64 = crate::services::sql::commands::STEPS_MAX / 40;

/// Decides on an action, and keeps the reason of a refusal.
pub fn decide(hooks: &HookState, purpose: Purpose, asked: AuthContext<'_>) -> Authorization {
    if hooks.is_internal.load(Relaxed) {
        return Authorization::Allow;
    }
    // ALTER TABLE passes the dropped column in this argument, and the database in another.
    let database = match asked.action {
        AuthAction::AlterTable { database_name, .. } => Some(database_name),
        _ => asked.database_name,
    };
    if database.is_some_and(|name| name != "main" && name != "temp") {
        hooks.refuse("the only database is main");
        return Authorization::Deny;
    }
    if purpose == Purpose::Write
        && let AuthAction::Read { table_name, column_name } = asked.action
        && is_schema(table_name)
        && column_name.eq_ignore_ascii_case("rootpage")
    {
        // The location of a table in the file is not part of the state.
        return Authorization::Ignore;
    }
    match asked.action {
        AuthAction::CreateVtable { .. } => {
            hooks.has_virtual.store(true, Relaxed);
            hooks.is_creating_virtual.store(true, Relaxed);
            hooks.changes_virtual();
        }
        AuthAction::DropVtable { .. } | AuthAction::AlterTable { .. } => hooks.changes_virtual(),
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => hooks.uses(table_name),
        _ => {}
    }
    match asked.action {
        AuthAction::Insert { table_name } => hooks.fills(table_name, true),
        AuthAction::Update { table_name, .. } | AuthAction::Delete { table_name } => hooks.fills(table_name, false),
        AuthAction::CreateTable { table_name } | AuthAction::CreateVtable { table_name, .. } => {
            hooks.set_created_table(table_name)
        }
        AuthAction::Read { column_name, .. } if column_name.eq_ignore_ascii_case("rank") => {
            hooks.reads_rank.store(true, Relaxed);
        }
        _ => {}
    }
    if purpose == Purpose::Write {
        expect_work(hooks, &asked.action);
    }
    if !hooks.charge_authorizer_call() {
        hooks.refuse(BUDGET_EXCEEDED);
        return Authorization::Deny;
    }
    match refusal(hooks, purpose, &asked.action) {
        // `Ignore` disables the truncate optimization: a DELETE in a trigger goes row by row and is counted, instead of
        // clearing a whole table in one step that is not counted.
        None if asked.accessor.is_some() && matches!(asked.action, AuthAction::Delete { .. }) => Authorization::Ignore,
        None => Authorization::Allow,
        Some(why) => {
            hooks.refuse(why);
            Authorization::Deny
        }
    }
}

/// Records actions that make a statement run for long.
fn expect_work(hooks: &HookState, action: &AuthAction<'_>) {
    use AuthAction::*;
    match *action {
        Select | Recursive => {
            hooks.selects.store(true, Relaxed);
            hooks.may_repeat.store(true, Relaxed);
        }
        CreateIndex { .. }
        | CreateTable { .. }
        | CreateTrigger { .. }
        | CreateView { .. }
        | CreateVtable { .. }
        | AlterTable { .. }
        | DropIndex { .. }
        | DropTable { .. }
        | DropTrigger { .. }
        | DropView { .. }
        | DropVtable { .. }
        | Reindex { .. } => {
            hooks.changes_schema();
        }
        Insert { table_name } => {
            hooks.charge_row(table_name);
            // A row may have to be looked for in other tables, in one that replaces it all rows that refer to it.
            hooks.may_repeat.fetch_or(foreign_keys::are_enforced(hooks), Relaxed);
        }
        Update { table_name, .. } | Delete { table_name } => {
            hooks.charge_row(table_name);
            hooks.may_repeat.store(true, Relaxed);
        }
        _ => {}
    }
}

fn refusal(hooks: &HookState, purpose: Purpose, action: &AuthAction<'_>) -> Option<String> {
    use AuthAction::*;
    let is_loading = hooks.is_loading.load(Relaxed);
    match *action {
        Select | Recursive | DropVtable { .. } | Reindex { .. } => None,
        Read { table_name, .. } => {
            let name = table_name.to_ascii_lowercase();
            if let Some(pragma) = name.strip_prefix("pragma_") {
                return pragma_refusal(hooks, purpose, pragma, None);
            }
            own_table_refusal(&name).or_else(|| {
                TABLES_REFUSED.contains(&name.as_str()).then(|| format!("table {name} differs between nodes"))
            })
        }
        Insert { table_name } => sequence_refusal(hooks, table_name).or_else(|| write_refusal(hooks, table_name)),
        Update { table_name, column_name } => {
            if !column_name.eq_ignore_ascii_case("name") {
                sequence_refusal(hooks, table_name);
            }
            write_refusal(hooks, table_name)
        }
        Delete { table_name } => write_refusal(hooks, table_name),
        CreateTable { table_name: name } | CreateView { view_name: name } => creation_refusal(name),
        CreateIndex { table_name, index_name: name } | CreateTrigger { table_name, trigger_name: name } => {
            creation_refusal(name).or_else(|| own_table_refusal(table_name))
        }
        DropTable { table_name } | DropIndex { table_name, .. } | DropTrigger { table_name, .. } => own_table_refusal(table_name),
        AlterTable { table_name, .. } => {
            hooks.is_altering.store(true, Relaxed);
            // The new name is checked afterwards (`services/sql/statement.rs`).
            own_table_refusal(table_name)
        }
        DropView { view_name } => own_table_refusal(view_name),
        CreateVtable { table_name, module_name } => {
            let is_known = MODULES.iter().any(|module| module.eq_ignore_ascii_case(module_name));
            creation_refusal(table_name).or_else(|| {
                (!is_known).then(|| format!("virtual tables of {module_name}: not available, only of fts5 and rtree"))
            })
        }
        Function { function_name } => {
            let name = function_name.to_ascii_lowercase();
            if purpose == Purpose::Write {
                // The cost of one call; where the function is called for each row, the price of a step includes it as
                // well.
                hooks.charge(hooks.in_tier(prices::function(&name)));
            }
            function_refusal(hooks, purpose, &name)
        }
        Pragma { pragma_name, pragma_value } => {
            pragma_statement_refusal(hooks, purpose, &pragma_name.to_ascii_lowercase(), pragma_value)
        }
        Transaction { operation } if is_loading => {
            hooks.is_begun.store(operation == TransactionOperation::Begin, Relaxed);
            hooks.passes_over.store(true, Relaxed);
            None
        }
        Transaction { .. } | Savepoint { .. } => Some(
            "BEGIN, COMMIT, ROLLBACK and SAVEPOINT: not available; send the statements in one request with `transaction`"
                .to_string(),
        ),
        Attach { .. } | Detach { .. } => Some("ATTACH and DETACH: not available".to_string()),
        Analyze { .. } => {
            Some("ANALYZE: not available, its statistics could make nodes choose different plans".to_string())
        }
        CreateTempIndex { .. }
        | CreateTempTable { .. }
        | CreateTempTrigger { .. }
        | CreateTempView { .. }
        | DropTempIndex { .. }
        | DropTempTable { .. }
        | DropTempTrigger { .. }
        | DropTempView { .. } => Some("temporary tables, views and triggers are not available".to_string()),
        _ => Some("not available".to_string()),
    }
}

/// As [`pragma_refusal`], for a PRAGMA that is a statement of its own or of a full-text table.
fn pragma_statement_refusal(hooks: &HookState, purpose: Purpose, name: &str, value: Option<&str>) -> Option<String> {
    if hooks.is_loading.load(Relaxed) && PRAGMAS_OF_DUMPS.contains(&name) {
        hooks.passes_over.store(true, Relaxed);
        return None;
    }
    if name == "foreign_keys"
        && let Some(value) = value
    {
        hooks.passes_over.store(true, Relaxed);
        return foreign_keys::refusal(hooks, purpose, value);
    }
    // Full-text tables use it internally; a statement that does so itself is recognized by its text and refused.
    let is_asked_within = name == "data_version" && value.is_none();
    pragma_refusal(hooks, purpose, name, value).filter(|_| !is_asked_within)
}

fn function_refusal(hooks: &HookState, purpose: Purpose, name: &str) -> Option<String> {
    if FUNCTIONS_OF_THE_BUILD.contains(&name) && purpose == Purpose::Write {
        return Some(format!("function {name} depends on one node's build: not available where all nodes must agree"));
    }
    if FUNCTIONS_OF_MATCHES.contains(&name) {
        if purpose == Purpose::Write {
            return Some(format!(
                "function {name}: not available in requests that write, as its cost is quadratic in the matches; use \
                    it in a read"
            ));
        }
        hooks.marks_matches.store(true, Relaxed);
        return None;
    }
    // ALTER TABLE uses internal functions, which no statement can name.
    let is_within =
        hooks.is_altering.load(Relaxed) && name.starts_with("sqlite_") && !FUNCTIONS_REFUSED.contains(&name);
    let is_fine = is_within || FUNCTIONS.contains(&name) || FUNCTIONS_OF_THE_BUILD.contains(&name);
    (!is_fine).then(|| format!("function {name}: not available"))
}

fn is_schema(table: &str) -> bool {
    ["sqlite_master", "sqlite_schema"].iter().any(|name| name.eq_ignore_ascii_case(table))
}

fn starts_with(name: &str, start: &str) -> bool {
    name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Refuses the internal table. Another object with a reserved name, created by a version that did not refuse such
/// names, can be read, renamed and dropped.
fn own_table_refusal(name: &str) -> Option<String> {
    name.eq_ignore_ascii_case(own_table::TABLE).then(|| format!("table {} is reserved", own_table::TABLE))
}

/// Refuses an object to be created under a reserved name.
fn creation_refusal(name: &str) -> Option<String> {
    is_reserved(name).then(reserved)
}

/// Whether a name is reserved for our own tables.
pub fn is_reserved(name: &str) -> bool {
    starts_with(name, RESERVED)
}

/// The reason for refusing a reserved name.
pub fn reserved() -> String {
    format!("names that begin with {RESERVED} are reserved")
}

fn write_refusal(hooks: &HookState, table: &str) -> Option<String> {
    if starts_with(table, "sqlite_stat") {
        return Some("statistics cannot be written: they could make nodes choose different plans".to_string());
    }
    // ALTER TABLE updates that schema too, although it is empty.
    if starts_with(table, "sqlite_temp") && !hooks.is_altering.load(Relaxed) {
        return Some("temporary tables, views and triggers are not available".to_string());
    }
    own_table_refusal(table)
}

/// Records that a statement writes the table of `AUTOINCREMENT`: what it wrote is checked afterwards.
fn sequence_refusal(hooks: &HookState, table: &str) -> Option<String> {
    if table.eq_ignore_ascii_case("sqlite_sequence") {
        hooks.has_set_sequence.store(true, Relaxed);
    }
    None
}

fn pragma_refusal(hooks: &HookState, purpose: Purpose, name: &str, value: Option<&str>) -> Option<String> {
    if name == "quick_check" && hooks.is_altering.load(Relaxed) && !hooks.charge(STEPS_OF_CHECK) {
        return Some(BUDGET_EXCEEDED.to_string());
    }
    if PRAGMAS_OF_COLUMNS.contains(&name)
        && purpose == Purpose::Write
        && value.is_some_and(|table| hooks.may_be_view(table))
    {
        return Some(format!(
            "PRAGMA {name} of a view: names of columns may differ between nodes: not available where all nodes must agree"
        ));
    }
    let is_fine = PRAGMAS.contains(&name)
        || (name == "quick_check" && hooks.is_altering.load(Relaxed))
        || (PRAGMAS_BARE.contains(&name) && value.is_none())
        || (PRAGMAS_SET.contains(&name) && purpose == Purpose::Write)
        || (purpose == Purpose::Read && (PRAGMAS_OF_THE_PAST.contains(&name) || PRAGMAS_OF_THE_BUILD.contains(&name)))
        || (purpose == Purpose::Read
            && PRAGMAS_OF_PAGES.contains(&name)
            && (value.is_none() || name.ends_with("check")));
    if is_fine {
        return None;
    }
    if PRAGMAS_OF_THE_PAST.contains(&name) {
        return Some(format!(
            "PRAGMA {name} lists in an order that differs between nodes: not available where all nodes must agree"
        ));
    }
    if PRAGMAS_OF_THE_BUILD.contains(&name) {
        return Some(format!("PRAGMA {name} depends on one node's build: not available where all nodes must agree"));
    }
    if PRAGMAS_OF_PAGES.contains(&name) && value.is_none() {
        return Some(format!("PRAGMA {name} depends on this node's file: not available where all nodes must agree"));
    }
    Some(match value {
        Some(value) if !value.is_empty() => format!("PRAGMA {name} = {value}: not available"),
        _ => format!("PRAGMA {name}: not available"),
    })
}
