//! All services of a node behind one door: routes commands by their first byte, writes one snapshot for all.
//!
//! A log entry carries a [`Batch`]: the leader's time and the commands that waited when it was made. Log time never
//! goes back: a batch of a leader whose clock is behind counts as the newest time seen so far.
//! A batch that cannot be decoded fails in the same way on every node; it never stops one of them.
//! Not here: what a command does (each service), who makes batches (`node/core.rs`).

use super::directory::{self, Directory};
use super::sessions::{Seen, Sessions, Tag};
use super::{Reply, Service, kv};
use crate::types::{Index, Stamp};
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;
use std::io::{self, Read, Write};

/// First byte of the directory's commands and queries.
pub const DIRECTORY: u8 = 1;
/// First byte of the key-value store's commands and queries.
pub const KV: u8 = 2;
/// First word of a combined snapshot; the last digit is the format's version.
const SNAPSHOT_MAGIC: &[u8; 8] = b"phxsnap1";

/// Payload of one log entry.
#[derive(Debug, Serialize, Deserialize)]
struct Batch<'a> {
    /// Leader time in milliseconds since 1970.
    at_ms: u64,
    /// Commands in order, each with the tag that makes it take effect once, and its routing byte.
    #[serde(borrow)]
    commands: Vec<(Tag, &'a Bytes)>,
}

/// The bytes that go into the log: leader time in milliseconds since 1970, and commands in order, each with the tag that
/// makes it take effect once, and its routing byte.
pub fn encode_batch<'a>(at_ms: u64, commands: impl IntoIterator<Item = (Tag, &'a [u8])>) -> Vec<u8> {
    let commands = commands.into_iter().map(|(tag, command)| (tag, Bytes::new(command)));
    let batch = Batch { at_ms, commands: commands.collect() };
    postcard::to_stdvec(&batch).expect("encoding into memory cannot fail")
}

/// A directory command with its routing byte.
pub fn directory_command(command: &directory::Command) -> Vec<u8> {
    route(DIRECTORY, command.encode())
}

/// A directory query with its routing byte.
pub fn directory_query(query: &directory::Query) -> Vec<u8> {
    route(DIRECTORY, query.encode())
}

/// A run of the key-value store with its routing byte: a command if it needs the log, else a query.
pub fn kv_run(run: &kv::Run) -> Vec<u8> {
    postcard::to_extend(run, vec![KV]).expect("encoding into memory cannot fail")
}

fn route(service: u8, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.insert(0, service);
    bytes
}

/// Every service, and how far they have come.
#[derive(Default)]
pub struct Registry {
    applied: Stamp,
    sessions: Sessions,
    directory: Directory,
}

impl Registry {
    /// Index and log time of the newest entry applied.
    pub fn applied(&self) -> Stamp {
        self.applied
    }

    /// The directory, for those who need its node table.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Moves past an entry without commands (a no-op, a membership).
    pub fn skip(&mut self, index: Index) {
        self.advance(index, 0);
    }

    /// Runs the commands of one entry; for each, where it took effect (earlier, if this is a second copy) and its reply.
    pub fn apply(&mut self, index: Index, payload: &[u8]) -> Vec<(Index, Reply)> {
        let Ok(batch) = postcard::from_bytes::<Batch>(payload) else {
            self.advance(index, 0);
            return vec![(index, Reply::Failed("not a batch of commands".to_string()))];
        };
        self.advance(index, batch.at_ms);
        let at = self.applied;
        self.sessions.expire(at);
        batch.commands.iter().map(|(tag, command)| self.apply_once(at, tag, command)).collect()
    }

    /// Answers a query from the state as it stands.
    pub fn query(&self, query: &[u8]) -> Reply {
        match query.split_first() {
            Some((&DIRECTORY, query)) => self.directory.query(self.applied, query),
            _ => Reply::Failed("no such service".to_string()),
        }
    }

    /// Writes the state of all services.
    pub fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(SNAPSHOT_MAGIC)?;
        out.write_all(&postcard::to_stdvec(&(&self.applied, &self.sessions)).map_err(io::Error::other)?)?;
        // Each service's part is framed, so that one may be added without touching the others.
        let mut part = Vec::new();
        self.directory.snapshot(&mut part)?;
        out.write_all(&[DIRECTORY])?;
        out.write_all(&(part.len() as u64).to_le_bytes())?;
        out.write_all(&part)
    }

    /// Replaces the state of all services.
    pub fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let rest = bytes.strip_prefix(SNAPSHOT_MAGIC).ok_or_else(|| bad("not a snapshot of this version"))?;
        let ((applied, sessions), mut rest) =
            postcard::take_from_bytes::<(Stamp, Sessions)>(rest).map_err(io::Error::other)?;
        let mut restored = Registry { applied, sessions, ..Registry::default() };
        while let Some((&service, after)) = rest.split_first() {
            let (len, after) = after.split_at_checked(8).ok_or_else(|| bad("snapshot ends in a header"))?;
            let len = u64::from_le_bytes(len.try_into().expect("eight bytes")) as usize;
            let (mut part, after) = after.split_at_checked(len).ok_or_else(|| bad("snapshot ends in a part"))?;
            match service {
                DIRECTORY => restored.directory.restore(&mut part)?,
                _ => return Err(bad("snapshot of a service that this version does not have")),
            }
            rest = after;
        }
        *self = restored;
        Ok(())
    }

    /// A fingerprint of the whole state: equal on all nodes that have applied the same index.
    pub fn digest(&self) -> u32 {
        let mut bytes = Vec::new();
        self.snapshot(&mut bytes).expect("writing into memory cannot fail");
        crc32fast::hash(&bytes)
    }

    fn advance(&mut self, index: Index, at_ms: u64) {
        assert!(index == self.applied.index.next(), "applied {} after {}", index, self.applied.index);
        self.applied = Stamp { index, at_ms: at_ms.max(self.applied.at_ms) };
    }

    fn apply_once(&mut self, at: Stamp, tag: &Tag, command: &[u8]) -> (Index, Reply) {
        match self.sessions.look(at, tag) {
            Seen::Before(index, reply) => (index, reply),
            Seen::Forgotten => (at.index, Reply::Failed("this request was given up long ago".to_string())),
            Seen::New => {
                let reply = self.apply_one(at, command);
                self.sessions.record(at, tag, &reply);
                (at.index, reply)
            }
        }
    }

    fn apply_one(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match command.split_first() {
            Some((&DIRECTORY, command)) => self.directory.apply(at, command),
            _ => Reply::Failed("no such service".to_string()),
        }
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at_ms: u64, commands: &[(Tag, Vec<u8>)]) -> Vec<u8> {
        encode_batch(at_ms, commands.iter().map(|(tag, command)| (*tag, command.as_slice())))
    }

    fn note(number: u64, id: &str) -> (Tag, Vec<u8>) {
        let command = directory::Command::Note { id: id.to_string(), text: "t".to_string() };
        (Tag { origin: uuid::Uuid::from_u128(1), number, done_below: 1 }, directory_command(&command))
    }

    #[test]
    fn a_restored_registry_equals_the_one_that_was_saved() {
        let mut one = Registry::default();
        one.skip(Index(1));
        one.apply(Index(2), &batch(50, &[note(1, "a"), note(2, "b")]));
        let mut bytes = Vec::new();
        one.snapshot(&mut bytes).unwrap();
        let mut two = Registry::default();
        two.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(two.digest(), one.digest());
        assert_eq!(two.applied(), Stamp { index: Index(2), at_ms: 50 });
        let again = batch(60, &[note(1, "a")]);
        assert_eq!(
            two.apply(Index(3), &again),
            vec![(Index(2), Reply::Ok(Vec::new()))],
            "sessions are in the snapshot"
        );
        for end in 0..8 {
            assert!(Registry::default().restore(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Registry::default().restore(&mut &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_copy_that_comes_late_undoes_nobody_elses_write() {
        let mut registry = Registry::default();
        let write = |tag: u64, text: &str| {
            let command = directory::Command::Note { id: "n".to_string(), text: text.to_string() };
            let tag = Tag { origin: uuid::Uuid::from_u128(u128::from(tag)), number: 1, done_below: 1 };
            batch(0, &[(tag, directory_command(&command))])
        };
        registry.apply(Index(1), &write(1, "x"));
        registry.apply(Index(2), &write(2, "y"));
        assert_eq!(registry.apply(Index(3), &write(1, "x"))[0].0, Index(1));
        assert_eq!(registry.directory().note("n").unwrap().text, "y");
    }

    #[test]
    fn log_time_never_goes_back_and_garbage_is_a_failed_reply() {
        let mut registry = Registry::default();
        registry.apply(Index(1), &batch(90, &[note(1, "a")]));
        let tag = note(2, "").0;
        registry.apply(Index(2), &batch(10, &[(tag, vec![200])]));
        assert_eq!(registry.applied().at_ms, 90);
        assert!(matches!(registry.apply(Index(3), &[0xff; 3])[..], [(Index(3), Reply::Failed(_))]));
    }

    #[test]
    #[should_panic(expected = "applied 3 after 1")]
    fn a_skipped_index_is_our_bug() {
        let mut registry = Registry::default();
        registry.skip(Index(1));
        registry.skip(Index(3));
    }
}
