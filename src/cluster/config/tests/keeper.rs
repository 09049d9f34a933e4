//! Versions of config.json, who writes them, and a file that nobody can keep up to date.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;
use crate::cluster::config::file::tests::{no_wait, projection};
use crate::types::Term;
use std::fs;

fn shown(path: &Path) -> (u64, Option<String>) {
    let info = read(path).unwrap().unwrap().cluster_info;
    (info.last_version, info.stale_since)
}

#[test]
fn an_author_makes_a_version_of_each_change_and_at_most_one_a_second() {
    let mut author = VersionAuthor::default();
    let first = author.revise(0, projection(1, 0, 1), None).unwrap();
    assert_eq!(first.cluster_info.last_version, 1);
    assert!(!author.is_due(999) && author.is_due(1000));
    assert_eq!(author.revise(1000, projection(1, 0, 1), Some(&first.cluster_info)), None, "nothing new");
    let second = author.revise(5000, projection(1, 0, 2), Some(&first.cluster_info)).unwrap();
    assert_eq!(second.cluster_info.last_version, 2);
    // Somebody edits the file.
    let edited = ClusterInfo { last_version: 50, ..second.cluster_info.clone() };
    assert_eq!(author.revise(6000, projection(1, 0, 2), Some(&edited)).unwrap().cluster_info.last_version, 51);
    // In another term versions restart, whatever the file of the former has.
    let mut next = VersionAuthor::default();
    assert_eq!(next.revise(0, projection(2, 0, 2), Some(&edited)).unwrap().cluster_info.last_version, 1);
}

#[test]
fn a_keeper_writes_what_is_newer_and_repairs_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let (mut one, mut two) = (Keeper::default(), Keeper::default());
    let versions: Vec<_> = (0..4).map(|version| Arc::new(projection(1, version, 2))).collect();
    let keep = |keeper: &mut Keeper, now_ms, newest| keeper.keep(now_ms, &path, newest, &no_wait).map(Result::unwrap);
    assert_eq!(keep(&mut one, 0, &versions[1]), Some(WriteOutcome::Yes));
    let stamp = stamp_of(&path);
    assert_eq!(keep(&mut two, 0, &versions[1]), Some(WriteOutcome::Yes));
    assert_eq!(stamp_of(&path), stamp, "one write for both");
    assert_eq!(keep(&mut one, 1, &versions[2]), Some(WriteOutcome::Yes));
    assert_eq!(keep(&mut two, 1, &versions[1]), Some(WriteOutcome::NotWritten { term: Term(1), version: 2 }));
    for what in ["edited", "mangled", "removed"] {
        match what {
            "edited" => fs::write(&path, projection(1, 2, 1).to_text()).unwrap(),
            "mangled" => fs::write(&path, "oops").unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(keep(&mut one, 2, &versions[2]), Some(WriteOutcome::Yes));
        assert_eq!(read(&path).unwrap().as_ref(), Some(&*versions[2]), "{what}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(one.keep(10, &path, &versions[3], &no_wait).unwrap().is_err());
    assert!(one.keep(900, &path, &versions[3], &no_wait).is_none(), "not again so soon");
    fs::remove_dir(&path).unwrap();
    assert_eq!(keep(&mut one, 1010, &versions[3]), Some(WriteOutcome::Yes));
}

#[test]
fn a_file_is_stale_when_no_node_that_uses_it_is_in_contact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let newest = Arc::new(projection(3, 5, 2));
    let cluster = newest.cluster_info.id;
    let (mut one, mut two) = (Contact::default(), Contact::default());
    let mut keeper = Keeper::default();
    let mut keep = || keeper.keep(0, &path, &newest, &no_wait).unwrap().unwrap();
    keep();
    assert_eq!(one.observe(0, &path, true), None);
    assert_eq!(two.observe(0, &path, true), None);
    let mark = |contact: &mut Contact, now_ms, newest, since| {
        contact.mark_stale(now_ms, &path, (cluster, newest), since, &no_wait).unwrap();
        shown(&path)
    };
    assert_eq!(one.observe(100, &path, false), None, "a change of leader takes as long");
    assert_eq!(one.observe(700, &path, false), Some(100));
    assert_eq!(mark(&mut one, 700, Some(&*newest), "then"), (5, None), "the other knows better");
    assert_eq!(two.observe(800, &path, false), None);
    assert_eq!(two.observe(1400, &path, false), Some(800));
    assert_eq!(mark(&mut one, 1000, Some(&*newest), "then"), (5, None), "once a second");
    // One that knows an older version, or none, marks the newest.
    let older = projection(3, 4, 2);
    assert_eq!(mark(&mut two, 1500, Some(&older), "then"), (5, Some("then".into())));
    assert_eq!(mark(&mut one, 2000, None, "later"), (5, Some("then".into())), "marked once");
    assert_eq!(two.observe(3000, &path, true), None);
    keep();
    assert_eq!(shown(&path), (5, None), "in contact again");
    // A file of another cluster is not touched.
    one.mark_stale(9000, &path, (Uuid::from_u128(8), None), "now", &no_wait).unwrap();
    assert_eq!(shown(&path), (5, None));
}
