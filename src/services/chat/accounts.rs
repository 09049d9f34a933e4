//! Accounts and log-ins, and the delay that slows down guessing passwords.
//!
//! An attempt takes a place before its password is compared, and there are only as many places as free failures. The
//! attempt counts as a failure when the password was compared and was wrong, before the client gets the answer; an attempt
//! whose end never comes (its node was too busy, or died) releases its place after [`TRY_MS_MAX`]. So a thousand
//! concurrent guesses gain nothing over sequential ones: after five failures the next attempt waits a second, then two,
//! then four, at most five minutes, by log time. A success resets the count. Names without an account are counted in
//! the same way, in a table of bounded size.
//!
//! Invariants: A1 `names` has one row for each account, under its key. A2 `tokens` has one row for each log-in, which
//! is in its account's `tokens` and in `expiring`, and nowhere else.
//! Not here: comparing passwords (`http/chat/`), conversations (`conversation.rs`).

use super::commands::{
    ACCOUNTS_MAX, AccountId, CLIENT_IDS_MAX, ConversationId, FAILURES_FREE, FAILURES_KEPT_MS, HASH_BYTES_MAX,
    KEY_BYTES_MAX, LEFT_MAX, NAME_CHARS_MAX, Name, Refusal, TOKEN_MS_MAX, TOKENS_MAX, TRY_MS_MAX, TokenHash,
    UNKNOWN_NAMES_MAX, WAIT_MS_MAX, WAIT_MS_MIN,
};
use crate::types::Stamp;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Failed log-ins of one name in a row, and attempts whose outcome is not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginFailures {
    count: u32,
    last_ms: u64,
    open: u32,
    /// When the newest of those attempts began.
    opened_ms: u64,
}

/// The relation of an account to one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationMembership {
    /// `false`: the account has left.
    pub is_in: bool,
    /// Position of the last join or leave.
    pub since: u64,
    /// Number of the newest message that the account has read.
    pub read: u64,
    /// Position at which the read mark was set.
    pub read_at: u64,
}

/// A sent message that has a client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentMessage {
    /// The conversation it was sent to.
    pub conversation: ConversationId,
    /// Its number in that conversation.
    pub number: u64,
    pub position: u64,
    /// CRC-32 of its text: enough to detect a client that uses an id twice, which is a bug and not an attack.
    pub crc: u32,
    /// CRC-32 of the target as the client named it.
    pub to_crc: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The name as displayed, and its key.
    pub name: Name,
    /// Hash of the password, in PHC form.
    pub hash: String,
    pub created_ms: u64,
    /// Its log-ins, with the log time at which they expire.
    pub tokens: OrdSet<(u64, TokenHash)>,
    pub talks: OrdMap<ConversationId, ConversationMembership>,
    /// Position of the newest event that concerns this account alone.
    pub touched: u64,
    /// Sent messages by client id.
    sent: OrdMap<String, SentMessage>,
    /// Their client ids by position.
    sent_order: OrdMap<u64, String>,
    failures: LoginFailures,
}

/// All accounts and log-ins. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    by_id: OrdMap<AccountId, Arc<Account>>,
    names: OrdMap<String, AccountId>,
    tokens: OrdMap<TokenHash, AccountId>,
    expiring: OrdSet<(u64, TokenHash)>,
    unknown_names: OrdMap<String, LoginFailures>,
    newest: AccountId,
}

impl LoginFailures {
    /// Milliseconds until the next attempt is allowed.
    fn wait_ms(self, now_ms: u64) -> u64 {
        if self.count < FAILURES_FREE || now_ms.saturating_sub(self.last_ms) >= FAILURES_KEPT_MS {
            return 0;
        }
        let wait_ms = WAIT_MS_MIN.saturating_mul(1 << (self.count - FAILURES_FREE).min(32)).min(WAIT_MS_MAX);
        (self.last_ms.saturating_add(wait_ms)).saturating_sub(now_ms)
    }

    fn count_at(self, now_ms: u64) -> u32 {
        if now_ms.saturating_sub(self.last_ms) >= FAILURES_KEPT_MS { 0 } else { self.count }
    }

    fn open_at(self, now_ms: u64) -> u32 {
        if now_ms.saturating_sub(self.opened_ms) >= TRY_MS_MAX { 0 } else { self.open }
    }

    /// Takes a place for an attempt.
    fn begin(&mut self, now_ms: u64) -> Result<(), Refusal> {
        let retry_ms = match self.wait_ms(now_ms) {
            // At most as many concurrent attempts as may fail before the next one has to wait.
            0 if self.open_at(now_ms) < FAILURES_FREE.saturating_sub(self.count_at(now_ms)).max(1) => {
                (self.open, self.opened_ms) = (self.open_at(now_ms) + 1, now_ms);
                return Ok(());
            }
            // Each attempt ends within moments, unless its node has failed.
            0 => WAIT_MS_MIN.min(self.opened_ms.saturating_add(TRY_MS_MAX).saturating_sub(now_ms)),
            wait_ms => wait_ms,
        };
        Err(Refusal::Slow { retry_ms })
    }

    /// Counts a failed attempt.
    fn fail(&mut self, now_ms: u64) {
        let (count, open) = (self.count_at(now_ms).saturating_add(1), self.open.saturating_sub(1));
        *self = LoginFailures { count, last_ms: now_ms, open, ..*self };
    }
}

impl Account {
    /// Whether it is in a conversation now.
    pub fn is_in(&self, id: ConversationId) -> bool {
        self.talks.get(&id).is_some_and(|membership| membership.is_in)
    }

    /// The conversations that the account is in.
    pub fn talks_in(&self) -> impl Iterator<Item = (ConversationId, &ConversationMembership)> {
        self.talks.iter().filter(|(_, membership)| membership.is_in).map(|(id, membership)| (*id, membership))
    }

    /// The message that was sent under a client's id.
    pub fn sent(&self, client_id: &str) -> Option<SentMessage> {
        self.sent.get(client_id).copied()
    }

    /// Records a message under its client id.
    pub fn remember_sent(&mut self, client_id: String, sent: SentMessage) {
        self.sent_order.insert(sent.position, client_id.clone());
        self.sent.insert(client_id, sent);
        if self.sent.len() > CLIENT_IDS_MAX
            && let Some((position, oldest)) = self.sent_order.get_min().map(|(position, id)| (*position, id.clone()))
        {
            self.sent_order.remove(&position);
            self.sent.remove(&oldest);
        }
    }

    /// Sets whether the account is in a conversation since this position, and its read mark.
    pub fn set_membership(&mut self, id: ConversationId, is_in: bool, since: u64, read: u64) {
        self.talks.insert(id, ConversationMembership { is_in, since, read, read_at: 0 });
        self.touched = since;
        if !is_in && self.talks.len() - self.talks_in().count() > LEFT_MAX {
            let left = self.talks.iter().filter(|(_, membership)| !membership.is_in);
            if let Some(oldest) = left.min_by_key(|(_, membership)| membership.since).map(|(id, _)| *id) {
                self.talks.remove(&oldest);
            }
        }
    }
}

/// Refuses a name that no endpoint of this version would send.
pub fn check_name(name: &Name) -> Result<(), Refusal> {
    let is_fine = (1..=NAME_CHARS_MAX).contains(&name.shown.chars().count())
        && (1..=KEY_BYTES_MAX).contains(&name.key.len())
        && !name.shown.contains(char::is_control);
    if is_fine { Ok(()) } else { Err(Refusal::BadName(format!("a name has 1 to {NAME_CHARS_MAX} characters"))) }
}

impl Accounts {
    pub fn get(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.by_id.get(&id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.by_id.get_mut(&id).map(Arc::make_mut)
    }

    /// The account with this name's key.
    pub fn find(&self, key: &str) -> Option<AccountId> {
        self.names.get(key).copied()
    }

    /// The account that a log-in belongs to.
    pub fn who(&self, token: &TokenHash) -> Result<AccountId, Refusal> {
        self.tokens.get(token).copied().ok_or(Refusal::NotLoggedIn)
    }

    /// Keys greater than one, in order.
    pub fn keys_after(&self, after: &str) -> impl Iterator<Item = (&String, AccountId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.names.range::<_, str>((Excluded(after), Unbounded)).map(|(key, id)| (key, *id))
    }

    /// Creates an account and logs it in.
    pub fn create(
        &mut self,
        at: Stamp,
        name: Name,
        hash: String,
        token: TokenHash,
        token_ms: u64,
    ) -> Result<AccountId, Refusal> {
        check_name(&name)?;
        if hash.is_empty() || hash.len() > HASH_BYTES_MAX {
            return Err(Refusal::Malformed("not the hash of a password".to_string()));
        }
        if self.names.contains_key(&name.key) {
            return Err(Refusal::NameTaken);
        }
        if self.by_id.len() >= ACCOUNTS_MAX {
            return Err(Refusal::Full("accounts".to_string()));
        }
        self.newest += 1;
        let id = self.newest;
        self.unknown_names.remove(&name.key);
        self.names.insert(name.key.clone(), id);
        let account = Account {
            name,
            hash,
            created_ms: at.at_ms,
            tokens: OrdSet::new(),
            talks: OrdMap::new(),
            touched: 0,
            sent: OrdMap::new(),
            sent_order: OrdMap::new(),
            failures: LoginFailures::default(),
        };
        self.by_id.insert(id, Arc::new(account));
        self.add_token(at, id, token, token_ms);
        Ok(id)
    }

    /// Takes a place for an attempt; returns the hash to compare the password with, if there is an account.
    pub fn try_log_in(&mut self, at: Stamp, key: &str) -> Result<Option<(AccountId, String)>, Refusal> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Refusal::WrongLogIn);
        }
        if let Some(id) = self.find(key) {
            let account = self.get_mut(id).expect("A1: a name belongs to an account");
            account.failures.begin(at.at_ms)?;
            return Ok(Some((id, account.hash.clone())));
        }
        let mut failures = self.unknown_names.get(key).copied().unwrap_or_default();
        failures.begin(at.at_ms)?;
        self.remember_unknown_name(key, failures);
        Ok(None)
    }

    /// Counts a failed attempt of a name.
    pub fn fail_log_in(&mut self, at: Stamp, key: &str) {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return;
        }
        if let Some(id) = self.find(key) {
            let account = self.get_mut(id).expect("A1: a name belongs to an account");
            return account.failures.fail(at.at_ms);
        }
        let mut failures = self.unknown_names.get(key).copied().unwrap_or_default();
        failures.fail(at.at_ms);
        self.remember_unknown_name(key, failures);
    }

    fn remember_unknown_name(&mut self, key: &str, failures: LoginFailures) {
        self.unknown_names.insert(key.to_string(), failures);
        if self.unknown_names.len() > UNKNOWN_NAMES_MAX
            && let Some(oldest) = self.unknown_names.iter().min_by_key(|(_, it)| it.last_ms.max(it.opened_ms))
        {
            let oldest = oldest.0.clone();
            self.unknown_names.remove(&oldest);
        }
    }

    /// The password was right: logs in, if the account still has the hash that was compared.
    pub fn log_in(
        &mut self,
        at: Stamp,
        id: AccountId,
        hash: &str,
        token: TokenHash,
        token_ms: u64,
    ) -> Result<String, Refusal> {
        let account = self.get_mut(id).filter(|account| account.hash == hash).ok_or(Refusal::WrongLogIn)?;
        account.failures = LoginFailures::default();
        let name = account.name.shown.clone();
        self.add_token(at, id, token, token_ms);
        Ok(name)
    }

    fn add_token(&mut self, at: Stamp, id: AccountId, token: TokenHash, token_ms: u64) {
        // Tokens are drawn at random: an equal one is the same log-in, sent twice.
        self.remove_token(&token);
        let until_ms = at.at_ms.saturating_add(token_ms.min(TOKEN_MS_MAX));
        self.tokens.insert(token, id);
        self.expiring.insert((until_ms, token));
        let account = self.get_mut(id).expect("who logs in has an account");
        account.tokens.insert((until_ms, token));
        if account.tokens.len() > TOKENS_MAX
            && let Some((_, first)) = account.tokens.get_min().copied()
        {
            self.remove_token(&first);
        }
    }

    pub fn remove_token(&mut self, token: &TokenHash) {
        let Some(id) = self.tokens.remove(token) else { return };
        let account = self.get_mut(id).expect("A2: a log-in belongs to an account");
        let row = account.tokens.iter().find(|(_, other)| other == token).copied();
        let row = row.expect("A2: a log-in stands with its account");
        account.tokens.remove(&row);
        self.expiring.remove(&row);
    }

    /// Ends all log-ins of an account.
    pub fn remove_tokens(&mut self, id: AccountId) {
        let tokens = self.get(id).map(|account| account.tokens.clone()).unwrap_or_default();
        for (_, token) in &tokens {
            self.remove_token(token);
        }
    }

    /// Deletes an account; its name becomes free.
    pub fn delete(&mut self, id: AccountId) {
        self.remove_tokens(id);
        if let Some(account) = self.by_id.remove(&id) {
            self.names.remove(&account.name.key);
        }
    }

    /// Ends expired log-ins; returns whether there were any.
    pub fn expire(&mut self, at: Stamp) -> bool {
        let mut any = false;
        while let Some((until_ms, token)) = self.expiring.get_min().copied()
            && until_ms <= at.at_ms
        {
            self.remove_token(&token);
            any = true;
        }
        any
    }

    /// When the next log-in expires.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.expiring.get_min().map(|(until_ms, _)| *until_ms)
    }

    /// The parts that a snapshot must hold.
    pub fn parts(&self) -> (&OrdMap<AccountId, Arc<Account>>, &OrdMap<String, LoginFailures>, AccountId) {
        (&self.by_id, &self.unknown_names, self.newest)
    }

    /// The accounts of a snapshot; `None` if two share a name or a log-in.
    pub fn of(
        by_id: OrdMap<AccountId, Arc<Account>>,
        unknown_names: OrdMap<String, LoginFailures>,
        newest: AccountId,
    ) -> Option<Accounts> {
        let mut accounts = Accounts { unknown_names, newest, ..Accounts::default() };
        for (id, account) in &by_id {
            if *id > newest || accounts.names.insert(account.name.key.clone(), *id).is_some() {
                return None;
            }
            for (until_ms, token) in &account.tokens {
                if accounts.tokens.insert(*token, *id).is_some() {
                    return None;
                }
                accounts.expiring.insert((*until_ms, *token));
            }
        }
        accounts.by_id = by_id;
        Some(accounts)
    }

    /// A planted bug: all read marks are reset.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn forget_read_marks(&mut self) {
        let ids: Vec<AccountId> = self.by_id.keys().copied().collect();
        for id in ids {
            let account = self.get_mut(id).expect("it is one of the keys");
            let unread =
                account.talks.iter().map(|(id, membership)| (*id, ConversationMembership { read: 0, ..*membership }));
            account.talks = unread.collect();
        }
    }

    /// Asserts the invariants.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn check(&self) {
        assert_eq!(self.names.len(), self.by_id.len(), "A1: rows of names");
        for (id, account) in &self.by_id {
            assert_eq!(self.names.get(&account.name.key), Some(id), "A1: {}", account.name.key);
            assert_eq!(account.sent.len(), account.sent_order.len(), "client ids of {id}");
            for row in &account.tokens {
                assert!(self.expiring.contains(row) && self.tokens.get(&row.1) == Some(id), "A2: {row:?}");
            }
        }
        let tokens: usize = self.by_id.values().map(|account| account.tokens.len()).sum();
        assert_eq!((tokens, tokens), (self.tokens.len(), self.expiring.len()), "A2: rows of log-ins");
    }
}
