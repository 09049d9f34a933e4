//! Faults on demand, and the verdict on a cluster that has many.

mod faults;
mod run;
