//! How nodes find, watch and rank each other.

pub mod gossip;
