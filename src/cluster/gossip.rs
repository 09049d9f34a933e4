//! Heartbeat tables.

use serde::{Deserialize, Serialize};

/// What one node tells another about everyone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {}
