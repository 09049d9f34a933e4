//! Quotas: how much the services may hold, and which commands are refused then. The settings of the leader apply.
//!
//! The leader checks a command before it proposes it, so a refused command is in no log, and nodes with different
//! settings have the same state. It checks against what it has applied; commands that are proposed but not applied may
//! exceed a quota by their own size. A command that frees space is never refused.
//! Not here: what a command does (`services/`), limits without a setting (each service's own).

use crate::outcome::{QuotaName, Reason};
use crate::services::Replicated;
use crate::services::chat::Chat;
use crate::services::jobs::JobTable;
use crate::services::kv::Store;
use crate::services::registry::Registry;
use crate::services::sql::Database;
use crate::services::{Growth, chat, jobs, kv, sql};
use crate::settings::Settings;

/// How much the services hold: what quotas are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys, values and locks.
    pub kv_bytes: u64,
    /// The database.
    pub sql_bytes: u64,
    /// The database has triggers.
    pub has_triggers: bool,
    /// Messages of the chat.
    pub chat_bytes: u64,
    /// Jobs that wait or run.
    pub jobs: u64,
    /// Bytes of those jobs.
    pub jobs_bytes: u64,
}

impl Sizes {
    /// How much the services hold. `known`: earlier sizes, from which those of the database are taken, because reading
    /// them from its file takes time.
    pub fn of(registry: &Registry, known: Option<Sizes>) -> Sizes {
        let (jobs, jobs_bytes) = registry.jobs().open();
        let (sql_bytes, has_triggers) = match known {
            Some(known) => (known.sql_bytes, known.has_triggers),
            None => (registry.sql().used_bytes(), registry.sql().has_triggers()),
        };
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

/// One quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: QuotaName,
    /// Bytes or jobs.
    pub used: u64,
    /// The limit.
    pub most: u64,
}

/// How often the database is asked for its size, in milliseconds.
pub const LOOK_EVERY_MS: u64 = 50;

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

/// Checks a command, with its routing byte. `written_by`: bytes that the account with this token has written to the
/// chat.
///
/// # Errors
/// The quota that it would exceed.
pub fn check(
    settings: &Settings,
    sizes: &Sizes,
    command: &[u8],
    written_by: impl FnOnce(&chat::TokenHash) -> u64,
) -> Result<(), Reason> {
    let Some((service, command)) = command.split_first() else { return Ok(()) };
    let bytes = command.len() as u64;
    let [kv_quota, sql_quota, chat_quota, jobs_quota, jobs_bytes_quota] = all(settings, sizes);
    // Decoding a command takes time, so it is decoded only if it could exceed a quota.
    match *service {
        Store::ID if kv_quota.is_beyond(bytes) && kv::commands::growth(command) == Growth::Adds => kv_quota.refuse(),
        Database::ID => match sql_quota.is_beyond(bytes).then(|| sql::growth(command)) {
            Some(Growth::Adds) => sql_quota.refuse(),
            Some(Growth::MayAdd) if sizes.has_triggers && sql_quota.is_beyond_by_far(bytes) => {
                Err(Reason::TriggersBeyondQuota { most: sql_quota.most })
            }
            Some(Growth::Replaces(bytes)) if bytes > sql_quota.most => sql_quota.refuse(),
            None if is_replacement_beyond(command, sql_quota.most) => sql_quota.refuse(),
            _ => Ok(()),
        },
        JobTable::ID if jobs_quota.is_beyond(1) || jobs_bytes_quota.is_beyond(bytes) => {
            let quota = if jobs_quota.is_beyond(1) { jobs_quota } else { jobs_bytes_quota };
            if jobs::commands::growth(command) == Growth::Adds { quota.refuse() } else { Ok(()) }
        }
        Chat::ID => {
            let (growth, writer) = chat::commands::growth(command);
            if growth == Growth::Adds && chat_quota.is_beyond(bytes) {
                return chat_quota.refuse();
            }
            let Some(token) = writer else { return Ok(()) };
            let (name, most) = (QuotaName::ChatAccount, settings.quota_chat_account_mb << 20);
            let own = Quota { name, used: written_by(&token), most };
            if own.is_beyond(bytes) { own.refuse() } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The command that puts a file in place is short, whatever the size of the file.
fn is_replacement_beyond(command: &[u8], most: u64) -> bool {
    const COMMAND_BYTES_MAX: usize = 64;
    command.len() <= COMMAND_BYTES_MAX && matches!(sql::growth(command), Growth::Replaces(bytes) if bytes > most)
}

impl Quota {
    fn is_beyond(&self, more: u64) -> bool {
        self.used.saturating_add(more) > self.most
    }

    /// So far that even a command is refused that may free space and may also take some.
    fn is_beyond_by_far(&self, more: u64) -> bool {
        self.used.saturating_add(more) > self.most.saturating_add(self.most / 8)
    }

    fn refuse<T>(&self) -> Result<T, Reason> {
        let Quota { name: quota, used, most } = *self;
        Err(Reason::Quota { quota, used, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::kv::{Batch, Bytes, Condition, Expiry, Op};
    use crate::services::sql::{Command, Kind, Statement};

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
            kind: Kind::Execute,
            seed: 1,
        }))
    }

    #[test]
    fn what_grows_is_refused_at_the_quota_and_what_makes_room_is_not() {
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
            let judged = check(&settings, &sizes, command, |asked| if *asked == token { written } else { 0 });
            judged.err().map(|why| match why {
                Reason::Quota { quota, .. } => quota.setting(),
                Reason::TriggersBeyondQuota { .. } => "triggers",
                other => panic!("{other:?}"),
            })
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
        assert_eq!((named(none, full, &send), named(none, full - 100, &send)), (Some("quota_chat_account_mb"), None));
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
}
