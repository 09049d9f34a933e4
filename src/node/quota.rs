//! Quotas: how much the services may hold, and which commands are refused then. The settings of the leader apply.
//!
//! The leader checks a command before it proposes it, so a refused command is in no log, and nodes with different
//! settings have the same state. A command that frees space is never refused.
//!
//! Invariant: Q1 what is used and the upper bounds of what commands that are not applied yet may add are within the
//! quota together, or only one command that may add something is not applied. So a quota is exceeded by what the upper
//! bound of one command has beyond its own bytes: copies of values (`services/kv/commands.rs`, `ENTRY_GROWTH_MAX`), and
//! what one statement writes (`services/sql/budget/growth.rs`).
//! Not here: what a command does (`services/`), limits without a setting (each service's own).

use crate::outcome::{QuotaName, Reason};
use crate::raft::{Entry, Payload};
use crate::services::Replicated;
use crate::services::chat::Chat;
use crate::services::chat::commands::MESSAGE_BYTES;
use crate::services::jobs::JobTable;
use crate::services::kv::Store;
use crate::services::registry::Registry;
use crate::services::sql::Database;
use crate::services::{chat, jobs, kv, sql};
use crate::settings::Settings;
use crate::types::Index;
use std::collections::VecDeque;

/// How much the services hold: what quotas are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys, values and locks.
    pub kv_bytes: u64,
    /// The database.
    pub sql_bytes: u64,
    /// The database has triggers.
    pub has_triggers: bool,
    pub chat_bytes: u64,
    /// Jobs that wait or run.
    pub jobs: u64,
    pub jobs_bytes: u64,
}

impl Sizes {
    /// How much the services hold.
    pub fn of(registry: &Registry, sql_bytes: u64, has_triggers: bool) -> Sizes {
        let (jobs, jobs_bytes) = registry.jobs().open();
        Sizes {
            kv_bytes: registry.kv().bytes() as u64,
            sql_bytes,
            has_triggers,
            chat_bytes: registry.chat().bytes() as u64,
            jobs: jobs as u64,
            jobs_bytes: jobs_bytes as u64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: QuotaName,
    /// Bytes or jobs.
    pub used: u64,
    /// The limit.
    pub most: u64,
}

/// All quotas, with what is used of each.
pub fn all(settings: &Settings, sizes: &Sizes) -> [Quota; 5] {
    let row = |name, used, most| Quota { name, used, most };
    [
        row(QuotaName::Keys, sizes.kv_bytes, settings.quota_kv_mb << 20),
        row(QuotaName::Database, sizes.sql_bytes, settings.quota_db_mb << 20),
        row(QuotaName::Chat, sizes.chat_bytes, settings.quota_chat_mb << 20),
        row(QuotaName::Jobs, sizes.jobs, settings.quota_jobs),
        row(QuotaName::JobsBytes, sizes.jobs_bytes, settings.quota_jobs_mb << 20),
    ]
}

/// A sentence for the status about each quota that is reached, or will be soon.
pub fn reached(settings: &Settings, sizes: &Sizes) -> Vec<String> {
    let sentences = all(settings, sizes).into_iter().filter_map(|Quota { name, used, most }| {
        let (name, what) = (name.setting(), name.what());
        match used {
            used if used >= most => Some(format!("{name} is reached: requests that add to {what} are refused")),
            used if used.saturating_mul(10) >= most.saturating_mul(9) => {
                Some(format!("{name} is nearly reached by {what}"))
            }
            _ => None,
        }
    });
    sentences.collect()
}

/// Upper bounds of what is added to the use of each quota, in the order of [`all`].
pub type Added = [u64; 5];
const KEYS: usize = 0;
const DATABASE: usize = 1;
const CHAT: usize = 2;
const JOBS: usize = 3;
const JOBS_BYTES: usize = 4;

fn plus(one: Added, other: Added) -> Added {
    std::array::from_fn(|at| one[at].saturating_add(other[at]))
}

/// Bytes of the shortest command in an entry, with its tag.
const COMMAND_BYTES_MIN: u64 = 24;
/// Bytes of a job for each byte of the command that submits it: an empty argument has one byte there.
const JOB_BYTES_PER_BYTE: u64 = 25;

/// What entries of the leader's log may add that it has not applied yet.
#[derive(Debug, Default)]
pub struct Unapplied(VecDeque<(Index, Added)>);

impl Unapplied {
    /// A new leader's log after the applied index. Entries before `compacted` may be missing from it.
    pub fn inherited(applied: Index, compacted: Index, entries: &[Entry]) -> Unapplied {
        let missing = (applied < compacted).then_some((compacted, [u64::MAX; 5]));
        let present = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Command(bytes) => Some((entry.index, added_by_any(bytes.len()))),
            Payload::Noop | Payload::Membership(_) => None,
        });
        Unapplied(missing.into_iter().chain(present).collect())
    }

    pub fn push(&mut self, index: Index, added: Added) {
        self.0.push_back((index, added));
    }

    /// What the entries after the applied index may add.
    pub fn after(&mut self, applied: Index) -> Added {
        while self.0.pop_front_if(|(index, _)| *index <= applied).is_some() {}
        self.0.iter().fold([0; 5], |sum, (_, added)| plus(sum, *added))
    }
}

/// What an entry of this length may add, whatever its commands are.
fn added_by_any(bytes: usize) -> Added {
    let keys = kv::Growth::of_length(bytes);
    let (bytes, commands) = (bytes as u64, bytes as u64 / COMMAND_BYTES_MIN);
    let database = bytes.saturating_add(commands.saturating_mul(sql::COMMAND_GROWTH));
    let chat = bytes + commands * MESSAGE_BYTES as u64;
    [keys.contained + keys.copied, database, chat, commands, bytes * JOB_BYTES_PER_BYTE]
}

/// Whether a command may be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaDecision {
    Admitted,
    /// Not before more of the log is applied.
    Postponed,
    Refused(Reason),
}

/// Checks the commands of one entry.
pub struct Check<'a> {
    settings: &'a Settings,
    sizes: &'a Sizes,
    quotas: [Quota; 5],
    unapplied: Added,
    /// What the commands that were admitted may add.
    entry: Added,
    /// Bytes that those of the key-value store may copy; the entry has a limit for them.
    copied: u64,
    /// A command was postponed, and so is every later one that adds to the same quota: otherwise the first might wait
    /// forever.
    is_closed: [bool; 5],
}

impl<'a> Check<'a> {
    pub fn new(settings: &'a Settings, sizes: &'a Sizes, unapplied: Added) -> Check<'a> {
        Check {
            settings,
            sizes,
            quotas: all(settings, sizes),
            unapplied,
            entry: [0; 5],
            copied: 0,
            is_closed: [false; 5],
        }
    }

    /// What the entry may add.
    pub fn added(self) -> Added {
        self.entry
    }

    /// Whether a command, with its routing byte, may be proposed. `written_by`: bytes that the account with this token
    /// has written to the chat.
    pub fn admit(&mut self, command: &[u8], written_by: impl FnOnce(&chat::TokenHash) -> u64) -> QuotaDecision {
        let Some((service, command)) = command.split_first() else { return QuotaDecision::Admitted };
        match *service {
            Store::ID => self.admit_keys(command),
            Database::ID => self.admit_sql(command),
            JobTable::ID => self.admit_job(command),
            Chat::ID => self.admit_chat(command, written_by),
            _ => QuotaDecision::Admitted,
        }
    }

    // Decoding a command takes time, so it is decoded only if it could be one that comes near the quota.

    fn admit_keys(&mut self, command: &[u8]) -> QuotaDecision {
        let mut growth = kv::Growth::of_length(command.len());
        if !self.is_far(KEYS, self.added_keys(growth)) {
            growth = kv::Growth::of(command);
        }
        let admission = self.decide(KEYS, growth.contained, self.added_keys(growth));
        if admission == QuotaDecision::Admitted {
            self.copied += growth.copied;
        }
        admission
    }

    /// What a command adds to the bounds of the entry.
    fn added_keys(&self, growth: kv::Growth) -> u64 {
        let copied = |bytes: u64| bytes.min(kv::commands::ENTRY_GROWTH_MAX as u64);
        growth.contained + copied(self.copied + growth.copied) - copied(self.copied)
    }

    fn admit_sql(&mut self, command: &[u8]) -> QuotaDecision {
        // The command that puts a file in place is short, regardless of the size of the file.
        const PUT_IN_PLACE_BYTES_MAX: usize = 64;
        let bytes = command.len() as u64;
        let added = bytes + sql::COMMAND_GROWTH;
        let is_known = command.len() > PUT_IN_PLACE_BYTES_MAX && self.is_far(DATABASE, added);
        match if is_known { sql::Growth::Adds } else { sql::growth(command) } {
            sql::Growth::Nothing => QuotaDecision::Admitted,
            sql::Growth::Adds => self.decide(DATABASE, bytes, added),
            sql::Growth::Replaces(bytes) if bytes > self.quotas[DATABASE].most => {
                QuotaDecision::Refused(self.quotas[DATABASE].reason())
            }
            sql::Growth::Replaces(bytes) => self.decide(DATABASE, 0, bytes),
            sql::Growth::MayAdd if self.sizes.has_triggers && self.quotas[DATABASE].is_beyond_by_far(bytes) => {
                QuotaDecision::Refused(Reason::TriggersBeyondQuota { most: self.quotas[DATABASE].most })
            }
            sql::Growth::MayAdd => self.decide(DATABASE, 0, added),
        }
    }

    fn admit_job(&mut self, command: &[u8]) -> QuotaDecision {
        let mut bytes = command.len() as u64 * JOB_BYTES_PER_BYTE;
        if !self.is_far(JOBS, 1) || !self.is_far(JOBS_BYTES, bytes) {
            match jobs::commands::submitted_bytes(command) {
                Some(exact) => bytes = exact as u64,
                None => return QuotaDecision::Admitted,
            }
        }
        let before = self.entry;
        let mut admission = self.decide(JOBS, 1, 1);
        if admission == QuotaDecision::Admitted {
            admission = self.decide(JOBS_BYTES, bytes, bytes);
        }
        if admission != QuotaDecision::Admitted {
            self.entry = before;
        }
        admission
    }

    fn admit_chat(&mut self, command: &[u8], written_by: impl FnOnce(&chat::TokenHash) -> u64) -> QuotaDecision {
        let (does_add, writer) = chat::commands::growth(command);
        if !does_add {
            return QuotaDecision::Admitted;
        }
        let bytes = command.len() as u64 + MESSAGE_BYTES as u64;
        if let Some(token) = writer {
            let (name, most) = (QuotaName::ChatAccount, self.settings.quota_chat_account_mb << 20);
            let own = Quota { name, used: written_by(&token), most };
            // What is not applied yet may all be of this account.
            let admission = own.decide(self.ahead(CHAT), bytes, bytes);
            if admission != QuotaDecision::Admitted {
                self.is_closed[CHAT] |= admission == QuotaDecision::Postponed;
                return admission;
            }
        }
        self.decide(CHAT, bytes, bytes)
    }

    /// What the commands before this one may add.
    fn ahead(&self, at: usize) -> u64 {
        if self.is_closed[at] { u64::MAX } else { self.unapplied[at].saturating_add(self.entry[at]) }
    }

    /// Whether a quarter of the quota is left at least, even if commands add as much as they may.
    fn is_far(&self, at: usize, added: u64) -> bool {
        let Quota { used, most, .. } = self.quotas[at];
        used.saturating_add(self.ahead(at)).saturating_add(added) <= most / 4 * 3
    }

    fn decide(&mut self, at: usize, certain: u64, added: u64) -> QuotaDecision {
        let admission = self.quotas[at].decide(self.ahead(at), certain, added);
        match admission {
            QuotaDecision::Admitted => self.entry[at] = self.entry[at].saturating_add(added),
            QuotaDecision::Postponed => self.is_closed[at] = true,
            QuotaDecision::Refused(_) => {}
        }
        admission
    }
}

impl Quota {
    /// Decides about a command that adds `added` bytes at most, `certain` of them probably; the commands before it add
    /// `ahead` at most (Q1).
    fn decide(&self, ahead: u64, certain: u64, added: u64) -> QuotaDecision {
        let is_beyond = |more: u64| self.used.saturating_add(more) > self.most;
        if added == 0 || !is_beyond(ahead.saturating_add(added)) {
            QuotaDecision::Admitted
        } else if certain > 0 && is_beyond(certain) {
            QuotaDecision::Refused(self.reason())
        } else if ahead == 0 {
            QuotaDecision::Admitted
        } else {
            QuotaDecision::Postponed
        }
    }

    /// So far that even a command is refused that may free space and may also take some.
    fn is_beyond_by_far(&self, more: u64) -> bool {
        self.used.saturating_add(more) > self.most.saturating_add(self.most / 8)
    }

    fn reason(&self) -> Reason {
        let Quota { name: quota, used, most } = *self;
        Reason::Quota { quota, used, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Service;
    use crate::services::kv::{Batch, Bytes, Condition, Expiry, Op};
    use crate::services::sql::{Command, RunKind, Statement};

    fn set(bytes: usize) -> Op {
        let (key, value) = (Bytes::from(b"k".to_vec()), Bytes::from(vec![0; bytes]));
        Op::Set { key, value, condition: Condition::Always, expiry: Expiry::Never, get: false }
    }

    fn run(ops: Vec<Op>) -> Vec<u8> {
        Store::encode_command(&Batch { watched: Vec::new(), ops })
    }

    fn sql(sql: &str) -> Vec<u8> {
        let statements = vec![Statement::bare(sql)];
        Database::encode_command(&Command::Run(sql::Run {
            statements,
            is_transaction: false,
            kind: RunKind::Execute,
            seed: 1,
        }))
    }

    #[test]
    fn growing_writes_are_refused_at_the_quota_and_removals_are_not() {
        let settings = Settings {
            quota_kv_mb: 1,
            quota_db_mb: 1,
            quota_chat_mb: 1,
            quota_chat_account_mb: 1,
            ..Settings::default()
        };
        let settings = Settings { quota_jobs: 10, quota_jobs_mb: 1, ..settings };
        let full = 1 << 20;
        let token = [7; 32];
        let send = Chat::encode_command(&chat::Command::Post {
            token,
            to: chat::Target::Conversation(1),
            text: "hello".to_string(),
            client_id: None,
        });
        let named = |sizes: Sizes, written: u64, command: &[u8]| {
            let mut check = Check::new(&settings, &sizes, [0; 5]);
            match check.admit(command, |asked| if *asked == token { written } else { 0 }) {
                QuotaDecision::Admitted => None,
                QuotaDecision::Refused(Reason::Quota { quota, .. }) => Some(quota.setting()),
                QuotaDecision::Refused(Reason::TriggersBeyondQuota { .. }) => Some("triggers"),
                other => panic!("{other:?}"),
            }
        };
        let none = Sizes::default();
        let kv = Sizes { kv_bytes: full, ..none };
        let db = Sizes { sql_bytes: full, ..none };
        let beyond = Sizes { sql_bytes: full + full / 8, ..none };
        let messages = Sizes { chat_bytes: full, ..none };
        for (sizes, command, expected) in [
            (none, run(vec![set(10)]), None),
            (none, run(vec![set(1 << 20)]), Some("quota_kv_mb")),
            (kv, run(vec![set(10)]), Some("quota_kv_mb")),
            (kv, run(vec![Op::FlushAll, set(10)]), Some("quota_kv_mb")),
            (kv, run(vec![Op::Del(vec![Bytes::from(b"k".to_vec())])]), None),
            (kv, run(vec![Op::FlushAll]), None),
            (kv, sql("INSERT INTO t VALUES(1)"), None),
            (db, sql("INSERT INTO t VALUES(1)"), Some("quota_db_mb")),
            (db, sql("DELETE FROM t"), None),
            (beyond, sql("DELETE FROM t"), None),
            (Sizes { has_triggers: true, ..db }, sql("DELETE FROM t"), None),
            (Sizes { has_triggers: true, ..beyond }, sql("DELETE FROM t"), Some("triggers")),
            (Sizes { has_triggers: true, ..beyond }, sql("DROP TABLE t"), None),
            (db, Database::encode_command(&Command::PutInPlace { load: 1, bytes: full - 1, crc: 0, seed: 0 }), None),
            (
                none,
                Database::encode_command(&Command::PutInPlace { load: 1, bytes: full + 1, crc: 0, seed: 0 }),
                Some("quota_db_mb"),
            ),
            (messages, send.clone(), Some("quota_chat_mb")),
            (messages, Chat::encode_command(&chat::Command::Delete { token }), None),
            (Sizes { jobs: 10, ..none }, JobTable::encode_command(&jobs::Command::Cancel { job: 1 }), None),
        ] {
            assert_eq!(named(sizes, 0, &command), expected, "{sizes:?} {command:?}");
        }
        assert_eq!((named(none, full, &send), named(none, full - 1000, &send)), (Some("quota_chat_account_mb"), None));
        let (language, files, stdin, args) = ("shell".to_string(), Vec::new(), Bytes::new(), Vec::new());
        let request = jobs::Request { language, files, stdin, args, limits: jobs::commands::LIMITS_USUAL, keep_ms: 1 };
        let submit = JobTable::encode_command(&jobs::Command::Submit(request));
        assert_eq!(named(Sizes { jobs: 9, ..none }, 0, &submit), None);
        assert_eq!(named(Sizes { jobs: 10, ..none }, 0, &submit), Some("quota_jobs"));
        assert_eq!(named(Sizes { jobs_bytes: full, ..none }, 0, &submit), Some("quota_jobs_mb"));
        assert_eq!(reached(&settings, &Sizes { jobs: 10, ..kv }).len(), 2);
        assert_eq!(
            reached(&settings, &Sizes { jobs: 9, ..none }),
            ["quota_jobs is nearly reached by jobs that wait or run"]
        );
        assert!(reached(&Settings { quota_jobs: 1, ..settings.clone() }, &none).is_empty());
    }

    /// A leader that applies its log late: what 969 MB under a quota of 64 MiB came from.
    #[test]
    fn the_store_exceeds_its_quota_by_the_copies_of_one_entry_at_most() {
        let settings = Settings { quota_kv_mb: 16, ..Settings::default() };
        let (most, overshoot) = (16 << 20, kv::commands::ENTRY_GROWTH_MAX);
        let name = |number: u32| Bytes::from(number.to_be_bytes().to_vec());
        let (mut largest, mut refused, mut postponed) = (0, 0, 0);
        for seed in 0..2 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let any = |rng: &mut fastrand::Rng| match rng.u8(0..9) {
                0..3 => Op::Copy { from: name(rng.u32(0..50)), to: name(rng.u32(0..1000)), replace: true },
                3 => Op::SetRange { key: name(rng.u32(..)), offset: rng.u64(0..4 << 20), value: name(1) },
                4 => Op::MSet((0..400).map(|_| (name(rng.u32(..)), Bytes::new())).collect()),
                5 => Op::IncrByFloat { key: name(rng.u32(..)), by: Bytes::from(b"1e308".to_vec()) },
                6 => Op::Append { key: name(rng.u32(0..50)), value: vec![1; rng.usize(0..1_000_000)].into() },
                7 => Op::LockAcquire { name: name(rng.u32(..)), ttl_ms: 1 << 40 },
                _ => Op::Del((0..5).map(|_| name(rng.u32(0..1000))).collect()),
            };
            let (mut store, mut unapplied, mut log) = (Store::default(), Unapplied::default(), VecDeque::new());
            let (mut applied, mut waiting) = (Index(0), VecDeque::new());
            for index in (1..200).map(Index) {
                while waiting.len() < 8 {
                    waiting.push_back(run((0..rng.usize(1..6)).map(|_| any(&mut rng)).collect()));
                }
                let sizes = Sizes { kv_bytes: store.bytes() as u64, ..Sizes::default() };
                let mut check = Check::new(&settings, &sizes, unapplied.after(applied));
                let (mut entry, mut later) = (Vec::new(), VecDeque::new());
                for command in waiting.drain(..) {
                    match check.admit(&command, |_| 0) {
                        QuotaDecision::Admitted => entry.push(command),
                        QuotaDecision::Postponed => later.push_back(command),
                        QuotaDecision::Refused(_) => refused += 1,
                    }
                }
                postponed += later.len();
                waiting = later;
                unapplied.push(index, check.added());
                log.push_back((index, entry));
                while log.len() > 5 || rng.u8(0..4) == 0 {
                    let Some((index, entry)) = log.pop_front() else { break };
                    let at = crate::types::Stamp { index, at_ms: 1 };
                    store.expire(at);
                    entry.iter().for_each(|command| drop(store.apply(at, &command[1..])));
                    applied = index;
                    largest = largest.max(store.bytes());
                    assert!(store.bytes() <= most + overshoot, "seed {seed}: {} bytes at {index}", store.bytes());
                }
            }
        }
        assert!(refused > 0 && postponed > 0, "{refused} refused, {postponed} postponed");
        assert!(largest > most / 10 * 9, "the quota was never reached: {largest}");
    }

    #[test]
    fn a_postponed_request_is_next() {
        let settings = Settings { quota_kv_mb: 1, ..Settings::default() };
        let (unapplied, sizes) = ([1 << 19, 0, 0, 0, 0], Sizes::default());
        let mut check = Check::new(&settings, &sizes, unapplied);
        assert_eq!(check.admit(&run(vec![set(1 << 19)]), |_| 0), QuotaDecision::Postponed);
        assert_eq!(check.admit(&run(vec![set(1)]), |_| 0), QuotaDecision::Postponed, "it overtakes");
        assert_eq!(check.admit(&run(vec![set(1 << 20)]), |_| 0), QuotaDecision::Refused(check.quotas[KEYS].reason()));
        for free in [run(vec![Op::FlushAll]), sql("INSERT INTO t VALUES(1)")] {
            assert_eq!(check.admit(&free, |_| 0), QuotaDecision::Admitted);
        }
        assert_eq!(check.added()[..2], [0, sql("INSERT INTO t VALUES(1)").len() as u64 - 1 + sql::COMMAND_GROWTH]);
    }

    #[test]
    fn unapplied_entries_of_a_new_leader_count() {
        let entry = |index| Entry {
            index: Index(index),
            term: crate::types::Term(1),
            payload: Payload::Command(vec![1; 100].into()),
        };
        let mut unapplied = Unapplied::inherited(Index(4), Index(3), &[entry(5), entry(6)]);
        let both = unapplied.after(Index(4));
        assert!(both.iter().all(|added| *added > 0), "{both:?}");
        assert_eq!(unapplied.after(Index(5)).map(|added| added * 2), both);
        assert_eq!(unapplied.after(Index(6)), [0; 5]);
        let mut missing = Unapplied::inherited(Index(2), Index(5), &[entry(6)]);
        assert_eq!(
            (missing.after(Index(4)), missing.after(Index(5)) == missing.after(Index(6))),
            ([u64::MAX; 5], false)
        );
    }
}
