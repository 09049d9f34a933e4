//! After a failed write or sync it is unknown what is on disk, so nothing is written any more, by any thread of this
//! module.
//!
//! A full disk while a snapshot is written beside the log is not such a failure, because only a temporary file is lost;
//! neither is an invalid transfer. Not here: ending the process with exit code 3 (`node/`).

use super::error::StoreError;
use std::sync::{Arc, OnceLock};

/// The first failure, shared by the store and its snapshot handles.
#[derive(Clone, Default)]
pub struct Poison(Arc<OnceLock<String>>);

impl Poison {
    /// Returns [`StoreError::Poisoned`] if a write or sync failed before.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.0.get() {
            Some(why) => Err(StoreError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Records a failure permanently; only the first one is kept.
    pub fn set(&self, why: &StoreError) {
        self.0.get_or_init(|| why.to_string());
    }

    /// Runs an operation beside the log unless something failed before.
    pub fn guard<T>(&self, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        let result = run();
        if let Err(e) = &result
            && !matches!(e, StoreError::NoSpace { .. } | StoreError::Transfer(_))
        {
            self.set(e);
        }
        result
    }
}
