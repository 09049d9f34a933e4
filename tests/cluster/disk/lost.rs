//! A majority of the disks is lost for good.

use super::{copy_folder, folder, write};
use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Three of five disks are gone for good: what one of the other two holds goes on as a new cluster, which the former nodes never
/// join with what they had.
#[test]
fn a_survivor_of_a_lost_majority_becomes_a_new_cluster() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let settings = cluster.dir().join("settings.json").to_string_lossy().into_owned();
    let recover = |id: u64, more: &[&str]| -> (Option<i32>, String) {
        let mut command = Command::new(EXE);
        command.args(["recover", "--id", &id.to_string(), "--settings", &settings]).args(more);
        let output = command.current_dir(Path::new(&settings).parent().unwrap()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let refuses = |id: u64, code: i32, why: &str| {
        let (ended, said) = recover(id, &["--yes"]);
        assert!(ended == Some(code) && said.contains(why), "{ended:?}: {said}");
    };
    write(&cluster, "early", 5);
    cluster.kill(4)?;
    write(&cluster, "late", 20);
    let leader = cluster.wait_leader()?;
    cluster.wait_until("node 5 has it all", Duration::from_secs(10), || {
        let end = |id| cluster.status(id).ok().and_then(|s| Some(s.nodes.iter().find(|n| n.id.0 == id)?.applied_index));
        (end(5).is_some() && end(5) >= end(leader)).then_some(())
    })?;
    let former = cluster.status(5)?;
    cluster.kill_all();
    refuses(
        5,
        1,
        "the folders of nodes 1, 2, 3, 4 and 5 are available, which is a majority of the voters: nothing is lost",
    );
    for id in [1, 2, 3] {
        cluster.wipe(id)?;
    }
    refuses(1, 1, "node-1 contains no log of a cluster");
    refuses(4, 1, "node 5 has a newer log");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(folder(&cluster, 5), Some(12345), None).unwrap();
        refuses(5, 1, "belongs to the user with id 12345");
        std::os::unix::fs::chown(folder(&cluster, 5), Some(0), None).unwrap();
    }
    // A log whose identity is lost may be one of those that are missing.
    let aside = folder(&cluster, 4).join("identity.json.aside");
    std::fs::rename(folder(&cluster, 4).join("identity.json"), &aside).unwrap();
    refuses(5, 3, "node-4 holds the log of a node in a cluster, but identity.json is missing");
    std::fs::rename(&aside, folder(&cluster, 4).join("identity.json")).unwrap();
    cluster.spawn(5, &[])?;
    cluster.wait_until("node 5 answers", Duration::from_secs(10), || cluster.status(5).ok())?;
    refuses(5, 3, "is in use by another phalanx process");
    cluster.kill(5)?;
    cluster.spawn(4, &[])?;
    cluster.wait_until("node 4 answers", Duration::from_secs(10), || cluster.status(4).ok())?;
    refuses(5, 1, "node 4, which has");
    cluster.kill(4)?;
    let identity = std::fs::read(folder(&cluster, 5).join("identity.json")).unwrap();
    let (ended, said) = recover(5, &[]);
    assert_eq!(ended, Some(2), "{said}");
    for words in ["nothing was changed", "--id 5 --yes", "are lost", "the voters it knows are 1, 2, 3, 4 and 5"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(std::fs::read(folder(&cluster, 5).join("identity.json")).unwrap(), identity);

    let wal = |dir: &Path| std::fs::read(dir.join("wal/0000000000000001.wal")).unwrap();
    let before = wal(&folder(&cluster, 5));
    let (ended, said) = recover(5, &["--yes"]);
    assert_eq!(ended, Some(0), "{said}");
    refuses(5, 1, "the only voter of its cluster");
    // As a power cut leaves it before the new identity is on disk: it is done again, and the copy is that of the first time.
    std::fs::write(folder(&cluster, 5).join("identity.json"), &identity).unwrap();
    std::fs::remove_file(cluster.config_path()).unwrap();
    let (ended, said) = recover(5, &["--yes"]);
    assert_eq!(ended, Some(0), "{said}");
    let copy = std::fs::read_dir(cluster.data_dir()).unwrap().flatten().map(|row| row.path());
    let copy = copy.into_iter().find(|path| path.to_string_lossy().contains("node-5.former-")).unwrap();
    assert!(wal(&copy) == before && wal(&folder(&cluster, 5)) != before);
    assert_eq!(std::fs::read(copy.join("identity.json.former")).unwrap(), identity);
    cluster.spawn(5, &[])?;
    cluster
        .wait_until("node 5 leads alone", Duration::from_secs(10), || (cluster.leader() == Some(5)).then_some(()))?;
    let now = cluster.status(5)?;
    assert_ne!((now.cluster.id, now.node.uuid), (former.cluster.id, former.node.uuid));
    // The other survivor is of the former cluster: it does not start beside the new one.
    let _ = std::fs::remove_file(cluster.log_path(4));
    cluster.spawn(4, &[])?;
    assert_eq!(cluster.process(4)?.wait(Duration::from_secs(10))?.code(), Some(2), "{}", cluster.log(4));
    assert!(cluster.log(4).contains(&former.cluster.id.unwrap().to_string()), "{}", cluster.log(4));
    // Nor does anything start on the copy of the former state.
    let elsewhere = cluster.dir().join("elsewhere");
    copy_folder(&copy, &elsewhere.join("node-6"));
    cluster.spawn(6, &["--data", &elsewhere.to_string_lossy()])?;
    assert_eq!(cluster.process(6)?.wait(Duration::from_secs(10))?.code(), Some(3), "{}", cluster.log(6));
    assert!(cluster.log(6).contains("identity.json is missing"), "{}", cluster.log(6));

    cluster.wipe(4)?;
    std::fs::remove_dir_all(elsewhere).unwrap();
    for id in [1, 2, 3, 4, 6] {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    for id in 1..=5 {
        assert_eq!(cluster.status(id)?.cluster.id, now.cluster.id);
        let mut keys = web::KeyClient::new(vec![cluster.http(id)]);
        for name in ["early0", "late19"] {
            assert!(keys.read(name, Instant::now() + Duration::from_secs(5))?.is_some(), "{name} at node {id}");
        }
    }
    write(&cluster, "after", 5);
    Ok(())
}
