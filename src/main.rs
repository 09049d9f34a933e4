//! The binary: subcommands to exit code (`cli/`).

fn main() {}
