//! The log and the hard state that result from a sequence of records.
//!
//! Invariants: R1 the entries have no gap, between each other and after `base`. R2 an entry at index i removes all
//! entries from i on, so an overwritten suffix never returns. R3 terms never decrease, neither along the log nor in the
//! hard state. A record that violates one is damage, although its checksum is correct. Not here: reading files
//! (`segment.rs`, `writer.rs`).

use super::record::{Header, Record};
use crate::planted_bugs::is_planted;
use crate::raft::{Entry, HardState, SnapshotMeta};
use crate::store::Options;
use crate::types::{Index, Term};

/// The state after the records so far.
#[derive(Clone, Debug)]
pub struct Replay {
    pub hard_state: HardState,
    /// Index and term before the first of `entries`; the term is `None` if that entry was never read.
    pub base: (Index, Option<Term>),
    /// Entries after `base`, without a gap.
    pub entries: Vec<Entry>,
    /// Newest snapshot that the log was restarted after.
    pub installed: Option<SnapshotMeta>,
    has_begun: bool,
    vote_alone: bool,
    resurrect: bool,
}

impl Replay {
    /// Returns the state before the first record.
    #[cfg_attr(not(any(test, feature = "planted-bugs")), expect(unused_variables, reason = "only tests plant bugs"))]
    pub fn new(options: &Options) -> Replay {
        Replay {
            hard_state: HardState::default(),
            base: (Index(0), Some(Term(0))),
            entries: Vec::new(),
            installed: None,
            has_begun: false,
            vote_alone: is_planted!(options, vote_in_its_own_record),
            resurrect: is_planted!(options, replay_resurrects_truncated),
        }
    }

    /// Returns the last index of the log.
    pub fn last_index(&self) -> Index {
        self.entries.last().map_or(self.base.0, |e| e.index)
    }

    /// Returns the term of the last entry, if it is known.
    pub fn last_term(&self) -> Option<Term> {
        self.entries.last().map_or(self.base.1, |e| Some(e.term))
    }

    /// Returns the term of the entry at `index`, if the log contains it or starts right after it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.0 {
            return self.base.1;
        }
        let place = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?).map(|e| e.term)
    }

    /// Returns the entries after a snapshot that ends at `base`, and whether the log continues from there. It does not
    /// if it is shorter or has another entry there: then none of its entries is valid.
    ///
    /// # Errors
    /// Returns a message if there is a gap between snapshot and log.
    pub fn entries_after(&mut self, base: (Index, Term)) -> Result<(Vec<Entry>, bool), String> {
        let start = self.base.0;
        if start > base.0 {
            let covered = base.0;
            return Err(format!(
                "the log starts after entry {start}, but the newest snapshot covers up to {covered} only"
            ));
        }
        let is_there = start == base.0 && self.base.1.is_none() || self.term_at(base.0) == Some(base.1);
        let mut entries = std::mem::take(&mut self.entries);
        if !is_there {
            return Ok((Vec::new(), false));
        }
        entries.drain(..(base.0.0 - start.0) as usize);
        Ok((entries, true))
    }

    /// Applies the next record.
    ///
    /// # Errors
    /// Returns the reason if the record cannot follow the earlier ones.
    pub fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Header(header) => self.on_header(header),
            Record::HardState(state) => self.on_hard_state(state),
            Record::Install(meta) => {
                self.entries.clear();
                self.base = (meta.index, Some(meta.term));
                self.installed = Some(meta);
                Ok(())
            }
            Record::Entry(entry) => self.on_entry(entry),
            Record::Seal => Ok(()),
            #[cfg(any(test, feature = "planted-bugs"))]
            Record::Vote(vote) => {
                self.hard_state.vote = vote;
                Ok(())
            }
        }
    }

    fn on_header(&mut self, header: Header) -> Result<(), String> {
        if !self.has_begun {
            self.has_begun = true;
            self.hard_state = header.hard_state;
            self.base = (header.last.0, Some(header.last.1));
            return Ok(());
        }
        if header.hard_state != self.hard_state {
            return Err(format!("the header says {:?}, the log {:?}", header.hard_state, self.hard_state));
        }
        let is_same = header.last.0 == self.last_index() && self.last_term().is_none_or(|term| term == header.last.1);
        if !is_same && !self.resurrect {
            let (index, term) = header.last;
            return Err(format!(
                "the header follows entry {index} of term {term}, the log ends at {}",
                self.last_index()
            ));
        }
        Ok(())
    }

    fn on_hard_state(&mut self, state: HardState) -> Result<(), String> {
        if state.term < self.hard_state.term {
            return Err(format!("the term goes back: {} -> {}", self.hard_state.term, state.term));
        }
        match self.vote_alone {
            true => self.hard_state.term = state.term,
            false => self.hard_state = state,
        }
        Ok(())
    }

    fn on_entry(&mut self, entry: Entry) -> Result<(), String> {
        let last = self.last_index();
        if entry.index > last.next() || entry.index == Index(0) {
            return Err(format!("entry {} follows entry {last}", entry.index));
        }
        if entry.index <= self.base.0 {
            self.entries.clear();
            self.base = (entry.index.prev(), None);
        }
        let place = (entry.index.0 - self.base.0.0 - 1) as usize;
        if self.resurrect && place < self.entries.len() {
            self.entries[place] = entry;
            return Ok(());
        }
        self.entries.truncate(place);
        if let Some(before) = self.last_term().filter(|before| *before > entry.term) {
            return Err(format!("entry {} of term {} follows one of term {before}", entry.index, entry.term));
        }
        self.entries.push(entry);
        Ok(())
    }
}
