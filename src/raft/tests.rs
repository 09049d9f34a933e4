//! Golden scripts: a small cluster without I/O.
