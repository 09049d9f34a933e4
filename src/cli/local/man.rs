//! `phalanx man [COMMAND...]`: the manual page of a command, from the command line's own definition.
//!
//! Not here: installing it; `phalanx man --help` says how.

use crate::cli::fault::{Fault, code};
use crate::cli::term;
use clap_mangen::Man;

/// Arguments of `phalanx man`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "To read: phalanx man kv put | man -l -\n\
    To install: phalanx man > ~/.local/share/man/man1/phalanx.1")]
pub struct ManArgs {
    /// The command, without `phalanx` [default: phalanx itself]
    #[arg(value_name = "COMMAND")]
    path: Vec<String>,
}

/// Prints the page of the command line that `command` defines, or of one of its subcommands.
pub fn run(args: &ManArgs, mut command: clap::Command) -> Result<(), Fault> {
    command.build();
    for name in &args.path {
        let found = command.find_subcommand(name).cloned();
        let why = || Fault::new(code::USAGE, format!("no command {name:?}"), "`phalanx --help` lists them");
        command = found.ok_or_else(why)?;
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).expect("a Vec takes all");
    term::out(&String::from_utf8_lossy(&page));
    Ok(())
}
