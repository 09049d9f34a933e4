//! `phalanx demo`: demonstrations on this machine with processes of their own, whose results are checked.
//!
//! Exit codes: 0 if all results are correct, 1 otherwise. Not here: the demonstrations (`demo/jobs.rs`,
//! `demo/chat.rs`).

use super::{lab_fault, own_program};
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour};
use crate::demo::jobs::Account;
use crate::demo::{chat, jobs};
use crate::lab::folders::clean_up_on_signals;

/// Arguments of `phalanx demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    #[command(subcommand)]
    command: DemoCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum DemoCommand {
    /// Jobs: seven nodes and a gateway compile and run programs while nodes and the leader are killed
    Jobs,
    /// Chat: three users send messages while the leader, another node and then all nodes are killed; compares all
    /// inboxes
    Chat,
}

pub fn run(args: &DemoArgs) -> Result<(), Fault> {
    let exe = own_program()?;
    clean_up_on_signals();
    let (played, result) = match args.command {
        DemoCommand::Jobs => {
            (jobs::play(exe, &mut term::line), "Every request was answered, correctly and exactly once.")
        }
        DemoCommand::Chat => {
            (chat::play(exe, &mut term::line), "Every inbox is complete, in order and without duplicates.")
        }
    };
    conclude(&played.map_err(lab_fault)?, result)
}

/// Prints the result; an error if any fault was found.
fn conclude(account: &Account, result: &str) -> Result<(), Fault> {
    if account.faults.is_empty() {
        term::line(&format!("\n{} {result}", term::paint("RESULT: passed.", Colour::Green)));
        return Ok(());
    }
    term::line(&format!("\n{}", term::paint("RESULT: failed.", Colour::Red)));
    for fault in &account.faults {
        term::line(&format!("  {fault}"));
    }
    Err(Fault::new(code::FAILED, "the demo failed", format!("the nodes' logs are in {}", account.folder.display())))
}

#[cfg(test)]
mod tests {
    use crate::cli::lab::demo::*;

    #[test]
    fn one_fault_is_enough_to_fail() {
        let mut account = Account { faults: Vec::new(), folder: "/nowhere".into() };
        assert!(conclude(&account, "Fine.").is_ok());
        account.faults.push("bob's stream: missing: 3 in 2, \"hello\"".to_string());
        assert_eq!(conclude(&account, "Fine.").unwrap_err().code, code::FAILED);
    }
}
