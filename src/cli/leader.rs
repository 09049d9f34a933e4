//! `phalanx leader`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaderArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &LeaderArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
