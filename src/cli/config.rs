//! `phalanx config show|validate`: what the settings are and where each value comes from.

use std::path::PathBuf;

/// Arguments of `phalanx config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

/// What to do with the settings.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print each setting, its value and where that comes from
    Show {
        /// Settings file
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check a settings file; all faults are reported at once
    Validate {
        /// Settings file
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs it; the exit code.
pub fn run(_args: ConfigArgs) -> u8 {
    eprintln!("error: this part of the house is under construction");
    1
}
