//! The jobs as a replicated service: decodes commands and queries, and forgets expired jobs.
//!
//! Not here: what a command changes (`state.rs`), what a query answers (`queries.rs`).

use super::commands::{Command, Query};
use super::state::JobTable;
use super::{queries, snapshot};
use crate::services::{Replicated, Reply, Service};
use crate::types::{Identity, NodeId, Stamp};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use uuid::Uuid;

impl Replicated for JobTable {
    const ID: u8 = 3;
    const NAME: &'static str = "jobs";
    type Command = Command;
    type Query = Query;
}

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

    fn read_cost(&self, query: &[u8], most: usize) -> usize {
        postcard::from_bytes(query).map_or(0, |query| queries::cost(self, query, most))
    }

    fn alter(&mut self, at: Stamp) {
        let worker = Identity { id: NodeId(NodeId::MAX), uuid: Uuid::from_u128(at.index.0.into()) };
        self.run(at, Command::Join { worker, slots: 1, runtimes: BTreeSet::new(), trouble: None });
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(self, out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        *self = snapshot::read(from)?;
        Ok(())
    }
}
