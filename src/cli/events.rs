//! `phalanx events`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct EventsArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &EventsArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
