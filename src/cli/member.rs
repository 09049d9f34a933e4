//! `phalanx member`.

use super::fault::Fault;

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct MemberArgs {
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Runs it.
pub fn run(_args: &MemberArgs) -> Result<(), Fault> {
    Err(Fault::new(1, "not built yet", ""))
}
