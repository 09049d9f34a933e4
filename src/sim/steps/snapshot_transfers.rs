//! Snapshots on their way from a leader's disk to a follower's: in chunks, on a connection of their own.
//!
//! The connection breaks when either end dies or the link is cut; then the sender learns that it failed, and what the
//! receiver had is worthless. Whether the last word gets through is open as well.
//!
//! Not here: what raft makes of it.

use crate::raft::Input;
use crate::sim::events::SimEvent;
use crate::sim::model::snapshot_transfers::Transfer;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::types::Identity;

/// Bytes of one chunk: small, so that a transfer takes several.
const CHUNK: usize = 48;

impl World {
    /// Raft asks to stream the newest snapshot to a follower.
    pub fn stream_snapshot(&mut self, from: usize, to: Identity) -> CheckResult {
        let (from_life, from_identity) = (self.hosts[from].life, self.hosts[from].identity);
        if self.hosts[from].is_witness {
            // It has no data to send.
            self.after(1_000, SimEvent::Sent { node: from, life: from_life, to: to.id, ok: false });
            return Ok(());
        }
        let for_witness = self.state_for_witness(from, to);
        let Some(process) = self.hosts[from].process.as_mut() else { return Ok(()) };
        let term = process.raft.view().term;
        let to_node = to.id.0 as usize - 1;
        let read = process
            .store
            .newest_snapshot()
            .and_then(|reader| reader.map(|reader| Ok((reader.meta().clone(), reader.read_all()?))).transpose());
        let (meta, bytes) = match read {
            _ if let Some(state) = for_witness => state,
            Ok(Some(read)) => read,
            Ok(None) => {
                return violation!("NoGhostLog", "n{} must stream a snapshot and has none", from + 1);
            }
            Err(error) => {
                let disk_is_bad = self.hosts[from].is_damaged || self.hosts[from].disk().faults.read_error;
                if !disk_is_bad {
                    return violation!("NoGhostLog", "n{} cannot read its snapshot: {error}", from + 1);
                }
                self.after(1_000, SimEvent::Sent { node: from, life: from_life, to: to.id, ok: false });
                return Ok(());
            }
        };
        self.note(|_| format!("n{} streams a snapshot to {to:?}", from + 1));
        let is_same = |row: &Transfer| (row.from, row.from_life, row.to) == (from, from_life, to);
        if self.transfers.all.values().any(is_same) {
            // A link that came up again asks for what is still on its way.
            return Ok(());
        }
        let transfer = self.transfers.next;
        self.transfers.next += 1;
        self.transfers.newest.insert(to_node, transfer);
        let to_life = self.hosts[to_node].life;
        self.record(|recording, now| recording.on_snapshot_begins(now, transfer, from, to_node));
        let row = Transfer {
            from,
            from_life,
            from_identity,
            term,
            to,
            to_node,
            to_life,
            meta,
            bytes,
            offset: 0,
            receiver: None,
        };
        self.transfers.all.insert(transfer, row);
        self.coverage.snapshots_sent += 1;
        let at = self.net.arrival(self.now, from, to_node, &mut self.rng);
        self.at(at, SimEvent::Chunk { transfer });
        Ok(())
    }

    /// A chunk arrives, unless the connection broke.
    pub fn on_chunk(&mut self, transfer: u64) -> CheckResult {
        let Some(mut row) = self.transfers.all.remove(&transfer) else { return Ok(()) };
        let (from, to) = (row.from, row.to_node);
        let is_cut = self.net.is_cut(from, to) || self.net.is_cut(to, from);
        let is_lost = !self.in_liveness_phase && self.rng.f64() < self.plan.net.loss / 2.0;
        let is_there = self.is_alive(to, row.to_life) && self.hosts[to].identity == row.to;
        let is_replaced = self.transfers.newest.get(&to) != Some(&transfer);
        if is_cut || is_lost || is_replaced || !is_there || !self.is_alive(from, row.from_life) {
            let delay = self.rng.u64(1_000..200_000);
            self.after(delay, SimEvent::Sent { node: from, life: row.from_life, to: row.to.id, ok: false });
            return Ok(());
        }
        if self.hosts[to].paused_until > self.now {
            let at = self.hosts[to].paused_until + 1;
            self.transfers.all.insert(transfer, row);
            self.at(at, SimEvent::Chunk { transfer });
            return Ok(());
        }
        let Some(process) = self.hosts[to].process.as_mut() else { return Ok(()) };
        let end = (row.offset + CHUNK).min(row.bytes.len());
        let taken = match row.receiver.take() {
            Some(receiver) => Ok(receiver),
            None => process.store.receive_snapshot(&row.meta, row.bytes.len() as u64),
        }
        .and_then(|mut receiver| {
            receiver.chunk(row.offset as u64, &row.bytes[row.offset..end])?;
            if end < row.bytes.len() {
                return Ok(Some(receiver));
            }
            receiver.finish().map(|_| None)
        });
        match taken {
            Err(error) => {
                self.after(1_000, SimEvent::Sent { node: from, life: row.from_life, to: row.to.id, ok: false });
                self.on_disk_failed(to, error)
            }
            Ok(Some(receiver)) => {
                (row.offset, row.receiver) = (end, Some(receiver));
                self.transfers.all.insert(transfer, row);
                let at = self.net.arrival(self.now, from, to, &mut self.rng);
                self.at(at, SimEvent::Chunk { transfer });
                Ok(())
            }
            Ok(None) => {
                let delay = self.disk_delay(to);
                let life = row.to_life;
                self.transfers.all.insert(transfer, row);
                self.after(delay, SimEvent::Received { node: to, life, transfer });
                Ok(())
            }
        }
    }

    /// The receiver died before it could use what it had.
    pub fn break_transfer(&mut self, transfer: u64) {
        if let Some(row) = self.transfers.all.remove(&transfer) {
            self.after(1_000, SimEvent::Sent { node: row.from, life: row.from_life, to: row.to.id, ok: false });
        }
    }

    /// The snapshot is complete and durable.
    pub fn on_snapshot_received(&mut self, node: usize, transfer: u64) -> CheckResult {
        self.record(|recording, now| recording.on_snapshot_arrives(now, transfer));
        let Some(row) = self.transfers.all.remove(&transfer) else { return Ok(()) };
        let delay = self.rng.u64(500..10_000);
        let ok = self.in_liveness_phase || self.rng.u8(0..10) > 0;
        self.after(delay, SimEvent::Sent { node: row.from, life: row.from_life, to: row.to.id, ok });
        if let Some(process) = self.hosts[node].process.as_mut() {
            process.received = Some((row.meta.clone(), row.bytes));
        }
        self.note(|_| format!("n{} has received the snapshot at {}", node + 1, row.meta.index));
        self.maybe_introduce(row.from, node, row.from_identity);
        self.step(node, Input::SnapshotReceived { from: row.from_identity, term: row.term, meta: row.meta })
    }
}
