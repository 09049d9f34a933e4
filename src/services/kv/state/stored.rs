//! The value of a key: one piece of bytes, or several pieces if a long value grew by APPEND or SETRANGE.
//!
//! Values are shared with copies of the state, which snapshots and large reads use. So a long value is never copied for
//! an append: that copies at most its last piece, and the list of pieces. Overwriting a part copies the pieces that it
//! touches, once for each copy of the state that shares them.
//!
//! Invariants: V1 values compare like their bytes, however these are divided. V2 a value of up to
//! [`ONE_PIECE_BYTES_MAX`] is one piece. V3 each piece but the first and the last has at least [`PIECE_BYTES_MIN`], so
//! there are few.
//! Not here: how long a value may be (`commands.rs`).

use std::fmt;
use std::sync::Arc;

/// Bytes that copies of the state share.
pub type Shared = Arc<[u8]>;

/// Maximum length of a value that is copied as a whole to append to it.
const ONE_PIECE_BYTES_MAX: usize = 4 << 10;
/// A last piece of this length is full: the next bytes begin a new piece.
const PIECE_BYTES_MIN: usize = 32 << 10;

/// A value; it has the size of a pointer and a length.
#[derive(Clone)]
pub struct Stored(Form);

#[derive(Clone)]
enum Form {
    One(Shared),
    Grown(Arc<Grown>),
}

#[derive(Clone)]
struct Grown {
    len: usize,
    full: Vec<Piece>,
    last: Arc<Vec<u8>>,
}

#[derive(Clone)]
enum Piece {
    First(Shared),
    Full(Arc<Vec<u8>>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::First(bytes) => bytes,
            Piece::Full(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Piece::First(bytes) => Arc::make_mut(bytes),
            Piece::Full(bytes) => Arc::make_mut(bytes).as_mut_slice(),
        }
    }
}

impl Grown {
    /// Overwrites the bytes from `offset` on; all of them exist.
    fn overwrite(&mut self, offset: usize, part: &[u8]) {
        let (mut from, mut rest) = (0, part);
        for piece in &mut self.full {
            let to = from + piece.bytes().len();
            let at = offset + part.len() - rest.len();
            if !rest.is_empty() && at < to {
                let (here, later) = rest.split_at(rest.len().min(to - at));
                piece.bytes_mut()[at - from..][..here.len()].copy_from_slice(here);
                rest = later;
            }
            from = to;
        }
        if !rest.is_empty() {
            let at = offset + part.len() - rest.len() - from;
            Arc::make_mut(&mut self.last)[at..][..rest.len()].copy_from_slice(rest);
        }
    }
}

impl From<&[u8]> for Stored {
    fn from(bytes: &[u8]) -> Stored {
        Stored(Form::One(bytes.into()))
    }
}

impl Stored {
    /// Total length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::One(bytes) => bytes.len(),
            Form::Grown(grown) => grown.len,
        }
    }

    /// Returns the pieces in order; a value that was never appended to has one piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (one, grown) = match &self.0 {
            Form::One(bytes) => (Some(&**bytes), None),
            Form::Grown(grown) => (None, Some(grown)),
        };
        let grown = grown
            .into_iter()
            .flat_map(|grown| grown.full.iter().map(Piece::bytes).chain(std::iter::once(grown.last.as_slice())));
        one.into_iter().chain(grown)
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.pieces().for_each(|piece| all.extend_from_slice(piece));
        all
    }

    /// Whether the value equals these bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.len() == bytes.len()
            && self.pieces().all(|piece| {
                let (head, tail) = rest.split_at(piece.len());
                rest = tail;
                head == piece
            })
    }

    /// Returns the bytes if the value has at most [`ONE_PIECE_BYTES_MAX`] (V2).
    pub fn short(&self) -> Option<&[u8]> {
        match &self.0 {
            Form::One(bytes) if bytes.len() <= ONE_PIECE_BYTES_MAX => Some(bytes),
            _ => None,
        }
    }

    /// Overwrites the value from byte `offset` on, after zeros if it is shorter; copies of this value stay unchanged.
    /// Pieces that they share are copied, once.
    pub fn overwrite(&mut self, offset: usize, part: &[u8]) {
        let padding = offset.saturating_sub(self.len());
        self.append(&vec![0; padding]);
        let (within, beyond) = part.split_at(part.len().min(self.len() - offset));
        if let Form::Grown(grown) = &mut self.0 {
            Arc::make_mut(grown).overwrite(offset, within);
        } else if let Form::One(bytes) = &mut self.0
            && !within.is_empty()
        {
            Arc::make_mut(bytes)[offset..offset + within.len()].copy_from_slice(within);
        }
        self.append(beyond);
    }

    /// Returns the bytes in this range, which must be within the value.
    pub fn part(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        let (mut all, mut from) = (Vec::with_capacity(range.len()), 0);
        for piece in self.pieces() {
            let to = from + piece.len();
            if from < range.end && to > range.start {
                all.extend_from_slice(&piece[range.start.max(from) - from..range.end.min(to) - from]);
            }
            from = to;
        }
        all
    }

    /// Appends bytes; copies of this value stay unchanged.
    pub fn append(&mut self, more: &[u8]) {
        if more.is_empty() {
            return;
        }
        let len = self.len() + more.len();
        if let Form::One(bytes) = &self.0 {
            if len <= ONE_PIECE_BYTES_MAX {
                let mut all = Vec::with_capacity(len);
                all.extend_from_slice(bytes);
                all.extend_from_slice(more);
                self.0 = Form::One(all.into());
                return;
            }
            let full = vec![Piece::First(Arc::clone(bytes))];
            self.0 = Form::Grown(Arc::new(Grown { len, full, last: Arc::default() }));
        }
        if let Form::Grown(grown) = &mut self.0 {
            let grown = Arc::make_mut(grown);
            grown.len = len;
            let last = Arc::make_mut(&mut grown.last);
            last.extend_from_slice(more);
            if last.len() >= PIECE_BYTES_MIN {
                grown.full.push(Piece::Full(std::mem::take(&mut grown.last)));
            }
        }
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Stored) -> bool {
        match &other.0 {
            Form::One(bytes) => self.is(bytes),
            Form::Grown(_) => self.is(&other.to_vec()),
        }
    }
}

impl Eq for Stored {}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of each piece.
    fn places(value: &Stored) -> Vec<*const u8> {
        value.pieces().map(<[u8]>::as_ptr).collect()
    }

    #[test]
    fn a_value_that_grows_is_the_bytes_that_were_appended() {
        assert_eq!(size_of::<Stored>(), 16);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20 {
            let (mut value, mut model) = (Stored::from(&b""[..]), Vec::new());
            let mut copies = Vec::new();
            while model.len() < 300_000 {
                let size = [1, 100, 5_000, 50_000][rng.usize(0..4)];
                let more = vec![rng.u8(..); rng.usize(0..size)];
                if rng.u8(0..4) == 0 {
                    copies.push((value.clone(), model.clone()));
                }
                value.append(&more);
                model.extend_from_slice(&more);
                assert_eq!(value.len(), model.len());
            }
            copies.push((value, model));
            for (value, model) in copies {
                assert!(value.is(&model) && value == Stored::from(&*model) && Stored::from(&*model) == value);
                assert!(value.to_vec() == model, "a copy has changed");
                let mut other = model.clone();
                if let Some(byte) = other.last_mut() {
                    *byte ^= 1;
                    assert!(!value.is(&other) && value != Stored::from(&*other));
                }
            }
        }
    }

    #[test]
    fn a_value_is_overwritten_across_its_pieces() {
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..40 {
            let (mut value, mut model) = (Stored::from(&b"start"[..]), b"start".to_vec());
            let mut copies = Vec::new();
            for _ in 0..60 {
                let size_max = [2, 300, 40_000][rng.usize(0..3)];
                let part = vec![rng.u8(1..); rng.usize(0..size_max)];
                copies.push((value.clone(), model.clone()));
                if rng.bool() {
                    value.append(&part);
                    model.extend_from_slice(&part);
                } else {
                    let offset = rng.usize(0..model.len() + 100);
                    value.overwrite(offset, &part);
                    model.resize(model.len().max(offset + part.len()).max(offset), 0);
                    model[offset..offset + part.len()].copy_from_slice(&part);
                }
                assert!(value.is(&model) && value.len() == model.len());
                let (one, two) = (rng.usize(0..=model.len()), rng.usize(0..=model.len()));
                let range = one.min(two)..one.max(two);
                assert!(value.part(range.clone()) == model[range]);
            }
            assert!(copies.into_iter().all(|(value, model)| value.is(&model)), "a copy has changed");
        }
    }

    #[test]
    fn a_long_value_is_not_copied_to_append_to_it_whoever_shares_it() {
        let first = Stored::from(&*vec![b'x'; 4 << 20]);
        let mut value = first.clone();
        for _ in 0..100_000 {
            let _copy = value.clone();
            value.append(b"y");
            assert_eq!(places(&value)[0], places(&first)[0], "the first piece is where it was");
        }
        assert_eq!(value.pieces().count(), 1 + 100_000 / PIECE_BYTES_MIN + 1);
        let before = places(&value);
        let copy = value.clone();
        value.append(b"z");
        let after = places(&value);
        let all_but_last = before.len() - 1;
        assert_eq!(before[..all_but_last], after[..all_but_last], "only the last piece may be copied");
        assert_eq!(places(&copy), before);
    }
}
