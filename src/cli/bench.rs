//! `phalanx bench`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &BenchArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
