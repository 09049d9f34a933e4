//! config.json: its shape, who may overwrite it, and readers in a tight loop.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;
use crate::settings::Settings;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const CLUSTER: Uuid = Uuid::from_u128(7);

pub(in crate::cluster) fn no_wait(_: Duration) -> bool {
    std::thread::yield_now();
    true
}

/// `nodes` nodes; the load of each is `version`, so that torn or mixed contents show.
pub(in crate::cluster) fn projection(term: u64, version: u64, nodes: u64) -> Projection {
    let settings = Settings::default();
    let rows: Vec<(NodeId, Addresses)> = (1..=nodes).map(|n| (NodeId(n), settings.addresses(NodeId(n)))).collect();
    let rows = rows.iter().map(|(id, addresses)| (*id, addresses, Liveness::Online, version));
    Projection::new(CLUSTER, Term(term), version, Some(NodeId(nodes)), rows)
}

#[test]
fn the_shape_is_the_documented_one() {
    let expected = serde_json::json!({
        "cluster_info": {"id": CLUSTER, "last_version": 12, "term": 7, "leader": "node_1", "node_number": 1},
        "nodes": {"node_1": {"id": 1, "ip": "127.0.0.1", "port": 5701, "service_port": 6701, "kv_port": 7701,
                             "status": "ONLINE", "load": 12}}});
    assert_eq!(serde_json::to_value(projection(7, 12, 1)).unwrap(), expected);
    let text = serde_json::to_string(&projection(7, 12, 11)).unwrap();
    assert!(text.find("node_9\":").unwrap() < text.find("node_10\":").unwrap(), "by number: {text}");
    assert_eq!(serde_json::from_str::<Projection>(&text).unwrap(), projection(7, 12, 11));
    assert_eq!(projection(1, 1, 3).peer_addresses(), ["127.0.0.1:5703", "127.0.0.1:5701", "127.0.0.1:5702"]);
    let settings = Settings { host: "::1".into(), ..Settings::default() };
    let addresses = settings.addresses(NodeId(1));
    let row = [(NodeId(1), &addresses, Liveness::Leader, 0)];
    let ipv6 = Projection::new(CLUSTER, Term(1), 1, Some(NodeId(1)), row);
    assert_eq!((ipv6.nodes["node_1"].ip.as_str(), ipv6.nodes["node_1"].addresses()), ("::1", addresses));
}

#[test]
fn a_deposed_leader_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("below/config.json");
    assert!(read(&path).unwrap().is_none());
    assert_eq!(write(&path, &projection(3, 5, 2), &no_wait).unwrap(), WriteOutcome::Yes);
    let ahead = WriteOutcome::NotWritten { term: Term(3), version: 5 };
    assert_eq!(write(&path, &projection(2, 99, 2), &no_wait).unwrap(), ahead);
    assert_eq!(write(&path, &projection(3, 4, 2), &no_wait).unwrap(), ahead);
    assert_eq!(read(&path).unwrap(), Some(projection(3, 5, 2)));
    assert_eq!(write(&path, &projection(4, 1, 3), &no_wait).unwrap(), WriteOutcome::Yes);
    let mut other = projection(9, 9, 1);
    other.cluster_info.id = Uuid::from_u128(8);
    let error = write(&path, &other, &no_wait).unwrap_err().to_string();
    assert!(error.contains(&CLUSTER.to_string()) && error.contains(&Uuid::from_u128(8).to_string()), "{error}");
    assert_eq!(read(&path).unwrap(), Some(projection(4, 1, 3)));
}

#[test]
fn a_mangled_file_is_set_aside_and_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = String::from_utf8(projection(1, 1, 1).to_text()).unwrap();
    let beyond = text.replace("\"last_version\": 1", &format!("\"last_version\": {}", u64::MAX));
    assert_ne!(beyond, text);
    for mangled in ["", "{", "[]", "{\"cluster_info\": {}}", "\u{0}\u{0}\u{0}", &beyond] {
        fs::write(&path, mangled).unwrap();
        assert!(matches!(read(&path), Err(ConfigFileError::Mangled { .. })), "{mangled:?}");
        assert_eq!(write(&path, &projection(1, 1, 1), &no_wait).unwrap(), WriteOutcome::Yes);
        assert_eq!(read(&path).unwrap(), Some(projection(1, 1, 1)));
    }
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(names.filter(|name| name.starts_with("config.json.mangled-")).count() >= 1);
}

#[test]
fn a_lock_that_is_held_is_busy_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let held = Lock::take(&path, &no_wait).unwrap();
    assert!(matches!(Lock::take(&path, &no_wait), Err(ConfigFileError::Busy { .. })));
    assert!(matches!(write(&path, &projection(1, 1, 1), &|_| false), Err(ConfigFileError::Busy { .. })));
    drop(held);
    assert!(Lock::take(&path, &no_wait).is_ok());
}

/// Two writers, four readers in a tight loop, two of them under the lock: each read parses, is one writer's whole
/// sentence, and never goes back.
#[test]
fn readers_in_a_tight_loop_never_see_a_torn_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    write(&path, &projection(1, 1, 2), &no_wait).unwrap();
    let (is_done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (path, is_done, reads) = (&path, &is_done, &reads);
            scope.spawn(move || {
                let mut newest = (Term(0), 0);
                while !is_done.load(Ordering::Relaxed) {
                    let found = if reader < 2 {
                        read(path).unwrap().unwrap()
                    } else {
                        match Lock::take(path, &no_wait) {
                            Ok(_held) => read(path).unwrap().unwrap(),
                            Err(ConfigFileError::Busy { .. }) => continue,
                            Err(e) => panic!("{e}"),
                        }
                    };
                    let info = &found.cluster_info;
                    let version = info.last_version;
                    assert_eq!(found, projection(info.term.0, version, version % 9 + 1), "mixed contents");
                    assert!((info.term, version) >= newest, "went back: {newest:?} -> {:?}", (info.term, version));
                    newest = (info.term, version);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || {
                    for version in 1..150u64 {
                        let term = 1 + version / 20 + writer;
                        let patient = |_: Duration| {
                            std::thread::yield_now();
                            true
                        };
                        while write(path, &projection(term, version, version % 9 + 1), &patient).is_err() {}
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 100, "the readers hardly read");
}

#[test]
fn a_link_stays_and_what_it_points_to_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (path, shared) = (dir.path().join("config.json"), dir.path().join("shared"));
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::symlink("shared/cluster.json", &path).unwrap();
    for version in 1..3 {
        assert_eq!(write(&path, &projection(1, version, 2), &no_wait).unwrap(), WriteOutcome::Yes);
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(read(&shared.join("cluster.json")).unwrap(), Some(projection(1, version, 2)));
    }
    // The path of the file itself leads to the same lock as the link.
    let _held = Lock::take(&path, &no_wait).unwrap();
    let taken = Lock::take(&shared.join("cluster.json"), &|_| false);
    assert!(matches!(taken, Err(ConfigFileError::Busy { .. })), "{taken:?}");
}

#[test]
fn a_link_in_place_of_the_temporary_file_is_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("config.json"), dir.path().join("victim"));
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("config.json.tmp")).unwrap();
    assert_eq!(write(&path, &projection(1, 1, 2), &no_wait).unwrap(), WriteOutcome::Yes);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    assert!(!std::fs::symlink_metadata(&path).unwrap().is_symlink());
}

/// Simulates a container whose volume is this single file. Only root can mount; for other users the test does nothing.
#[test]
fn a_file_that_is_a_mount_is_written_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, outside) = (dir.path().join("config.json"), dir.path().join("outside.json"));
    std::fs::write(&outside, "").unwrap();
    std::fs::write(&path, "").unwrap();
    if let Err(e) = rustix::mount::mount_bind(&outside, &path) {
        return eprintln!("not shown, as nothing can be mounted: {e}");
    }
    let written = [3, 2].map(|nodes| write(&path, &projection(nodes, 1, nodes), &no_wait));
    let found = read(&outside);
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(matches!(written[0], Ok(WriteOutcome::Yes)), "{written:?}");
    assert!(matches!(written[1], Ok(WriteOutcome::NotWritten { .. })), "{written:?}");
    assert_eq!(found.unwrap(), Some(projection(3, 1, 3)));
}
