//! `phalanx status`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &StatusArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
