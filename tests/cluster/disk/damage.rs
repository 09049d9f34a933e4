//! Files that were cut short.

use super::{copy_folder, folder, put_back, write};
use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whatever file of a folder is cut short: the node works, or says what is wrong and what to do. It never panics.
#[test]
fn no_empty_or_half_file_makes_a_node_panic_or_lose_what_it_has() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000, "snapshot_every_entries": 10}))?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    let table = json!(["CREATE TABLE t (a)", "INSERT INTO t VALUES(1)"]);
    assert_eq!(cluster.post(leader, "/db/execute", &table)?.status, 200);
    write(&cluster, "note", 20);
    let own = folder(&cluster, victim);
    let has_snapshot = || {
        let files = files_below(&own, &own);
        files.iter().any(|file| file.extension().is_some_and(|kind| kind == "snap")).then_some(())
    };
    cluster.wait_until("there is a snapshot", Duration::from_secs(10), has_snapshot)?;
    cluster.kill(victim)?;
    let copy = cluster.dir().join("copy");
    copy_folder(&folder(&cluster, victim), &copy);
    let mut seen = Vec::new();
    // Only a node that knows that its state differs has this one.
    let mark = PathBuf::from("integrity.json");
    for file in files_below(&copy, &copy).into_iter().chain([mark.clone()]) {
        for part in [0, 2] {
            // What nodes write about starts and failures makes the copy of before an older state: a node that is put back
            // to it joins again under a new identity, and what it has then is whole and the newest.
            put_back(&mut cluster, victim, &copy);
            cluster.spawn(victim, &[])?;
            let is_ready =
                || web::get(&cluster.http(victim), "/readyz", Duration::from_secs(1)).ok().filter(|r| r.status == 200);
            cluster.wait_until("it works again", Duration::from_secs(20), is_ready)?;
            cluster.wait_until("it has saved a snapshot, or received one", Duration::from_secs(20), has_snapshot)?;
            let uuid = cluster.status(victim)?.node.uuid;
            cluster.kill(victim)?;
            std::fs::remove_dir_all(&copy).unwrap();
            copy_folder(&folder(&cluster, victim), &copy);
            let path = folder(&cluster, victim).join(&file);
            if file == mark {
                let whole = json!({"uuid": uuid, "kind": "corrupt", "index": 7, "parts": [2]});
                std::fs::write(&path, whole.to_string()).unwrap();
            }
            // A snapshot has another name by now.
            let path = if path.exists() {
                path
            } else {
                let mut files = files_below(&copy, &copy).into_iter();
                let same_kind = files.find(|other| other.extension() == file.extension());
                folder(&cluster, victim).join(same_kind.expect("there is a snapshot"))
            };
            let bytes = std::fs::metadata(&path).map_err(phalanx::lab::LabError::io("look at a file"))?.len();
            let length = bytes.checked_div(part).unwrap_or(0);
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            let _ = std::fs::remove_file(cluster.log_path(victim));
            cluster.spawn(victim, &[])?;
            let how = cluster.wait_explained("it works or refuses", Duration::from_secs(20), || {
                if file == mark {
                    // It heals at the next checkpoint, which would come by itself a little later.
                    let _ = cluster.post(leader, "/v1/digests", &json!({}));
                }
                if let Ok(status) = cluster.status(victim)
                    && status.cluster.leader.is_some()
                    && web::get(&cluster.http(victim), "/readyz", Duration::from_secs(1)).is_ok_and(|r| r.status == 200)
                {
                    return Ok("works");
                }
                let log = cluster.log(victim);
                if log.contains("error: ") { Ok("refuses") } else { Err(format!("{}: {log}", file.display())) }
            })?;
            let log = cluster.log(victim);
            assert!(!log.contains("panicked"), "{} cut to {length}: {log}", file.display());
            if how == "refuses" {
                assert!(log.contains("--rejoin"), "{} cut to {length}: no way out is named: {log}", file.display());
            }
            seen.push(format!("{} cut to {length} of {bytes}: {how}", file.display()));
            match how {
                "refuses" => _ = cluster.process(victim)?.wait(Duration::from_secs(10))?,
                _ => {
                    // What the file lost was acknowledged, and the node has joined again: the copy is of a node that is
                    // no longer a member.
                    let is_another = cluster.status(victim)?.node.uuid != uuid;
                    cluster.kill(victim)?;
                    if is_another {
                        std::fs::remove_dir_all(&copy).unwrap();
                        copy_folder(&folder(&cluster, victim), &copy);
                    }
                }
            }
        }
    }
    eprintln!("{}", seen.join("\n"));
    for kind in [".snap", "integrity.json", "identity.json", "sql/"] {
        assert!(seen.iter().any(|line| line.contains(kind)), "no file like {kind} was cut: {seen:?}");
    }
    // Nothing was lost on the way.
    cluster.spawn(victim, &["--rejoin"])?;
    cluster.settle()?;
    let mut keys = web::KeyClient::new(vec![cluster.http(victim)]);
    assert_eq!(keys.read("note19", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

/// Files that a restart reads, below a folder.
fn files_below(root: &Path, at: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(at).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(root, &entry.path())),
            false => found.push(entry.path().strip_prefix(root).unwrap().to_path_buf()),
        }
    }
    found.sort();
    found
}
