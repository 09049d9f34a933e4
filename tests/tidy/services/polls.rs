//! Polls: everybody has one vote in each, and may change it until the poll closes.
//!
//! Invariants: P1 a voter counts once in a poll. P2 a closed poll never changes again.
//! Not here: who may vote.

use super::{Replicated, Reply, Service};
use crate::types::Stamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// Changes a poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Opens a poll for so many milliseconds.
    Open { poll: String, ms: u64 },
    /// Votes, or votes differently.
    Vote { poll: String, voter: String, choice: String },
}

/// Asks for the result of a poll: [`Tally`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Which.
    pub poll: String,
}

/// Votes for each choice.
pub type Tally = BTreeMap<String, u64>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Poll {
    closes_ms: u64,
    is_open: bool,
    votes: BTreeMap<String, String>,
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polls {
    polls: BTreeMap<String, Poll>,
}

impl Polls {
    fn open(&mut self, at: Stamp, poll: String, ms: u64) -> Reply {
        if self.polls.contains_key(&poll) {
            return Reply::Failed(format!("there is a poll {poll} already"));
        }
        // The time of the entry, never a clock: it is the same on every node, and when the log is replayed.
        let closes_ms = at.at_ms.saturating_add(ms);
        self.polls.insert(poll, Poll { closes_ms, is_open: true, votes: BTreeMap::new() });
        Reply::Ok(Vec::new())
    }

    fn vote(&mut self, poll: &str, voter: String, choice: String) -> Reply {
        match self.polls.get_mut(poll) {
            Some(poll) if poll.is_open => {
                poll.votes.insert(voter, choice);
                Reply::Ok(Vec::new())
            }
            // To fail is an answer like any other: the state is as before, and every node gives the same.
            Some(_) => Reply::Failed(format!("poll {poll} is closed")),
            None => Reply::Failed(format!("there is no poll {poll}")),
        }
    }

    fn tally(&self, poll: &str) -> Tally {
        let mut tally = Tally::new();
        for choice in self.polls.get(poll).into_iter().flat_map(|poll| poll.votes.values()) {
            *tally.entry(choice.clone()).or_default() += 1;
        }
        tally
    }
}

impl Replicated for Polls {
    // A number that no service ever had.
    const ID: u8 = 9;
    const NAME: &'static str = "polls";
    type Command = Command;
    type Query = Query;
}

impl Service for Polls {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Command>(command) {
            Ok(Command::Open { poll, ms }) => self.open(at, poll, ms),
            Ok(Command::Vote { poll, voter, choice }) => self.vote(&poll, voter, choice),
            Err(_) => Reply::Failed("not a command of the polls".to_string()),
        }
    }

    fn expire(&mut self, at: Stamp) {
        for poll in self.polls.values_mut().filter(|poll| poll.closes_ms <= at.at_ms) {
            poll.is_open = false;
        }
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.polls.values().filter(|poll| poll.is_open).map(|poll| poll.closes_ms).min()
    }

    fn query(&self, _at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes::<Query>(query) {
            Ok(Query { poll }) => Reply::Ok(postcard::to_stdvec(&self.tally(&poll)).expect("memory takes every byte")),
            Err(_) => Reply::Failed("not a question to the polls".to_string()),
        }
    }

    fn read_cost(&self, query: &[u8], _most: usize) -> usize {
        let poll = postcard::from_bytes::<Query>(query).ok().and_then(|Query { poll }| self.polls.get(&poll));
        poll.map_or(0, |poll| poll.votes.values().map(String::len).sum())
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&postcard::to_stdvec(self).map_err(io::Error::other)?)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        *self = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        Ok(())
    }
}
