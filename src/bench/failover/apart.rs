//! Parts that need hosts of their own: this program runs itself within namespaces for each, and reads its figures.
//!
//! Not here: what is measured there (`several_hosts.rs`), the namespaces (`lab/hosts/namespaces.rs`).

use super::figure::Figure;
use super::part::{LinkKind, Options, Part};
use crate::lab::folders::Folder;
use crate::lab::hosts::namespaces;
use crate::lab::ports::Block;
use crate::lab::process::Process;
use crate::lab::{LabError, Result, poll};
use crate::progress::Progress;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// How often the lines of the other program are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the other program prints.
#[derive(Deserialize)]
struct Printed {
    figures: Vec<Figure>,
}

/// Measures a part within namespaces.
///
/// # Errors
/// The other program fails: its folder is kept, and its lines have been shown.
pub(crate) fn measure(
    exe: &Path,
    part: Part,
    rounds: usize,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Figure>> {
    // It has locks of its own in a folder for temporary files of its own, so this program takes the turn for it, and
    // removes that folder if it is told to end.
    let _turn = Block::take()?;
    let mut folder = Folder::make("phalanx-lab-")?;
    let (log, found) = (folder.path().join("bench.log"), folder.path().join("figures.json"));
    let name = part.name();
    let links: Vec<String> = options.links.iter().map(LinkKind::to_string).collect();
    let (rounds, writes) = (rounds.to_string(), options.writes.to_string());
    let exe = exe.to_string_lossy();
    let words = ["sh", "-c", "exec \"$0\" \"$@\" >\"$FIGURES\"", &exe, "bench", "failover", "--json", "--only", &name];
    let more = ["--rounds", &rounds, "--links", &links.join(","), "--writes", &writes];
    let mut command = namespaces::within(&[&words[..], &more[..]].concat());
    command.env("TMPDIR", folder.path()).env("FIGURES", &found);
    let mut process = Process::start(&mut command, &log)?;
    let mut shown = 0;
    let ended = loop {
        let ended = process.exited();
        let output = process.output();
        // Of a line that is being written the rest is still to come.
        let lines: Vec<&str> = output.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        lines.iter().skip(shown).for_each(|line| progress.print_line(line.trim_end()));
        shown = lines.len();
        match ended {
            Some(status) => break status,
            None => poll::pause(LOOK_EVERY),
        }
    };
    let text = std::fs::read(&found).unwrap_or_default();
    match serde_json::from_slice::<Printed>(&text) {
        Ok(printed) if ended.success() => Ok(printed.figures),
        result => {
            folder.keep();
            let why = result.err().map_or(String::new(), |e| format!(", its figures: {e}"));
            Err(LabError::Answer(format!("{name} failed in {}: {ended}{why}", folder.path().display())))
        }
    }
}
