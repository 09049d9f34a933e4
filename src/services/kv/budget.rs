//! The remaining budget of one command or query: bytes of its reply, steps of its searches, bytes of its copies.
//!
//! It protects the node from a client that requests or copies the largest value a thousand times, or uses a pattern
//! that takes minutes: such operations fail. They fail at the same byte and step on every node.
//! Not here: the size of the budget (`commands.rs`).

use super::commands::{Bytes, EXAMINE_STEPS, Value};
use super::glob;
use super::op_error::OpError;
use super::state::key::Key;
use super::state::stored::Stored;
use super::state::table::Slot;

/// Result of one operation; an `Err` is sent as [`Value::Error`].
pub type Answer = Result<Value, OpError>;

/// Overhead of a value in a reply, in bytes.
const VALUE_BYTES: usize = 16;

/// The remaining budget of a batch.
pub struct Budget {
    /// Remaining bytes of the reply.
    pub bytes: usize,
    /// Remaining steps of searching through keys.
    pub steps: u64,
    /// The error when no steps are left.
    pub out_of_steps: OpError,
    /// Remaining bytes that may be added beyond what the batch contains.
    pub growth: usize,
}

impl Budget {
    /// Deducts a value of this many bytes.
    ///
    /// # Errors
    /// Returns [`OpError::ReplyTooLarge`] if the budget is too small; it is then unchanged.
    pub fn spend(&mut self, bytes: usize) -> Result<(), OpError> {
        self.bytes = self.bytes.checked_sub(bytes + VALUE_BYTES).ok_or(OpError::ReplyTooLarge)?;
        Ok(())
    }

    /// Deducts bytes that are added beyond what the batch contains.
    ///
    /// # Errors
    /// Returns [`OpError::EntryGrowth`] if too few are left.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OpError> {
        self.growth = self.growth.checked_sub(bytes).ok_or(OpError::EntryGrowth)?;
        Ok(())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Answer {
        self.spend(bytes.len())?;
        Ok(Value::Bytes(Bytes::from(bytes)))
    }

    /// Deducts the steps of examining one key; returns whether it matches the pattern.
    ///
    /// # Errors
    /// Returns `out_of_steps` if too few steps are left.
    pub fn examine(&mut self, key: &Key, pattern: Option<&Bytes>) -> Result<bool, OpError> {
        let steps = self.steps.checked_sub(EXAMINE_STEPS).ok_or_else(|| self.out_of_steps.clone())?;
        self.steps = steps;
        pattern
            .map_or(Some(true), |pattern| glob::matches(pattern, key, &mut self.steps))
            .ok_or_else(|| self.out_of_steps.clone())
    }

    pub fn stored(&mut self, value: &Stored) -> Answer {
        self.spend(value.len())?;
        Ok(Value::Bytes(Bytes::from(value.to_vec())))
    }

    pub fn value(&mut self, slot: Option<&Slot>) -> Answer {
        slot.map_or(Ok(Value::Nil), |slot| self.stored(&slot.value))
    }
}
