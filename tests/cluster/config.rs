//! `config.json` while nodes die: whole at every look, soon right, never set back by a deposed leader.

use crate::EXE;
use fs2::FileExt;
use phalanx::lab::{Cluster, Result, poll};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Reads the file in a tight loop, with the lock or without; panics at the first reading that is torn or goes back.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

fn lock_file(config: &Path) -> std::fs::File {
    let path = config.with_file_name("config.json.lock");
    std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

impl Reader {
    fn start(config: PathBuf, with_lock: bool) -> Reader {
        let stop = Arc::new(AtomicBool::new(false));
        let should_stop = stop.clone();
        let thread = std::thread::spawn(move || {
            let lock = with_lock.then(|| lock_file(&config));
            let (mut looks, mut newest) = (0, (0, 0));
            while !should_stop.load(Ordering::Relaxed) {
                if let Some(lock) = &lock {
                    FileExt::lock_shared(lock).unwrap();
                }
                let mut text = String::new();
                std::fs::File::open(&config).unwrap().read_to_string(&mut text).unwrap();
                if let Some(lock) = &lock {
                    FileExt::unlock(lock).unwrap();
                    poll::pause(Duration::from_micros(500)); // a lock held all the time would starve the writer
                }
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("torn ({e}): {text:?}"));
                let info = &value["cluster_info"];
                let version = (info["term"].as_u64().unwrap(), info["last_version"].as_u64().unwrap());
                assert!(version >= newest, "(term, version) went back from {newest:?} to {version:?}");
                assert!(!value["nodes"].as_object().unwrap().is_empty());
                newest = version;
                looks += 1;
            }
            looks
        });
        Reader { stop, thread }
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader saw something wrong (above)")
    }
}

fn read(cluster: &Cluster) -> std::result::Result<Value, String> {
    let text = std::fs::read_to_string(cluster.config_path()).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

/// Waits until the file names this leader and calls exactly these nodes OFFLINE; how long that took.
fn wait_right(cluster: &Cluster, since: Instant, leader: Option<u64>, offline: &[u64]) -> Result<Duration> {
    cluster.wait_explained("config.json is right", Duration::from_secs(5), || {
        let value = read(cluster)?;
        let named = value["cluster_info"]["leader"].as_str().unwrap_or("").to_string();
        let is_leader_right = leader.is_none_or(|l| named == format!("node_{l}"));
        for (name, node) in value["nodes"].as_object().into_iter().flatten() {
            let id = node["id"].as_u64().unwrap_or(0);
            let expected = match node["status"].as_str() {
                Some("OFFLINE") => offline.contains(&id),
                Some("LEADER") => *name == named && !offline.contains(&id),
                Some("ONLINE") => *name != named && !offline.contains(&id),
                _ => false,
            };
            if !expected {
                return Err(format!("{name} is {}, leader is {named}", node["status"]));
            }
        }
        if is_leader_right { Ok(since.elapsed()) } else { Err(format!("leader is {named}")) }
    })
}

#[test]
fn readers_never_see_a_torn_or_older_file_while_nodes_die() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    wait_right(&cluster, Instant::now(), None, &[])?;
    let plain = Reader::start(cluster.config_path(), false);
    let locking = Reader::start(cluster.config_path(), true);
    for _ in 0..4 {
        let leader = cluster.settle()?;
        let killed = Instant::now();
        cluster.kill_now(leader)?;
        let new = cluster.wait_other_leader(leader)?;
        let took = wait_right(&cluster, killed, Some(new), &[leader])?;
        assert!(took <= Duration::from_millis(1500), "config.json was right {took:?} after the kill");
        let restarted = Instant::now();
        cluster.restart(leader)?;
        cluster.settle()?;
        wait_right(&cluster, restarted, Some(new), &[])?;
    }
    let (looks, locked_looks) = (plain.finish(), locking.finish());
    assert!(looks > 1000 && locked_looks > 100, "only {looks} and {locked_looks} looks");
    Ok(())
}

#[test]
fn a_deposed_leader_overwrites_nothing() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let old = cluster.settle()?;
    wait_right(&cluster, Instant::now(), Some(old), &[])?;
    let reader = Reader::start(cluster.config_path(), false);
    // Not while it writes: the others would wait for the lock of a frozen process.
    let lock = lock_file(&cluster.config_path());
    FileExt::lock_exclusive(&lock).unwrap();
    cluster.freeze(old)?;
    drop(lock);
    let new = cluster.wait_other_leader(old)?;
    wait_right(&cluster, Instant::now(), Some(new), &[old])?;
    cluster.thaw(old)?;
    let thawed = Instant::now();
    wait_right(&cluster, thawed, Some(new), &[])?;
    // It stays so: the reader would see the file go back.
    cluster.wait_until("two seconds have passed", Duration::from_secs(5), || {
        (thawed.elapsed() > Duration::from_secs(2)).then_some(())
    })?;
    assert!(reader.finish() > 100);
    Ok(())
}

#[test]
fn a_mangled_file_is_set_aside_and_written_again() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    wait_right(&cluster, Instant::now(), None, &[])?;
    std::fs::write(cluster.config_path(), "{ this is not json").expect("the folder is ours");
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap_or(1);
    cluster.restart(victim)?; // a change, so that the leader writes
    cluster.settle()?;
    wait_right(&cluster, Instant::now(), Some(leader), &[])?;
    let folder = std::fs::read_dir(cluster.dir()).expect("the folder is ours");
    let names: Vec<String> = folder.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let aside = names.iter().filter(|n| n.starts_with("config.json") && *n != "config.json" && !n.ends_with(".lock"));
    assert_eq!(aside.count(), 1, "the mangled file is kept beside: {names:?}");
    Ok(())
}

#[test]
fn a_file_that_is_ahead_is_named_once_with_a_way_out() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({}))?;
    wait_right(&cluster, Instant::now(), None, &[])?;
    // A hand writes a term that no leader has.
    let mut value = read(&cluster).expect("it is right");
    value["cluster_info"]["term"] = 99.into();
    std::fs::write(cluster.config_path(), value.to_string()).expect("the folder is ours");
    let problems = || cluster.log(1).matches("config.json is not written: ").count();
    cluster.wait_until("the problem is named", Duration::from_secs(5), || (problems() > 0).then_some(()))?;
    let log = cluster.log(1);
    assert!(log.contains("names term 99") && log.contains("move the file away"), "{log}");

    std::fs::remove_file(cluster.config_path()).expect("the folder is ours");
    let is_over = || cluster.log(1).contains("config.json is written again");
    cluster.wait_until("it is over", Duration::from_secs(5), || is_over().then_some(()))?;
    assert!(cluster.config_path().exists(), "it was called written before it was");

    // Something that is no file: the same.
    std::fs::remove_file(cluster.config_path()).expect("the folder is ours");
    std::fs::create_dir(cluster.config_path()).expect("the folder is ours");
    cluster.wait_until("the problem is named", Duration::from_secs(5), || (problems() > 1).then_some(()))?;
    std::fs::remove_dir(cluster.config_path()).expect("the folder is ours");
    wait_right(&cluster, Instant::now(), None, &[])?;
    assert_eq!(problems(), 2, "each is named once: {}", cluster.log(1));
    Ok(())
}
