//! `phalanx dev`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &DevArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
