//! The store's part of a snapshot: counts, then one record for each lock and key, in order, so that writing and reading
//! are streams.
//!
//! All numbers are little-endian `u64`. Head: revision, number of locks, number of keys. A lock: token, expiry, length
//! of its name, the name. A key: revision, expiry (0: never), length of the key, length of the value, both. At the end
//! the removals: the revision at the last removal of all keys, number of groups, and for each its number and revision.
//! Expired keys and locks that are not removed yet are included: every node removes them with the same entries. A
//! length above its limit is an error, so that a damaged snapshot does not cause a large allocation.
//! Not here: the framing and its version (`services/snapshot_format.rs`).

use super::commands::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::state::Store;
use super::state::locks::{Lock, Locks};
use super::state::removed::Removed;
use super::state::table::Table;
use crate::services::snapshot_format::{put_numbers, take_numbers};
use std::io::{self, BufReader, BufWriter, Read, Write};

/// Size of the buffer for reading and writing.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes the whole store.
pub fn write(store: &Store, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let (table, locks) = (store.table(), store.locks());
    put_numbers(&mut out, [store.revision(), locks.len() as u64, table.rows() as u64])?;
    for (name, lock) in locks.iter() {
        put_numbers(&mut out, [lock.token, lock.expires_ms, name.len() as u64])?;
        out.write_all(name)?;
    }
    for (key, slot) in table.iter() {
        let expires_ms = slot.expires_ms().unwrap_or(0);
        put_numbers(&mut out, [slot.revision, expires_ms, key.len() as u64, slot.value.len() as u64])?;
        out.write_all(key)?;
        for piece in slot.value.pieces() {
            out.write_all(piece)?;
        }
    }
    let (all, by_group) = store.removed().parts();
    put_numbers(&mut out, [all, by_group.len() as u64])?;
    for (group, revision) in by_group {
        put_numbers(&mut out, [u64::from(*group), *revision])?;
    }
    out.flush()
}

/// Reads a store that [`write`] wrote.
///
/// # Errors
/// Returns the error of `from`, or an error of kind `InvalidData`.
pub fn read(from: &mut dyn Read) -> io::Result<Store> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    let [revision, locks_len, keys_len] = take_numbers(&mut from)?;
    let (mut locks, mut table) = (Locks::default(), Table::default());
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for _ in 0..locks_len {
        let [token, expires_ms, len] = take_numbers(&mut from)?;
        take(&mut from, &mut key, len, KEY_BYTES_MAX)?;
        locks.put(&key, Lock { token, expires_ms });
    }
    for _ in 0..keys_len {
        let [revision, expires_ms, key_len, value_len] = take_numbers(&mut from)?;
        take(&mut from, &mut key, key_len, KEY_BYTES_MAX)?;
        take(&mut from, &mut value, value_len, VALUE_BYTES_MAX)?;
        table.put(&key, value.as_slice().into(), revision, (expires_ms > 0).then_some(expires_ms));
    }
    let [all, groups] = take_numbers(&mut from)?;
    let mut rows = Vec::new();
    for _ in 0..groups {
        let [group, at] = take_numbers(&mut from)?;
        let group = u16::try_from(group).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no group of keys"))?;
        rows.push((group, at));
    }
    Ok(Store::of(table, locks, Removed::of(all, rows.into_iter()), revision))
}

fn take(from: &mut impl Read, into: &mut Vec<u8>, len: u64, len_max: usize) -> io::Result<()> {
    let len = usize::try_from(len).ok().filter(|len| *len <= len_max);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key or value beyond its limit"))?;
    into.resize(len, 0);
    from.read_exact(into)
}
