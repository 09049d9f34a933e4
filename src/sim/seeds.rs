//! Seeds that once found a bug: run first, for ever.

/// Seeds whose run broke a rule before the bug behind it was fixed; each with what it was.
pub const REGRESSIONS: &[(u64, &str)] = &[];
