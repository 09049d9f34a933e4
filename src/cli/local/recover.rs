//! `phalanx recover`: makes a new cluster from the folder of one node after a majority of the voters' disks is lost.
//!
//! It prints what it would do and what may be lost, and does it with `--yes`. Exit codes: 0 done, 1 refused, 2 not
//! confirmed or wrong settings, 3 disk.
//! Not here: what it does and when it refuses to (`node/process/new_cluster.rs`).

use crate::cli::client::settings_fault;
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::node::process::new_cluster::{RecoverError, Survivor, numbers};
use crate::settings::Settings;
use crate::types::NodeId;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `phalanx recover`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Stop all nodes first. Choose the folder whose log ends last (the highest term, then the highest \
        index): without --yes this command shows where the log ends.\nExit codes: 0 done, 1 refused, 2 not confirmed, \
        3 disk error."
)]
pub struct RecoverArgs {
    /// Id of the node whose folder survived
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NodeId::MAX))]
    pub id: u64,
    /// Settings file [default: settings.json in the current directory, if there is one]
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Data folder (setting `data_dir`)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Confirm that the other voters' disks are lost and that their nodes will never run again
    #[arg(long)]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what recovery would do, and does it if confirmed.
pub fn run(args: &RecoverArgs) -> Result<(), Fault> {
    let flags: Vec<_> = args.data.iter().map(|data| ("data_dir".to_string(), data.display().to_string())).collect();
    let (settings, _) =
        Settings::from_process(args.settings.as_deref(), &flags).map_err(|faults| settings_fault(&faults))?;
    let survivor = Survivor::examine(&settings, NodeId(args.id)).map_err(refused)?;
    let (id, former, copy) = (args.id, survivor.cluster, survivor.copy.display().to_string());
    let plan = plan(&survivor);
    if !args.yes {
        if !args.json {
            term::out(&plan);
        }
        let next = format!("to continue, run `phalanx recover --id {id} --yes`");
        return Err(Fault::new(code::USAGE, "not confirmed: nothing was changed", next));
    }
    let cluster = survivor.recover().map_err(refused)?;
    match args.json {
        true => term::json(&json!({"node": id, "cluster": cluster, "former_cluster": former, "copy": copy})),
        false => {
            term::line(&format!(
                "node {id} is now the only voter of the new cluster {cluster}; its former state is in {copy}"
            ));
            term::line(&format!(
                "start it: phalanx node --id {id}; then start the others with empty folders: they join it"
            ));
        }
    }
    Ok(())
}

fn plan(survivor: &Survivor) -> String {
    let (id, (term, index)) = (survivor.me.id.0, survivor.end);
    let voters = numbers(survivor.membership.voters.keys().copied());
    let others = numbers(survivor.others().into_iter().map(|who| who.id));
    let corrupt = match survivor.is_corrupt {
        true => "  WARNING  its state differed from the majority's: its data may be wrong\n",
        false => "",
    };
    format!(
        "node {id} of cluster {}: its log ends at entry {index} of term {term}; the voters it knows are {voters}\n{corrupt}\
         With --yes\n  \
         - node {id} becomes the only voter of a new cluster with everything in this log, including writes that were never\n    \
         acknowledged;\n  \
         - acknowledged writes that are not in this log, but only on other nodes, are lost;\n  \
         - the former state is copied to {}, from which no node starts.\n\
         The former nodes {others} must never run again with their data: give them empty folders, and they join the \
         new cluster.\n",
        survivor.cluster,
        survivor.copy.display(),
    )
}

fn refused(e: RecoverError) -> Fault {
    match e {
        RecoverError::Store(e) => Fault::new(code::DISK, e, ""),
        RecoverError::Copy { .. } => {
            Fault::new(code::DISK, e, "make room, or move that folder away; nothing was changed")
        }
        e => Fault::failed(e),
    }
}
