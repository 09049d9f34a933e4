//! What consensus keeps account of: members, quorums, followers, promises and what waits for the disk.

pub mod durability;
pub mod membership;
pub mod progress;
pub mod promise;
