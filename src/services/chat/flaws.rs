//! Known mistakes of the chat, each behind a switch that exists in tests alone: the simulator must find every one.
//!
//! The code asks `flaw!(self, name)`, which is the constant `false` outside tests. No switch is part of a snapshot.

/// One switch per planted bug; all off by default.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A message that is sent again under its client's id is delivered again.
    pub repeats_are_delivered: bool,
    /// The number of a message is that of the newest which is kept, plus one: an erased end gives its number to the next.
    pub numbers_are_counted: bool,
    /// The snapshot forgets how far everybody has read.
    pub read_marks_are_not_saved: bool,
}

/// Whether a test switched this planted bug on.
macro_rules! flaw {
    ($chat:expr, $name:ident) => {{
        #[cfg(test)]
        let is_on = $chat.flaws.$name;
        #[cfg(not(test))]
        let is_on = false;
        is_on
    }};
}
pub(crate) use flaw;
