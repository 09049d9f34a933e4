//! `phalanx log dump|verify DIR`: what a node's log on disk contains, and whether it is intact.
//!
//! Both read without changing a byte and work beside a running node. `dump` prints a line per record; `verify` checks
//! every record and snapshot and says what a start would do. Exit codes: 0 intact, 3 damaged or unreadable, 2 not a
//! node's folder.
//! Not here: reading (`store/inspect.rs`).

use crate::cli::fault::{Fault, code};
use crate::raft::{Entry, HardState, Membership, Payload};
use crate::store::error::StoreError;
use crate::store::inspect::{self, InspectedRecord, Summary};
use crate::store::wal::record::Record;
use crate::store::{self, RealFiles};
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a command that are printed; JSON has its length only.
const SHOWN_BYTES: usize = 48;

/// Arguments of `phalanx log`.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

/// What to do with the log.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LogCommand {
    /// Print every record
    Dump {
        /// Data folder of one node, such as data/node-1
        dir: PathBuf,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Verify every record; exit code 3 if the log is damaged
    Verify {
        /// Data folder of one node, such as data/node-1
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs it; returns the exit code.
pub fn run(args: LogArgs) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    let answer = match args.command {
        LogCommand::Dump { dir, json } => dump(&dir, json, &mut out),
        LogCommand::Verify { dir, json } => verify(&dir, json, &mut out),
    };
    match answer.and_then(|code| out.flush().map(|()| code).map_err(printing)) {
        Ok(code) => code,
        Err(fault) => fault.report(),
    }
}

/// Prints every record; returns the exit code.
pub fn dump(dir: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Fault> {
    let mut printed = Ok(());
    let summary = read_log(dir, |seen| {
        if printed.is_ok() {
            printed = match json {
                true => writeln!(out, "{}", record_json(&seen)),
                false => writeln!(out, "{}", record_line(&seen)),
            };
        }
    })?;
    match printed {
        // The reader of a pipe may stop early: `phalanx log dump ... | head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        printed => printed.map_err(printing)?,
    }
    for damage in &summary.damage {
        eprintln!("error: {damage}");
    }
    Ok(if summary.damage.is_empty() { 0 } else { code::DISK })
}

/// Checks everything and prints what a start would do; returns the exit code.
pub fn verify(dir: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Fault> {
    let summary = read_log(dir, |_| {})?;
    let is_running = store::folder_lock::is_in_use(dir);
    match json {
        true => writeln!(out, "{}", summary_json(&summary, is_running)),
        false => write!(out, "{}", summary_text(&summary, is_running)),
    }
    .map_err(printing)?;
    Ok(if summary.damage.is_empty() { 0 } else { code::DISK })
}

fn read_log(dir: &Path, each: impl FnMut(InspectedRecord<'_>)) -> Result<Summary, Fault> {
    if !dir.join(store::WAL_DIR).is_dir() {
        let message = format!("{} does not contain the log of a node", dir.display());
        return Err(Fault::new(code::USAGE, message, "give the data folder of one node, such as data/node-1"));
    }
    inspect::inspect(Arc::new(RealFiles), dir, each).map_err(|e| Fault::new(code::DISK, e, ""))
}

fn printing(e: io::Error) -> Fault {
    Fault::failed(format!("cannot write the output: {e}"))
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn record_line(seen: &InspectedRecord<'_>) -> String {
    let what = match seen.record {
        Record::Header(header) => {
            let (index, term) = header.last;
            format!(
                "header      segment={} after={index} of_term={term} {}",
                header.segment,
                hard_state(&header.hard_state)
            )
        }
        Record::HardState(state) => format!("hard state  {}", hard_state(state)),
        Record::Install(meta) => format!("install     snapshot index={} term={}", meta.index, meta.term),
        Record::Entry(entry) => format!("entry       index={} term={} {}", entry.index, entry.term, payload(entry)),
        Record::Seal => "seal        everything above is on disk".to_string(),
        #[cfg(any(test, feature = "planted-bugs"))]
        Record::Vote(vote) => format!("vote {vote:?}"),
    };
    let batch = seen.at.synced_below();
    format!("{} +{:<9} #{:<8} batch {batch:<8} {what}", name(seen.file), seen.offset, seen.at.sequence)
}

fn hard_state(state: &HardState) -> String {
    format!("term={} vote={}", state.term, state.vote.map_or("none".to_string(), |who| who.id.to_string()))
}

fn payload(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Noop => "noop".to_string(),
        Payload::Command(bytes) => {
            let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
            let more = if shown.len() < bytes.len() { "..." } else { "" };
            format!("command {} bytes \"{}\"{more}", bytes.len(), shown.escape_ascii())
        }
        Payload::Membership(membership) => {
            let Membership { voters, learners } = &**membership;
            format!("membership voters={:?} learners={:?}", voters.keys(), learners.keys())
        }
    }
}

fn record_json(seen: &InspectedRecord<'_>) -> Value {
    let mut line = match seen.record {
        Record::Header(header) => json!({"kind": "header", "segment": header.segment, "hard_state": header.hard_state,
            "after_index": header.last.0, "after_term": header.last.1}),
        Record::HardState(state) => json!({"kind": "hard_state", "hard_state": state}),
        Record::Install(meta) => json!({"kind": "install", "snapshot": meta}),
        Record::Entry(entry) => entry_json(entry),
        Record::Seal => json!({"kind": "seal"}),
        #[cfg(any(test, feature = "planted-bugs"))]
        Record::Vote(vote) => json!({"kind": "vote", "vote": vote}),
    };
    line["file"] = name(seen.file).into();
    line["offset"] = seen.offset.into();
    line["sequence"] = seen.at.sequence.into();
    line["synced_below"] = seen.at.synced_below().into();
    line
}

fn entry_json(entry: &Entry) -> Value {
    let mut line = json!({"kind": "entry", "index": entry.index, "term": entry.term});
    match &entry.payload {
        Payload::Noop => line["payload"] = "noop".into(),
        Payload::Command(bytes) => {
            line["payload"] = "command".into();
            line["bytes"] = bytes.len().into();
        }
        Payload::Membership(membership) => {
            line["payload"] = "membership".into();
            line["membership"] = json!(**membership);
        }
    }
    line
}

fn summary_text(summary: &Summary, is_running: bool) -> String {
    let Summary { segments, records, hard_state, entries, snapshots, torn, damage } = summary;
    let mut lines = vec![
        format!("log        {segments} segments, {records} records, {}", self::hard_state(hard_state)),
        match entries {
            Some((first, last)) => format!("entries    {first} to {last}"),
            None => "entries    none after the snapshot".to_string(),
        },
        match snapshots.last() {
            Some(meta) => format!("snapshot   covers up to {} of term {}", meta.index, meta.term),
            None => "snapshot   none".to_string(),
        },
    ];
    if let Some(torn) = torn {
        lines.push(format!("torn tail  {torn}; the node truncates it when it starts"));
    }
    if is_running {
        lines.push("note       a node is running in this folder: the end of its log may be incomplete".to_string());
    }
    match &damage[..] {
        [] => lines.push("result     intact".to_string()),
        damage => lines.extend(damage.iter().map(|e| format!("result     {e}"))),
    }
    lines.join("\n") + "\n"
}

fn summary_json(summary: &Summary, is_running: bool) -> Value {
    let damage: Vec<Value> = summary.damage.iter().map(damage_json).collect();
    let torn = summary
        .torn
        .as_ref()
        .map(|torn| json!({"file": torn.file, "offset": torn.offset, "bytes": torn.bytes, "why": torn.why}));
    json!({
        "is_whole": damage.is_empty(),
        "is_running": is_running,
        "segments": summary.segments,
        "records": summary.records,
        "hard_state": summary.hard_state,
        "first_index": summary.entries.map(|(first, _)| first),
        "last_index": summary.entries.map(|(_, last)| last),
        "snapshot": summary.snapshots.last(),
        "torn_tail": torn,
        "damage": damage,
    })
}

fn damage_json(error: &StoreError) -> Value {
    let message = error.to_string();
    match error {
        StoreError::Damaged { file, offset, why, .. } => {
            json!({"file": file, "offset": offset, "why": why, "message": message})
        }
        _ => json!({"message": message}),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::local::log::*;
    use crate::raft::{Persist, bootstrap_state};
    use crate::store::{Options, Store};
    use crate::types::{Identity, Index, NodeId, Term};
    use uuid::Uuid;

    fn print(run: impl FnOnce(&mut dyn Write) -> Result<u8, Fault>) -> (u8, String) {
        let mut out = Vec::new();
        let code = run(&mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_folder_is_printed_and_verified() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("node-7");
        assert_eq!(verify(&dir, false, &mut Vec::new()).unwrap_err().code, code::USAGE);
        let (mut store, _) = Store::open(Arc::new(RealFiles), &dir, Options::default()).unwrap();
        let durable = bootstrap_state(Identity { id: NodeId(7), uuid: Uuid::from_u128(1) });
        let mut entries = durable.entries;
        let command = Payload::Command(Arc::from(&b"set \xff"[..]));
        entries.push(Entry { index: Index(2), term: Term(1), payload: command });
        store.write(&Persist { hard_state: Some(durable.hard_state), entries, ..Persist::default() }).unwrap();
        store.sync().unwrap();

        let (code, text) = print(|out| dump(&dir, false, out));
        assert_eq!((code, text.lines().count()), (0, 5), "{text}");
        assert!(text.contains("entry       index=2 term=1 command 5 bytes \"set \\xff\""), "{text}");
        assert!(text.contains("membership voters=[n7] learners=[]"), "{text}");
        let (_, text) = print(|out| dump(&dir, true, out));
        let kinds: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
        assert_eq!(kinds, ["header", "hard_state", "entry", "entry", "seal"]);
        let (code, text) = print(|out| verify(&dir, false, out));
        assert_eq!(code, 0);
        assert!(text.contains("entries    1 to 2") && text.ends_with("result     intact\n"), "{text}");

        let path = dir.join("wal/0000000000000001.wal");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (code, text) = print(|out| verify(&dir, true, out));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &report["is_whole"]), (code::DISK, &Value::Bool(false)));
        assert!(report["damage"][0]["message"].as_str().unwrap().contains("--id 7 --rejoin"), "{report}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "looking must not repair");
    }
}
