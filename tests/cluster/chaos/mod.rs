//! Faults on demand.

mod faults;
