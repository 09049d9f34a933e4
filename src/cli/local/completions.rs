//! `phalanx completions SHELL`: the completion script for a shell, from the command line's own definition.
//!
//! Not here: installing it; `phalanx completions --help` says how.

use crate::cli::fault::Fault;
use crate::cli::term;
use clap_complete::Shell;

/// Arguments of `phalanx completions`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "For bash: phalanx completions bash > ~/.local/share/bash-completion/completions/phalanx\n\
    For zsh: phalanx completions zsh > a folder of $fpath, as _phalanx\n\
    For fish: phalanx completions fish > ~/.config/fish/completions/phalanx.fish")]
pub struct CompletionsArgs {
    /// The shell to complete in
    shell: Shell,
}

/// Prints the script for the command line that `command` defines.
pub fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "phalanx", &mut script);
    term::out(&String::from_utf8_lossy(&script));
    Ok(())
}
