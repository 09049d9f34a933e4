//! `/db/settings`: settings of the database that are the same on all nodes, because a command of the log changes them.

use super::statements::read;
use crate::http::outcome::{done, failed, unexpected};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::response::Response;
use crate::http::protocol::{idempotency, params};
use crate::http::request::{ApiResult, Request};
use crate::services::sql::{Answer, Command, Outcome, ReadLevel, Statement, Value};
use crate::types::Index;
use serde::Deserialize;
use serde_json::json;

/// Body of `PUT /db/settings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Whether foreign keys are enforced.
    foreign_keys: bool,
}

/// `GET /db/settings`
pub(crate) fn show(request: &Request) -> ApiResult {
    let (index, values) = first_row(request, "PRAGMA foreign_keys")?;
    let is_on = matches!(values.first(), Some(Value::Integer(1)));
    Ok(Response::json(200, &json!({"foreign_keys": is_on})).at(index))
}

/// `PUT /db/settings`. Foreign keys are switched on only if no row breaks one; a write that is under way at the same
/// time may still do so.
pub(crate) fn change(request: &Request) -> ApiResult {
    let Settings { foreign_keys: are_enforced } = params::object(request.body)?;
    let tag = idempotency::tag(request.head, request.body)?;
    if are_enforced {
        let find = "SELECT \"table\", rowid, parent FROM pragma_foreign_key_check LIMIT 1";
        if let [Value::Text(table), row, Value::Text(parent)] = &first_row(request, find)?.1[..] {
            let row = if let Value::Integer(row) = row { format!("row {row}") } else { "a row".to_string() };
            return Err(ApiError::refused(
                409,
                format!(
                    "{row} of table {table} refers to a row of {parent} that does not exist: remove or correct such rows \
                     first; PRAGMA foreign_key_check lists all"
                ),
            ));
        }
    }
    let command = Command::SetForeignKeys { are_enforced };
    match done(request.server.host.sql_write(&command, tag, request.deadline()))? {
        (index, Answer::Done) => Ok(Response::json(200, &json!({"foreign_keys": are_enforced})).at(index)),
        (_, Answer::Refused(why)) => Err(failed(why)),
        _ => Err(unexpected()),
    }
}

/// The first row of a linearizable read; empty if there is none.
fn first_row(request: &Request, sql: &str) -> Result<(Index, Vec<Value>), ApiError> {
    let (index, outcomes) = read(request, vec![Statement::bare(sql)], ReadLevel::Linearizable)?;
    match outcomes.into_iter().next() {
        Some(Outcome::Rows { values, .. }) => Ok((index, values.into_iter().next().unwrap_or_default())),
        Some(Outcome::Failed(why)) => Err(failed(why)),
        _ => Err(unexpected()),
    }
}
