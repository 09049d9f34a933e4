//! The jobs as a replicated service: decodes commands and queries, and forgets ended jobs whose time is up.
//!
//! Not here: what a command changes (`state.rs`), what a query answers (`queries.rs`).

use super::commands::{Command, Query};
use super::state::JobTable;
use super::{queries, snapshot};
use crate::services::{Reply, Service};
use crate::types::Stamp;
use std::io::{self, Read, Write};

impl Service for JobTable {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Command>(command) {
            Ok(command) => Reply::Ok(self.run(at, command).encode()),
            Err(_) => Reply::Failed("not a command of the jobs".to_string()),
        }
    }

    fn expire(&mut self, at: Stamp) {
        while self.next_expiry_ms().is_some_and(|until_ms| until_ms <= at.at_ms) {
            self.forget_first();
        }
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.next_forgotten_ms()
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes::<Query>(query) {
            Ok(query) => Reply::Ok(queries::answer(self, query)),
            Err(_) => Reply::Failed("not a question to the jobs".to_string()),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(self, out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        *self = snapshot::read(from)?;
        Ok(())
    }
}
