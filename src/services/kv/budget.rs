//! How much the operations of one command or query may still answer and look at.
//!
//! A client that asks a thousand times for the largest value, or with a pattern that takes minutes, gets errors, not a
//! node without memory or without time. A command is cut off at the same byte and step on every node.
//! Not here: how much that is (`commands.rs`).

use super::commands::{Bytes, LOOK_STEPS, Value};
use super::glob;
use super::key::Key;
use super::op_error::OpError;
use super::stored::Stored;
use super::table::Slot;

/// What one operation answers; `Err` is that of a [`Value::Error`].
pub type Answer = Result<Value, OpError>;

/// What a value costs beside its bytes.
const VALUE_BYTES: usize = 16;

/// What a batch may still do.
pub struct Budget {
    /// Bytes that it may answer.
    pub bytes: usize,
    /// Steps that looking through keys may take.
    pub steps: u64,
    /// What is said when there are none left.
    pub steps_used: OpError,
}

impl Budget {
    /// Takes what one more value of so many bytes needs; refused, the budget stays as it is.
    pub fn spend(&mut self, bytes: usize) -> Result<(), OpError> {
        self.bytes = self.bytes.checked_sub(bytes + VALUE_BYTES).ok_or(OpError::ReplyTooLarge)?;
        Ok(())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Answer {
        self.spend(bytes.len())?;
        Ok(Value::Bytes(Bytes::from(bytes)))
    }

    /// Looks at one key; whether it matches.
    pub fn look(&mut self, key: &Key, pattern: Option<&Bytes>) -> Result<bool, OpError> {
        let steps = self.steps.checked_sub(LOOK_STEPS).ok_or_else(|| self.steps_used.clone())?;
        self.steps = steps;
        pattern
            .map_or(Some(true), |pattern| glob::matches(pattern, key, &mut self.steps))
            .ok_or_else(|| self.steps_used.clone())
    }

    pub fn stored(&mut self, value: &Stored) -> Answer {
        self.spend(value.len())?;
        Ok(Value::Bytes(Bytes::from(value.to_vec())))
    }

    pub fn value(&mut self, slot: Option<&Slot>) -> Answer {
        slot.map_or(Ok(Value::Nil), |slot| self.stored(&slot.value))
    }
}
