//! The record of a run as its clients saw it: one operation per line of JSON.
//!
//! ```text
//! {"client":1,"key":"a","call_us":10,"return_us":42,"write":"v1"}
//! {"client":2,"key":"a","call_us":50,"return_us":61,"read":"v1"}
//! {"client":2,"key":"b","call_us":70,"return_us":71,"read":null}
//! {"client":1,"key":"a","call_us":80,"return_us":null,"write":"v2"}
//! {"client":1,"key":"a","call_us":85,"return_us":88,"swap":{"from":"v2","to":"v3","done":true}}
//! {"client":1,"key":"n","call_us":90,"return_us":95,"add":{"by":1,"sum":7}}
//! ```
//! `return_us: null` means that the outcome is unknown: the write may have happened at any time after its call, or
//! never. An operation that was certainly refused is left out: a read that sees its value is then a violation, which
//! is right. A read whose outcome is unknown says nothing and is left out as well.
//! Times are microseconds of one clock; clients of several machines need a common one.
//! Not here: the judgement (`linear.rs`).

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};

/// One operation of one client on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who: a client has at most one operation in flight.
    pub client: u64,
    /// The register.
    pub key: String,
    /// When the client sent it, in microseconds.
    pub call_us: u64,
    /// When the client had its answer; `None`: it never had one, or was told `Unknown`.
    pub return_us: Option<u64>,
    /// What it did, or saw.
    #[serde(flatten)]
    pub action: Action,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Set the register.
    Write(String),
    /// Saw this value; `None`: nothing there.
    Read(Option<String>),
    /// Set the register to `to` if it held `from` (`None`: nothing). `done`: whether it did; `None`: nobody knows.
    Swap { from: Option<String>, to: String, done: Option<bool> },
    /// Added to the number that the register held, 0 if there was nothing. `sum`: what came out; `None`: nobody knows.
    Add { by: i64, sum: Option<i64> },
}

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file itself.
    #[error("cannot read the history: {0}")]
    Io(#[from] io::Error),
    /// One of its lines.
    #[error("line {line} of the history is not an operation: {why}")]
    Line { line: usize, why: serde_json::Error },
    /// An operation that ends before it begins.
    #[error("line {line} of the history returns before it is called")]
    Backwards { line: usize },
}

/// Reads a history, one operation per line; empty lines are skipped.
pub fn read_jsonl(from: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    let mut operations = Vec::new();
    for (at, line) in from.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let operation: Operation =
            serde_json::from_str(&line).map_err(|why| HistoryError::Line { line: at + 1, why })?;
        if operation.return_us.is_some_and(|back| back < operation.call_us) {
            return Err(HistoryError::Backwards { line: at + 1 });
        }
        operations.push(operation);
    }
    Ok(operations)
}

/// Writes a history, one operation per line.
pub fn write_jsonl(mut to: impl Write, operations: &[Operation]) -> io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut to, operation)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_survives_the_trip() {
        let text = concat!(
            r#"{"client":1,"key":"a","call_us":10,"return_us":42,"write":"v1"}"#,
            "\n\n",
            r#"{"client":2,"key":"b","call_us":70,"return_us":71,"read":null}"#,
            "\n",
            r#"{"client":1,"key":"a","call_us":80,"return_us":null,"write":"v2"}"#,
            "\n",
            r#"{"client":1,"key":"a","call_us":85,"return_us":88,"swap":{"from":null,"to":"v3","done":true}}"#,
            "\n",
            r#"{"client":1,"key":"n","call_us":90,"return_us":null,"add":{"by":1,"sum":null}}"#,
            "\n"
        );
        let operations = read_jsonl(text.as_bytes()).unwrap();
        assert_eq!(operations.len(), 5);
        assert_eq!(operations[1].action, Action::Read(None));
        assert_eq!(operations[2].return_us, None);
        let mut out = Vec::new();
        write_jsonl(&mut out, &operations).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), text.replace("\n\n", "\n"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read_jsonl("{}\n".as_bytes()).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
        let back = r#"{"client":1,"key":"a","call_us":10,"return_us":4,"write":"v"}"#;
        assert!(matches!(read_jsonl(back.as_bytes()), Err(HistoryError::Backwards { line: 1 })));
    }
}
