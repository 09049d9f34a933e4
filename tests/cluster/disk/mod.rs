//! A disk that fills up, a folder that is put back to an older copy, files that were cut short: the cluster goes on, and the
//! node says what is wrong.

use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use phalanx::node::views::status::Health;
use phalanx::raft::Role;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A small file system of its own, where the system lets us mount one (as root); unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).ok()?;
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "phalanx-lab"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(SmallDisk(at))
    }

    fn fill(&self, bytes: usize) {
        std::fs::write(self.0.join("ballast"), vec![0u8; bytes]).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output(); // the folder goes with the cluster
    }
}

#[test]
fn a_node_whose_disk_fills_up_hands_over_and_comes_back_when_there_is_room() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"disk_reserve_mb": 64, "snapshot_every_mb": 4}))?;
    let Some(disk) = SmallDisk::mount(cluster.dir().join("small"), "256m") else {
        eprintln!("no right to mount a small file system; the next test injects the fault instead");
        return Ok(());
    };
    let data = disk.0.join("data").to_string_lossy().into_owned();
    for id in 1..=3 {
        let more: &[&str] = if id == 3 { &["--data", &data] } else { &[] };
        cluster.spawn(id, more)?;
    }
    cluster.settle()?;
    if cluster.leader() != Some(3) {
        cluster.post(3, "/v1/leader/transfer", &json!({"to": 3}))?;
        cluster.wait_until("node 3 leads", Duration::from_secs(5), || (cluster.leader() == Some(3)).then_some(()))?;
    }
    cluster.put("before", "x")?;
    disk.fill(200 << 20);
    let new = cluster.wait_other_leader(3)?;
    cluster.put("while-full", "y")?;
    // Its own reads go on.
    let read = cluster.get(3, "/v1/kv/before?level=eventual")?;
    assert_eq!((read.status, read.text()), (200, "x".to_string()));
    assert!(cluster.is_running(3), "a full disk is no reason to die");
    let refused = cluster.post(new, "/v1/leader/transfer", &json!({"to": 3}))?;
    assert_ne!(cluster.leader(), Some(3), "a node without room must not lead: {}", refused.text());
    disk.empty();
    cluster.settle()?;
    let mut at_three = web::KeyClient::new(vec![cluster.http(3)]);
    let read = at_three.read("while-full", Instant::now() + Duration::from_secs(5))?;
    assert_eq!(read.as_deref(), Some("y"), "it has caught up");
    cluster.kill_all(); // before the disk goes
    Ok(())
}

#[test]
fn a_node_without_room_from_the_start_never_leads() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 2, &json!({}))?;
    // More than any disk has free: node 3, which would be preferred, is below its reserve from the first look.
    cluster.spawn(3, &["--set", "disk_reserve_mb=1000000"])?;
    cluster.wait_explained("the verdict says so", Duration::from_secs(20), || {
        let cluster = cluster.status(1).map_err(|e| e.to_string())?.cluster;
        let is_told = cluster.reasons == ["node 3's disk is nearly full: make room there"];
        if (is_told, cluster.verdict) == (true, Health::Degraded) { Ok(()) } else { Err(format!("{cluster:?}")) }
    })?;
    for _ in 0..3 {
        let leader = cluster.wait_until("another node leads", Duration::from_secs(20), || {
            let leader = cluster.leader()?;
            (leader != 3).then_some(leader)
        })?;
        cluster.put("x", "y")?;
        cluster.wait_until("node 3 follows", Duration::from_secs(10), || {
            let status = cluster.status(3).ok()?;
            (status.node.role == Role::Follower && status.cluster.leader.map(|l| l.0) == Some(leader)).then_some(())
        })?;
        cluster.post(leader, "/v1/leader/transfer", &json!({}))?;
    }
    assert!(cluster.is_running(3));
    Ok(())
}

/// All disks are nearly full: reads go on, and everything that is asked how the cluster is says that writes do not.
#[test]
fn a_cluster_that_refuses_writes_for_want_of_room_is_not_called_healthy() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.kill_all();
    // Other addresses, which each node wants to write into the log.
    let kv: u16 = cluster.kv(1).rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap();
    let moved = format!("kv_port_base={}", kv + 8);
    for id in 1..=3 {
        let _ = std::fs::remove_file(cluster.log_path(id));
        cluster.spawn(id, &["--set", "disk_reserve_mb=1000000", "--set", &moved])?;
    }
    cluster.wait_explained("every node says that writes are refused", Duration::from_secs(30), || {
        for id in 1..=3 {
            let status = cluster.status(id).map_err(|e| e.to_string())?;
            let health = &status.cluster;
            let is_all =
                health.leader.is_some() && health.voters.len() == 3 && status.nodes.iter().all(|row| row.is_disk_low);
            let why = "and no other voter that could lead has room: make room there, or lower disk_reserve_mb";
            if health.verdict != Health::Unavailable
                || !is_all
                || !health.reasons.iter().any(|reason| reason.contains(why))
            {
                return Err(format!("node {id}: {:?} {:?}", status.nodes, status.cluster));
            }
        }
        Ok(())
    })?;
    let refused = cluster.post(1, "/v1/kv/x", &json!({"incr": 1}))?;
    assert!(refused.text().contains("the leader's disk is nearly full"), "{}", refused.text());
    let checked = Command::new(EXE).args(["status", "--check", "-e", &cluster.http(1)]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(7), "{said}");
    assert!(said.starts_with("unavailable: ") && said.contains("writes are refused"), "{said}");
    let ready = cluster.wait_explained("reads go on", Duration::from_secs(10), || {
        let ready = cluster.get(1, "/readyz?verbose").map_err(|e| e.to_string())?;
        if ready.status == 200 { Ok(ready) } else { Err(ready.text()) }
    })?;
    assert!(ready.text().contains("\n[!] writes are refused: "), "{}", ready.text());
    let metrics = cluster.get(1, "/metrics")?.text();
    for line in ["\nphalanx_takes_writes 0\n", "\nphalanx_disk_low 1\n"] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    // It is tried twice a second, and said once for each reason.
    cluster.wait_until("the addresses were tried a few times", Duration::from_secs(10), || {
        let status = cluster.status(1).ok()?;
        (status.node.uptime_ms > 5_000 && !reasons(&cluster.log(1)).is_empty()).then_some(())
    })?;
    let reasons = reasons(&cluster.log(1));
    assert!(reasons.windows(2).all(|pair| pair[0] != pair[1]), "{reasons:?}");
    Ok(())
}

/// A node whose folder was taken away writes into nothing: it ends, says so, and the others go on.
#[test]
fn a_node_whose_folder_is_removed_or_replaced_stops_and_says_so() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    let aside = cluster.dir().join("aside");
    for (round, what) in ["removed", "renamed", "replaced"].into_iter().enumerate() {
        let leader = cluster.settle()?;
        // A follower at first, then the leader.
        let victim = if round == 0 { leader % 3 + 1 } else { leader };
        let at = folder(&cluster, victim);
        match what {
            "removed" => std::fs::remove_dir_all(&at).unwrap(),
            "renamed" => std::fs::rename(&at, &aside).unwrap(),
            _ => {
                std::fs::rename(&at, &aside).unwrap();
                copy_folder(&aside, &at);
            }
        }
        let ended = cluster.process(victim)?.wait(Duration::from_secs(5))?;
        let log = cluster.log(victim);
        assert_eq!(ended.code(), Some(3), "{what}: {log}");
        assert!(log.contains("this node stops: "), "{what}: {log}");
        assert!(log.contains("was removed, renamed or replaced while the node ran"), "{what}: {log}");
        assert!(log.contains(&format!("phalanx node --id {victim}")), "{what}: {log}");
        cluster.put(what, "y")?;
        if what != "removed" {
            let _ = std::fs::remove_dir_all(&at);
            std::fs::rename(&aside, &at).unwrap();
        }
        cluster.restart(victim)?;
    }
    cluster.settle()?;
    for id in 1..=3 {
        let mut keys = web::KeyClient::new(vec![cluster.http(id)]);
        for name in ["before", "removed", "renamed", "replaced"] {
            assert!(keys.read(name, Instant::now() + Duration::from_secs(5))?.is_some(), "{name} at node {id}");
        }
    }
    Ok(())
}

/// All folders at once, as `rm -rf data` under running nodes: nothing is acknowledged that only memory has.
#[test]
fn a_cluster_whose_folders_are_all_removed_acknowledges_nothing_more() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    std::fs::remove_dir_all(cluster.data_dir()).unwrap();
    for id in 1..=3 {
        let ended = cluster.process(id)?.wait(Duration::from_secs(5))?;
        assert_eq!(ended.code(), Some(3), "{}", cluster.log(id));
        assert!(!cluster.log(id).contains("cannot read the free space"), "{}", cluster.log(id));
    }
    Ok(())
}

/// Why addresses were not registered, as a node's log tells it.
fn reasons(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once("addresses not registered yet err="));
    lines.map(|(_, why)| why.to_string()).collect()
}

/// Copies a stopped node's folder.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).unwrap(),
        }
    }
}

/// Puts a copy in place of a stopped node's folder.
fn put_back(cluster: &mut Cluster, id: u64, copy: &Path) {
    cluster.wipe(id).unwrap();
    copy_folder(copy, &folder(cluster, id));
}

fn folder(cluster: &Cluster, id: u64) -> PathBuf {
    cluster.data_dir().join(format!("node-{id}"))
}

fn write(cluster: &Cluster, names: &str, count: usize) {
    for n in 0..count {
        cluster.put(&format!("{names}{n}"), "x").unwrap();
    }
}

/// A follower that comes back with last week's folder must not vote and acknowledge as if nothing had happened.
#[test]
fn a_node_put_back_to_an_older_folder_joins_again_under_a_new_identity() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    write(&cluster, "early", 10);
    cluster.kill(victim)?;
    let copy = cluster.dir().join("copy");
    copy_folder(&folder(&cluster, victim), &copy);
    cluster.restart(victim)?;
    cluster.settle()?;
    write(&cluster, "late", 50);
    let old = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &copy);
    cluster.restart(victim)?;
    cluster.settle()?;
    let status = cluster.status(victim)?;
    assert_ne!(status.node.uuid, old, "it goes on under the identity whose promises it forgot");
    let mut keys = web::KeyClient::new(vec![cluster.http(victim)]);
    assert_eq!(keys.read("late49", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    assert!(cluster.log(victim).contains("is outdated: its log ends"), "{}", cluster.log(victim));
    assert!(folder(&cluster, victim).join("wal.older").is_dir(), "the older log is set aside");
    Ok(())
}

/// Two of three are put back while the third runs: nothing is elected over its head, and they say what to do.
#[test]
fn a_majority_put_back_to_older_folders_waits_and_says_why() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"snapshot_every_entries": 10}))?;
    let leader = cluster.settle()?;
    write(&cluster, "early", 5);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let copies: Vec<PathBuf> = others.iter().map(|id| cluster.dir().join(format!("copy-{id}"))).collect();
    for (id, copy) in others.iter().zip(&copies) {
        cluster.kill(*id)?;
        copy_folder(&folder(&cluster, *id), copy);
        cluster.restart(*id)?;
        cluster.settle()?;
    }
    // A snapshot of what only one node will have: it is known to be committed after a restart, too.
    let applied = |cluster: &Cluster| {
        let nodes = cluster.status(leader).ok()?.nodes;
        nodes.iter().find(|row| row.id.0 == leader).map(|row| row.applied_index.0)
    };
    let early = applied(&cluster).unwrap();
    write(&cluster, "late", 30);
    cluster.wait_until("a snapshot is taken", Duration::from_secs(10), || {
        let text = cluster.get(leader, "/metrics").ok()?.text();
        let line = text.lines().find_map(|line| line.strip_prefix("phalanx_snapshot_index "))?;
        (line.parse::<f64>().ok()? >= (early + 15) as f64).then_some(())
    })?;
    for id in &others {
        cluster.kill(*id)?;
    }
    for (id, copy) in others.iter().zip(&copies) {
        put_back(&mut cluster, *id, copy);
        cluster.spawn(*id, &[])?;
    }
    for id in &others {
        cluster.wait_explained("they say why", Duration::from_secs(10), || {
            let log = cluster.log(*id);
            if log.contains("no confirmed leader has a newer log") { Ok(()) } else { Err(log) }
        })?;
    }
    let survivor = cluster.status(leader)?;
    assert_eq!(survivor.cluster.verdict, Health::Unavailable, "{:?}", survivor.cluster.reasons);
    // The way back to the older state: the one that knows more stops, and joins them anew.
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    for id in &others {
        cluster.spawn(*id, &[])?;
    }
    cluster.wait_until("the older ones elect a leader", Duration::from_secs(10), || cluster.leader())?;
    // Started as it is, it does not follow them: that would be to lose what it has without a word.
    write(&cluster, "other", 3);
    cluster.spawn(leader, &[])?;
    let ended = cluster.process(leader)?.wait(Duration::from_secs(20))?;
    let log = cluster.log(leader);
    assert_eq!(ended.code(), Some(3), "{log}");
    assert!(log.contains(" has another entry ") && log.contains(&format!("--id {leader} --rejoin")), "{log}");
    cluster.spawn(leader, &["--rejoin"])?;
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("early4", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

/// Whatever file of a folder is cut short: the node works, or says what is wrong and what to do. It never panics.
#[test]
fn no_empty_or_half_file_makes_a_node_panic_or_lose_what_it_has() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000, "snapshot_every_entries": 10}))?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    let table = json!(["CREATE TABLE t (a)", "INSERT INTO t VALUES(1)"]);
    assert_eq!(cluster.post(leader, "/db/execute", &table)?.status, 200);
    write(&cluster, "note", 20);
    let has_snapshot = || {
        let files = files_below(&folder(&cluster, victim), &folder(&cluster, victim));
        files.iter().any(|file| file.extension().is_some_and(|kind| kind == "snap")).then_some(())
    };
    cluster.wait_until("there is a snapshot", Duration::from_secs(10), has_snapshot)?;
    let uuid = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    let copy = cluster.dir().join("copy");
    copy_folder(&folder(&cluster, victim), &copy);
    let mut seen = Vec::new();
    // Only a node that knows that its state differs has this one.
    let mark = PathBuf::from("integrity.json");
    for file in files_below(&copy, &copy).into_iter().chain([mark.clone()]) {
        for part in [0, 2] {
            put_back(&mut cluster, victim, &copy);
            let path = folder(&cluster, victim).join(&file);
            if file == mark {
                let whole = json!({"uuid": uuid, "kind": "corrupt", "index": 7, "parts": [2]});
                std::fs::write(&path, whole.to_string()).unwrap();
            }
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
                _ => _ = cluster.kill(victim)?,
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

/// The logs are whole; only the small file beside them is gone, from two of three and then from all.
#[test]
fn a_log_whose_identity_is_lost_is_neither_removed_nor_founded_over() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.settle()?;
    write(&cluster, "note", 20);
    cluster.kill_all();
    let identity = |cluster: &Cluster, id| folder(cluster, id).join("identity.json");
    let copies = |cluster: &Cluster| -> Vec<Vec<u8>> {
        (1..=3).map(|id| std::fs::read(identity(cluster, id)).unwrap()).collect()
    };
    let kept = copies(&cluster);
    let logs = |cluster: &Cluster| -> Vec<Vec<u8>> {
        (1..=3).map(|id| std::fs::read(folder(cluster, id).join("wal/0000000000000001.wal")).unwrap()).collect()
    };
    let before = logs(&cluster);
    let is_refused = |cluster: &mut Cluster, id| -> Result<()> {
        let _ = std::fs::remove_file(cluster.log_path(id));
        cluster.spawn(id, &[])?;
        let ended = cluster.process(id)?.wait(Duration::from_secs(10))?;
        assert_eq!(ended.code(), Some(3), "{}", cluster.log(id));
        let log = cluster.log(id);
        assert!(log.contains("identity.json is missing") && log.contains("from a copy"), "{log}");
        assert!(!log.contains("--rejoin") && !identity(cluster, id).exists(), "{log}");
        Ok(())
    };
    for id in [1, 2] {
        std::fs::remove_file(identity(&cluster, id)).unwrap();
        is_refused(&mut cluster, id)?;
    }
    std::fs::remove_file(identity(&cluster, 3)).unwrap();
    std::fs::remove_file(cluster.config_path()).unwrap();
    for id in 1..=3 {
        is_refused(&mut cluster, id)?;
    }
    assert!(logs(&cluster) == before, "a log has changed");
    // Nor does a newcomer found beside them.
    cluster.spawn(4, &[])?;
    cluster.wait_until("the new node says why it creates no cluster", Duration::from_secs(10), || {
        cluster.log(4).contains("no new cluster is created while").then_some(())
    })?;
    cluster.kill(4)?;
    assert!(!cluster.config_path().exists(), "{}", cluster.log(4));
    for (id, bytes) in (1..=3).zip(kept) {
        std::fs::write(identity(&cluster, id), bytes).unwrap();
        cluster.spawn(id, &[])?;
    }
    cluster.restart(4)?;
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("note19", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

/// What the message says brings all back; what it does not say (`--rejoin`) does no harm.
#[test]
fn two_folders_that_were_swapped_are_renamed_back_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.settle()?;
    write(&cluster, "note", 5);
    cluster.kill_all();
    let swap = |cluster: &Cluster| {
        let aside = cluster.dir().join("aside");
        std::fs::rename(folder(cluster, 1), &aside).unwrap();
        std::fs::rename(folder(cluster, 2), folder(cluster, 1)).unwrap();
        std::fs::rename(aside, folder(cluster, 2)).unwrap();
    };
    swap(&cluster);
    for (id, other) in [(1, 2), (2, 1)] {
        for more in [&[][..], &["--rejoin"]] {
            let _ = std::fs::remove_file(cluster.log_path(id));
            cluster.spawn(id, more)?;
            let ended = cluster.process(id)?.wait(Duration::from_secs(10))?;
            let log = cluster.log(id);
            assert_eq!(ended.code(), Some(3), "{log}");
            assert!(log.contains(&format!("node-{id} is the folder of node {other}, not of node {id}")), "{log}");
            assert!(log.contains("rename") && !log.contains("--rejoin"), "{log}");
        }
    }
    swap(&cluster);
    for id in 1..=3 {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("note4", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

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

/// A number that was given to another folder, or to nobody, while its node was stopped: the former folder says so when it is
/// started.
#[test]
fn a_folder_whose_number_is_not_its_own_any_more_says_so() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000}))?;
    let leader = cluster.settle()?;
    let victim = leader % 3 + 1;
    cluster.kill(victim)?;
    let former = cluster.dir().join("former");
    copy_folder(&folder(&cluster, victim), &former);
    cluster.wipe(victim)?;
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    let replacement = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &former);
    cluster.spawn(victim, &[])?;
    let now = format!("node {victim} is now another data folder, with uuid {replacement}");
    is_told_everywhere(&cluster, victim, &now)?;
    // The way that it names.
    cluster.kill(victim)?;
    cluster.spawn(victim, &["--rejoin"])?;
    cluster.settle()?;
    cluster.wait_until("it is a member again and says nothing of the kind", Duration::from_secs(5), || {
        let status = cluster.status(victim).ok()?;
        (status.cluster.verdict == Health::Healthy).then_some(())
    })?;
    // Likewise one that was removed while it was stopped: its own log says nothing of it.
    cluster.kill(victim)?;
    let removed = Command::new(EXE)
        .args(["member", "remove", &victim.to_string(), "-e", &cluster.http(leader)])
        .output()
        .unwrap();
    assert!(removed.status.success(), "{removed:?}");
    cluster.spawn(victim, &[])?;
    is_told_everywhere(&cluster, victim, "this node was removed from the cluster: stop it, or")
}

/// The former folder of a node that was replaced is started for a moment: the others link to the node again afterwards, also
/// when their logs name the former identity no more.
#[test]
fn a_node_is_a_member_again_after_its_former_folder_was_started_by_mistake() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"snapshot_every_mb": 1, "dead_after_ms": 2000}))?;
    let leader = cluster.settle()?;
    let victim = leader % 3 + 1;
    cluster.kill(victim)?;
    let (former, right) = (cluster.dir().join("former"), cluster.dir().join("right"));
    copy_folder(&folder(&cluster, victim), &former);
    cluster.wipe(victim)?;
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    let value = json!("v".repeat(1 << 20));
    for n in 0..20 {
        let path = format!("/v1/kv/k{}", n % 4);
        let put = web::ask(&cluster.http(leader), "PUT", &path, Some(&value), Duration::from_secs(10)).unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
    }
    cluster.settle()?;
    cluster.kill(victim)?;
    copy_folder(&folder(&cluster, victim), &right);
    put_back(&mut cluster, victim, &former);
    cluster.spawn(victim, &[])?;
    cluster.wait_until("both others have met the former", Duration::from_secs(20), || {
        let has_met = |id: u64| cluster.log(id).contains("in place of");
        (1..=3).filter(|id| *id != victim).all(has_met).then_some(())
    })?;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &right);
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    for id in 1..=3 {
        cluster.wait_explained("all is well", Duration::from_secs(10), || {
            let status = cluster.status(id).map_err(|e| e.to_string())?.cluster;
            if status.verdict == Health::Healthy { Ok(()) } else { Err(format!("{id}: {:?}", status.reasons)) }
        })?;
    }
    Ok(())
}

/// Log, status, health check and events of a node say what is wrong with it.
fn is_told_everywhere(cluster: &Cluster, id: u64, what: &str) -> Result<()> {
    cluster.wait_explained(what, Duration::from_secs(30), || {
        let status = cluster.status(id).map_err(|e| e.to_string())?.cluster;
        let log = cluster.log(id);
        match status.reasons.iter().any(|reason| reason.contains(what)) && log.contains(what) {
            true => Ok(()),
            false => Err(format!("{:?} {log}", status.reasons)),
        }
    })?;
    assert_eq!(cluster.status(id)?.cluster.verdict, Health::Unavailable);
    for args in [&["status", "--check"][..], &["events"]] {
        let asked = Command::new(EXE).args(args).args(["-e", &cluster.http(id)]).output().unwrap();
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        assert!(said.contains(what), "{args:?}: {said}");
    }
    assert!(cluster.get(id, "/readyz?verbose")?.text().contains(what));
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
