//! All services of a node behind one interface: routes commands by their first byte and writes one snapshot of all.
//!
//! A log entry carries a [`Batch`]: the leader's log time and the commands that were waiting. Log time never decreases:
//! an entry with an earlier time counts as having the latest time so far.
//! A batch that cannot be decoded fails in the same way on every node and never stops a node.
//! A witness has a registry that keeps the directory and the session table alone: it skips the commands of the other
//! services unread, and its snapshots have another first line, so that no full node takes one for its state.
//! Not here: what a command does (each service), building batches (`node/threads/core/`).

use super::directory::Directory;
use super::sessions::{Sessions, Tag, TagLookup};
use super::snapshot_format::{self, bad};
use super::{Replicated, Reply, Service, chat, jobs, kv, sql};
use crate::types::{Index, Stamp};
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;
use std::io::{self, Read, Write};

/// Defines the registry from one row per service: the field that holds its state, and its type. A new service needs
/// only a row here (docs/services.md).
macro_rules! services {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// The state of all services, and the newest entry applied to it. A clone is cheap, because it shares its data
        /// with the original (copy-on-write): another thread writes a clone as a snapshot while commands are applied.
        #[derive(Clone, Debug, Default)]
        pub struct Registry {
            applied: Stamp,
            pub(crate) sessions: Sessions,
            /// A checkpoint was applied since [`Registry::take_checkpoint`] was last called.
            has_checkpoint: bool,
            /// It keeps no data: commands of all services but the directory are skipped.
            is_witness: bool,
            $($(#[$doc])* pub(crate) $field: $type,)*
        }

        /// Number and name of every part of the state: the services in snapshot order, then the session table.
        pub const PARTS: &[(u8, &str)] = &[$((<$type>::ID, <$type>::NAME),)* (SESSIONS, "sessions")];

        impl Registry {
            $($(#[$doc])* pub fn $field(&self) -> &$type {
                &self.$field
            })*

            /// Returns every service with its number, in snapshot order.
            pub(crate) fn services(&self) -> impl Iterator<Item = (u8, &dyn Service)> {
                [$((<$type>::ID, &self.$field as &dyn Service),)*].into_iter()
            }

            fn services_mut(&mut self) -> impl Iterator<Item = (u8, &mut dyn Service)> {
                [$((<$type>::ID, &mut self.$field as &mut dyn Service),)*].into_iter()
            }

            fn service(&self, number: u8) -> Option<&dyn Service> {
                match number {
                    $(<$type>::ID => Some(&self.$field),)*
                    _ => None,
                }
            }

            fn copy_of_service(&self, number: u8) -> Option<Box<dyn Service>> {
                match number {
                    $(<$type>::ID => Some(Box::new(self.$field.clone())),)*
                    _ => None,
                }
            }

            fn service_mut(&mut self, number: u8) -> Option<&mut dyn Service> {
                match number {
                    $(<$type>::ID => Some(&mut self.$field),)*
                    _ => None,
                }
            }

            /// Returns an empty state into which a snapshot is read.
            fn successor(&self, applied: Stamp) -> Registry {
                Registry {
                    applied,
                    sessions: Sessions::default(),
                    has_checkpoint: false,
                    is_witness: self.is_witness,
                    $($field: self.$field.successor(),)*
                }
            }

            fn take_over(&mut self, before: &mut Registry) -> io::Result<()> {
                let index = self.applied.index;
                $(self.$field.take_over(&mut before.$field, index)?;)*
                Ok(())
            }
        }
    };
}

services! {
    /// Identity and addresses of every node.
    directory: Directory,
    /// Keys, values and locks.
    kv: kv::Store,
    /// Users' programs, which the workers run.
    jobs: jobs::JobTable,
    /// The SQL database.
    sql: sql::Database,
    /// Accounts, rooms and messages.
    chat: chat::Chat,
}

/// Number of the session table in a snapshot. No service uses it.
pub const SESSIONS: u8 = 255;
/// Routing byte of the checkpoint command, which is for no service: all nodes digest their state at the index of its
/// entry (`digests.rs`).
const CHECKPOINT: u8 = 254;
/// First bytes of a combined snapshot; the last digit is the version of the format.
const SNAPSHOT_MAGIC: &[u8; 8] = b"phxsnap7";
/// The previous version, which can still be read. Its database has another name for the internal table, which is
/// renamed when the database is opened.
const SNAPSHOT_MAGIC_BEFORE: &[u8; 8] = b"phxsnap6";

/// First bytes of a witness's snapshot, which has the session table without replies, and the directory.
const WITNESS_SNAPSHOT_MAGIC: &[u8; 8] = b"phxwitn1";

/// Payload of one log entry.
#[derive(Debug, Serialize, Deserialize)]
struct Batch<'a> {
    /// The leader's log time in milliseconds since 1970.
    at_ms: u64,
    /// Commands in order, each with its tag for exactly-once execution. A command begins with its routing byte.
    #[serde(borrow)]
    commands: Vec<(Tag, &'a Bytes)>,
}

/// Encodes the payload of a log entry: the leader's log time in milliseconds since 1970, and commands in order, each
/// with its tag for exactly-once execution and beginning with its routing byte.
pub fn encode_batch<'a>(at_ms: u64, commands: impl IntoIterator<Item = (Tag, &'a [u8])>) -> Vec<u8> {
    let commands = commands.into_iter().map(|(tag, command)| (tag, Bytes::new(command)));
    let batch = Batch { at_ms, commands: commands.collect() };
    postcard::to_stdvec(&batch).expect("encoding into memory cannot fail")
}

/// Returns the command that makes every node digest its state at the index of its entry.
pub fn checkpoint_command() -> Vec<u8> {
    vec![CHECKPOINT]
}

impl Registry {
    /// Returns index and log time of the newest applied entry.
    pub fn applied(&self) -> Stamp {
        self.applied
    }

    /// Returns the empty state of a witness.
    pub fn of_witness() -> Registry {
        Registry { is_witness: true, ..Registry::default() }
    }

    /// Returns the part of this state that a witness keeps, to be sent to one.
    pub fn for_witness(&self) -> Registry {
        let (sessions, directory) = (self.sessions.without_replies(), self.directory.clone());
        Registry { applied: self.applied, sessions, directory, ..Registry::of_witness() }
    }

    /// Starts without a snapshot: a service whose files cannot continue from the first entry starts with an empty
    /// state.
    ///
    /// # Errors
    /// Returns the error of a service that cannot change its files.
    pub fn reset_services(&mut self) -> io::Result<()> {
        let mut successor = self.successor(Stamp::default());
        successor.take_over(self)?;
        *self = successor;
        Ok(())
    }

    /// Returns the events of loading or rebuilding the state that operators should know, each once.
    pub fn take_news(&mut self) -> Vec<String> {
        self.services_mut().filter_map(|(_, service)| service.take_news()).collect()
    }

    /// Tells the services that a snapshot of this copy is durable.
    pub fn saved(&self) {
        self.services().for_each(|(_, service)| service.saved());
    }

    /// Returns the log time at which something expires next. If no entry is applied at that time, the leader proposes a
    /// batch without commands, so that readers do not see expired data.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.services().filter_map(|(_, service)| service.next_expiry_ms()).min()
    }

    /// Advances the applied index past an entry without commands (a no-op, a membership change).
    pub fn skip(&mut self, index: Index) {
        self.advance(index, 0);
    }

    /// Runs the commands of one entry. Returns for each command its reply and the index at which it took effect, which
    /// is an earlier one if the command was repeated.
    pub fn apply(&mut self, index: Index, payload: &[u8]) -> Vec<(Index, Reply)> {
        let Ok(batch) = postcard::from_bytes::<Batch>(payload) else {
            self.advance(index, 0);
            return vec![(index, Reply::Failed("not a batch of commands".to_string()))];
        };
        self.advance(index, batch.at_ms);
        let at = self.applied;
        self.kept_mut().for_each(|service| service.expire(at));
        let replies = batch.commands.iter().map(|(tag, command)| self.apply_once(at, tag, command)).collect();
        self.kept_mut().for_each(|service| service.finish(at));
        // Last, so that a repeated command is still recognized if this entry's time makes its origin expire.
        self.sessions.expire(at);
        replies
    }

    /// Answers a query from the present state.
    pub fn query(&self, query: &[u8]) -> Reply {
        let service = query.split_first().and_then(|(number, query)| Some((self.service(*number)?, query)));
        match service {
            Some((service, query)) => service.query(self.applied, query),
            None => Reply::Failed("no such service".to_string()),
        }
    }

    /// Returns about how many bytes are copied or examined to answer a query; see [`Service::read_cost`].
    pub fn read_cost(&self, query: &[u8], most: usize) -> usize {
        let service = query.split_first().and_then(|(number, query)| Some((self.service(*number)?, query)));
        service.map_or(0, |(service, query)| service.read_cost(query, most))
    }

    /// Returns a cheap copy of the service that a query is for, so that another thread can answer the query. `None` if
    /// there is no such service.
    pub fn copy_for(&self, query: &[u8]) -> Option<Box<dyn Service>> {
        self.copy_of_service(*query.first()?)
    }

    /// Writes a snapshot of all services and the session table.
    ///
    /// # Errors
    /// Returns the error of `out` or of a service's files.
    pub fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.is_witness { WITNESS_SNAPSHOT_MAGIC } else { SNAPSHOT_MAGIC })?;
        for number in [self.applied.index.0, self.applied.at_ms] {
            out.write_all(&number.to_le_bytes())?;
        }
        snapshot_format::write(out, SESSIONS, |out| self.sessions.snapshot(out))?;
        for (number, service) in self.services().filter(|(number, _)| self.keeps(*number)) {
            snapshot_format::write(out, number, |out| service.snapshot(out))?;
        }
        snapshot_format::end(out)
    }

    /// Replaces the state of all services by a snapshot. A witness takes what it keeps from the snapshot of a full node.
    ///
    /// # Errors
    /// Returns the error of `from` or of a service's files, or an error of kind `InvalidData`; the state is then
    /// unchanged.
    pub fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut head = [0; 24];
        from.read_exact(&mut head)?;
        let (magic, numbers) = head.split_at(8);
        if magic == WITNESS_SNAPSHOT_MAGIC && !self.is_witness {
            return Err(bad("a snapshot of a witness, which has no data"));
        }
        if ![SNAPSHOT_MAGIC, SNAPSHOT_MAGIC_BEFORE, WITNESS_SNAPSHOT_MAGIC].iter().any(|known| magic == *known) {
            return Err(bad("not a snapshot of this version"));
        }
        let (index, at_ms) = numbers.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of sixteen bytes"));
        let applied = Stamp { index: Index(number(index)), at_ms: number(at_ms) };
        let mut restored = self.successor(applied);
        snapshot_format::read(from, |number, part| match restored.service_mut(number) {
            Some(_) if self.is_witness && number != Directory::ID => io::copy(part, &mut io::sink()).map(drop),
            Some(service) => service.restore(part),
            None if number == SESSIONS => restored.sessions.restore(part),
            None => Err(bad("snapshot of a service that this version does not have")),
        })?;
        if self.is_witness {
            restored.sessions = restored.sessions.without_replies();
        }
        restored.kept_mut().for_each(|service| service.resume(applied));
        restored.take_over(self)?;
        *self = restored;
        Ok(())
    }

    /// Returns whether a checkpoint was applied since the last call.
    pub fn take_checkpoint(&mut self) -> bool {
        std::mem::take(&mut self.has_checkpoint)
    }

    /// Simulates a fault of a disk, of memory or of this program: changes the part with this number without a command.
    /// For the simulator, and for nodes that were started for a lab. An unknown number changes nothing.
    pub fn alter(&mut self, part: u8) {
        let at = self.applied;
        match self.service_mut(part) {
            Some(service) => service.alter(at),
            None if part == SESSIONS => self.sessions.alter(at),
            None => {}
        }
    }

    /// Whether the state has the service of this number.
    fn keeps(&self, number: u8) -> bool {
        !self.is_witness || number == Directory::ID
    }

    fn kept_mut(&mut self) -> impl Iterator<Item = &mut dyn Service> {
        let is_witness = self.is_witness;
        self.services_mut()
            .filter(move |(number, _)| !is_witness || *number == Directory::ID)
            .map(|(_, service)| service)
    }

    fn advance(&mut self, index: Index, at_ms: u64) {
        assert!(index == self.applied.index.next(), "applied {} after {}", index, self.applied.index);
        self.applied = Stamp { index, at_ms: at_ms.max(self.applied.at_ms) };
    }

    fn apply_once(&mut self, at: Stamp, tag: &Tag, command: &[u8]) -> (Index, Reply) {
        match self.sessions.look_up(tag) {
            TagLookup::Before(index, reply) => (index, reply),
            TagLookup::Forgotten => (at.index, Reply::Failed("this request has expired".to_string())),
            TagLookup::New => {
                let mut reply = self.apply_one(at, command);
                if self.is_witness {
                    reply = Reply::Ok(Vec::new());
                }
                self.sessions.record(at, tag, &reply);
                (at.index, reply)
            }
        }
    }

    fn apply_one(&mut self, at: Stamp, command: &[u8]) -> Reply {
        if command == [CHECKPOINT] {
            self.has_checkpoint = true;
            return Reply::Ok(Vec::new());
        }
        if command.first().is_some_and(|number| !self.keeps(*number)) {
            // Nobody waits for the reply: a witness takes no commands of clients.
            return Reply::Ok(Vec::new());
        }
        let service = command.split_first().and_then(|(number, command)| Some((self.service_mut(*number)?, command)));
        match service {
            Some((service, command)) => service.apply(at, command),
            None => Reply::Failed("no such service".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at_ms: u64, commands: &[(Tag, Vec<u8>)]) -> Vec<u8> {
        encode_batch(at_ms, commands.iter().map(|(tag, command)| (*tag, command.as_slice())))
    }

    fn count(number: u64, id: &str) -> (Tag, Vec<u8>) {
        let op = kv::Op::IncrBy { key: id.as_bytes().to_vec().into(), by: 1 };
        let command = kv::Batch { watched: Vec::new(), ops: vec![op] };
        (Tag { origin: uuid::Uuid::from_u128(1), number, done_below: 1 }, kv::Store::encode_command(&command))
    }

    #[test]
    fn a_restored_registry_equals_the_one_that_was_saved() {
        let mut one = Registry::default();
        one.skip(Index(1));
        let first = one.apply(Index(2), &batch(50, &[count(1, "a"), count(2, "b")]));
        let mut bytes = Vec::new();
        one.snapshot(&mut bytes).unwrap();
        let mut two = Registry::default();
        two.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(two.state_digest(&[], &mut || {}), one.state_digest(&[], &mut || {}));
        assert_eq!(two.applied(), Stamp { index: Index(2), at_ms: 50 });
        let again = batch(60, &[count(1, "a")]);
        assert_eq!(two.apply(Index(3), &again), first[..1], "sessions are in the snapshot");
        for end in 0..8 {
            assert!(Registry::default().restore(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Registry::default().restore(&mut &bytes[..bytes.len() - 1]).is_err());
    }

    fn saved(registry: &Registry) -> Vec<u8> {
        let mut bytes = Vec::new();
        registry.snapshot(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_witness_keeps_the_directory_and_which_commands_ran() {
        use crate::types::{Addresses, Identity, NodeId, NodeKind};
        let who = Identity { id: NodeId(3), uuid: uuid::Uuid::from_u128(3) };
        let register = super::super::directory::Command::register(who, Addresses::default(), NodeKind::Witness);
        let tag = Tag { origin: uuid::Uuid::from_u128(9), number: 1, done_below: 1 };
        let entry = batch(50, &[count(1, "secret-key"), (tag, Directory::encode_command(&register)), count(2, "b")]);
        let (mut full, mut witness) = (Registry::default(), Registry::of_witness());
        full.apply(Index(1), &entry);
        witness.apply(Index(1), &entry);
        assert_eq!(witness.directory(), full.directory());
        assert_eq!(saved(&witness), saved(&full.for_witness()), "what it applied is what a leader would send to it");
        assert!(!saved(&witness).windows(10).any(|it| it == b"secret-key"));
        let digest = Registry::default().kv().digest(&mut || {}).unwrap();
        assert_eq!(witness.kv().digest(&mut || {}).unwrap(), digest, "no key");
        let (again, later) = (batch(60, &[count(1, "a")]), batch(70, &[count(3, "a")]));
        assert_eq!(witness.apply(Index(2), &again)[0].0, Index(1), "it is known that this command ran");
        assert_eq!(witness.apply(Index(3), &later)[0].0, Index(3));
        let mut second = Registry::of_witness();
        second.restore(&mut saved(&witness).as_slice()).unwrap();
        assert_eq!(saved(&second), saved(&witness));
    }

    #[test]
    fn no_full_node_takes_the_snapshot_of_a_witness_for_its_state() {
        let mut full = Registry::default();
        full.apply(Index(1), &batch(50, &[count(1, "a")]));
        let before = saved(&full);
        let refused = full.restore(&mut saved(&full.for_witness()).as_slice()).unwrap_err();
        assert_eq!(refused.to_string(), "a snapshot of a witness, which has no data");
        assert_eq!(saved(&full), before);
        let mut witness = Registry::of_witness();
        witness.restore(&mut before.as_slice()).unwrap();
        assert_eq!(saved(&witness), saved(&full.for_witness()), "and it drops the data that it does not keep");
    }

    #[test]
    fn a_late_duplicate_undoes_no_later_write() {
        let mut registry = Registry::default();
        let write = |tag: u64, text: &str| {
            let (key, value) = (b"k".to_vec().into(), text.as_bytes().to_vec().into());
            let op = kv::Op::Put { key, value, condition: kv::Condition::Always, expiry: kv::Expiry::Never };
            let command = kv::Store::encode_command(&kv::Batch { watched: Vec::new(), ops: vec![op] });
            let tag = Tag { origin: uuid::Uuid::from_u128(u128::from(tag)), number: 1, done_below: 1 };
            batch(0, &[(tag, command)])
        };
        registry.apply(Index(1), &write(1, "x"));
        registry.apply(Index(2), &write(2, "y"));
        let digest = registry.kv().digest(&mut || {}).unwrap();
        assert_eq!(registry.apply(Index(3), &write(1, "x"))[0].0, Index(1));
        assert_eq!(registry.kv().digest(&mut || {}).unwrap(), digest);
    }

    #[test]
    fn a_copy_is_known_however_far_the_next_leaders_clock_is_ahead() {
        let mut registry = Registry::default();
        let at_ms = 1_700_000_000_000;
        let count = |at_ms: u64| {
            let op = kv::Op::IncrBy { key: b"n".to_vec().into(), by: 1 };
            let command = kv::Store::encode_command(&kv::Batch { watched: Vec::new(), ops: vec![op] });
            let tag = Tag { origin: uuid::Uuid::from_u128(7), number: 1, done_below: 1 };
            encode_batch(at_ms, [(tag, command.as_slice())])
        };
        let first = registry.apply(Index(1), &count(at_ms));
        for index in 2..50 {
            // A month later each time, as with leaders whose clocks differ, or after a long stop of the cluster.
            let again = registry.apply(Index(index), &count(at_ms + index * 30 * 86_400_000));
            assert_eq!(again, first, "the copy at {index} ran again");
        }
    }

    #[test]
    fn log_time_never_goes_back_and_garbage_is_a_failed_reply() {
        let mut registry = Registry::default();
        registry.apply(Index(1), &batch(90, &[count(1, "a")]));
        let tag = count(2, "").0;
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
