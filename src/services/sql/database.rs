//! The service: one SQLite database as a replicated state machine.

use super::words::{Answer, Query};
use crate::services::{Reply, Service};
use crate::types::Stamp;
use std::io::{self, Read, Write};

/// The state.
#[derive(Clone, Debug, Default)]
pub struct Database {}

impl Service for Database {
    fn apply(&mut self, _at: Stamp, _command: &[u8]) -> Reply {
        Reply::Failed("there is no database yet".to_string())
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes(query) {
            Ok(Query::Applied) => Reply::Ok(Answer::Applied.encode()),
            _ => Reply::Failed("there is no database yet".to_string()),
        }
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(&mut self, _from: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}
