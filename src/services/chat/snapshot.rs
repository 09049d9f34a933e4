//! The chat's part of a snapshot: counts, then one record for each account, unknown name with failed log-ins,
//! conversation and message, so that writing and reading are streams.
//!
//! Numbers are little-endian `u64`. Head: newest conversation, newest position, newest revision, newest account, numbers
//! of accounts, of unknown names, of conversations. Then the records in order, each with its length (postcard); a
//! conversation's is followed by the number of its messages and one record for each. Everything that is derived from
//! these is not saved. Not here: the framing and its version (`services/snapshot_format.rs`).

use super::accounts::{Account, Accounts, LoginFailures};
use super::commands::{AccountId, ConversationId};
use super::conversation::{Head, Message, Talk};
use super::state::Chat;
use crate::services::snapshot_format::{bad, put_numbers, put_record, take_numbers, take_record};
use imbl::OrdMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

/// Size of the buffer for reading and writing.
const BUFFER_BYTES: usize = 64 << 10;

pub fn write(chat: &Chat, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let (accounts, unknown_names, newest) = chat.accounts.parts();
    put_numbers(&mut out, [chat.newest, chat.position, chat.revision, newest])?;
    put_numbers(&mut out, [accounts.len(), unknown_names.len(), chat.talks.len()].map(|len| len as u64))?;
    let mut buffer = Vec::new();
    for row in accounts {
        put_record(&mut out, &mut buffer, &row)?;
    }
    for row in unknown_names {
        put_record(&mut out, &mut buffer, &row)?;
    }
    for (id, talk) in &chat.talks {
        put_record(&mut out, &mut buffer, &(id, &talk.head))?;
        put_numbers(&mut out, [talk.messages.len() as u64])?;
        for row in &talk.messages {
            put_record(&mut out, &mut buffer, &row)?;
        }
    }
    out.flush()
}

/// Reads a chat that [`write`] wrote.
///
/// # Errors
/// Returns the error of `from`, or an error of kind `InvalidData`.
pub fn read(from: &mut dyn Read) -> io::Result<Chat> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    let [newest, position, revision, newest_account] = take_numbers(&mut from)?;
    let [accounts_len, unknown_names_len, talks_len] = take_numbers(&mut from)?;
    let mut buffer = Vec::new();
    let (mut accounts, mut unknown_names, mut talks) = (OrdMap::new(), OrdMap::new(), OrdMap::new());
    for _ in 0..accounts_len {
        let (id, account): (AccountId, Account) = take_record(&mut from, &mut buffer)?;
        accounts.insert(id, Arc::new(account));
    }
    for _ in 0..unknown_names_len {
        let (key, failures): (String, LoginFailures) = take_record(&mut from, &mut buffer)?;
        unknown_names.insert(key, failures);
    }
    for _ in 0..talks_len {
        let (id, head): (ConversationId, Head) = take_record(&mut from, &mut buffer)?;
        let [messages_len] = take_numbers(&mut from)?;
        let (mut messages, mut bytes) = (OrdMap::new(), 0);
        let mut before = head.newest.checked_sub(messages_len).ok_or_else(|| bad("more messages than were said"))?;
        for _ in 0..messages_len {
            let (number, message): (u64, Message) = take_record(&mut from, &mut buffer)?;
            if number != before + 1 {
                return Err(bad("a message's number is not the next"));
            }
            before = number;
            bytes += message.bytes();
            messages.insert(number, Arc::new(message));
        }
        if talks.insert(id, Arc::new(Talk { head, messages, bytes })).is_some() {
            return Err(bad("two conversations of one number"));
        }
    }
    let accounts =
        Accounts::of(accounts, unknown_names, newest_account).ok_or_else(|| bad("accounts that are no two"))?;
    Chat::of(accounts, talks, [newest, position, revision]).ok_or_else(|| bad("a chat that contradicts itself"))
}
