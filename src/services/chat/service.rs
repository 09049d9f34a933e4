//! The chat as a replicated service: decodes commands and queries, and ends expired log-ins.
//!
//! Not here: what a command changes (`state.rs`), what a query answers (`queries.rs`).

use super::commands::{Command, Query};
use super::snapshot;
use super::state::Chat;
use crate::services::{Replicated, Reply, Service};
use crate::types::Stamp;
use std::io::{self, Read, Write};

impl Replicated for Chat {
    const ID: u8 = 5;
    const NAME: &'static str = "chat";
    type Command = Command;
    type Query = Query;
}

impl Service for Chat {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Command>(command) {
            Ok(command) => Reply::Ok(self.run(at, command).encode()),
            Err(_) => Reply::Failed("not a command of the chat".to_string()),
        }
    }

    fn expire(&mut self, at: Stamp) {
        self.revision += u64::from(self.accounts.expire(at));
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.accounts.next_expiry_ms()
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes(query) {
            Ok(query) => {
                let view = self.answer(query);
                Reply::Ok(postcard::to_stdvec(&view).expect("encoding into memory cannot fail"))
            }
            Err(_) => Reply::Failed("not a question to the chat".to_string()),
        }
    }

    fn read_cost(&self, query: &[u8], most: usize) -> usize {
        postcard::from_bytes(query).map_or(0, |query| self.cost(&query, most))
    }

    fn alter(&mut self, at: Stamp) {
        self.run(at, Command::TryLogIn { key: "altered".to_string() });
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(self, out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        *self = snapshot::read(from)?;
        Ok(())
    }
}
