//! Whose folder this is.
