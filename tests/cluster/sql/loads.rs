//! Files that are loaded while others write, and nodes die.

use super::{FILE, PATIENCE, Spray, cluster, compare, post, prepare, scalar, walk};
use phalanx::lab::Result;
use phalanx::lab::web::{Connection, Response};
use serde_json::json;
use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A file of some pieces, with a table `t` for the sprays, as a backup of another cluster would be.
fn file_of_pieces() -> Vec<u8> {
    let mut conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE t (id TEXT, n INTEGER, pad TEXT); CREATE TABLE loaded (id INTEGER PRIMARY KEY, b BLOB); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO loaded SELECT i, randomblob(2000) FROM n; CREATE INDEX by_rest ON loaded(id % 7)",
    )
    .unwrap();
    conn.serialize(rusqlite::MAIN_DB).unwrap().to_vec()
}

fn load(address: String, file: Vec<u8>) -> JoinHandle<Response> {
    std::thread::spawn(move || {
        let mut connection = Connection::open(&address, PATIENCE).unwrap();
        connection.send_bytes("POST", "/db/load", FILE, Some(&file)).unwrap();
        connection.answer(Instant::now() + Duration::from_secs(90)).unwrap()
    })
}

/// Others write while a file is loaded. A follower is killed meanwhile and comes back when the file is in place; then
/// all are killed.
#[test]
fn a_file_is_loaded_while_others_write_and_a_follower_dies() -> Result<()> {
    let mut cluster = cluster(3)?;
    prepare(&cluster);
    let file = file_of_pieces();
    let leader = cluster.wait_leader()?;
    let [door, other] = [1, 2].map(|next| (leader - 1 + next) % 3 + 1);
    let spray = Spray::start(&cluster, "before", &[leader, door], usize::MAX, 50);
    spray.goes_on(&cluster, 20)?;
    let loading = load(cluster.http(door), file);
    spray.goes_on(&cluster, 20)?;
    cluster.kill(other)?;
    assert!(!loading.is_finished(), "it was killed too late to prove anything");
    let answer = loading.join().unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({"results": []})), "{}", answer.text());
    spray.goes_on(&cluster, 20)?;
    spray.finish();
    post(&cluster, door, "/db/execute", &json!(["DELETE FROM t"]));
    let acked = Spray::start(&cluster, "after", &[leader, door], 50, 50).join();
    cluster.restart(other)?;
    cluster.settle()?;
    for id in 1..=3 {
        assert_eq!(scalar(&cluster, id, "SELECT count(*) FROM loaded"), 5000, "node {id}");
    }
    compare(&cluster, &[1, 2, 3], &acked)?;
    cluster.kill_all();
    (1..=3).try_for_each(|id| cluster.spawn(id, &[]))?;
    cluster.settle()?;
    for id in 1..=3 {
        assert!(!cluster.log(id).contains("set aside"), "node {id} goes on with the file that was loaded");
        let folder = cluster.data_dir().join(format!("node-{id}/sql"));
        let names: Vec<_> = walk(&folder).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert!(names.iter().any(|name| name == "current"), "{names:?}");
        assert!(!names.iter().any(|name| name == "db.sqlite"), "what was before takes no room: {names:?}");
    }
    compare(&cluster, &[1, 2, 3], &acked)
}

/// The leader dies while the pieces come. Either all of the file is there afterwards or nothing of it, on every node
/// alike, and another load works.
#[test]
fn a_load_whose_leader_dies_is_done_or_not_and_can_be_sent_again() -> Result<()> {
    let mut cluster = cluster(3)?;
    prepare(&cluster);
    let file = file_of_pieces();
    let leader = cluster.wait_leader()?;
    let door = leader % 3 + 1;
    let acked = Spray::start(&cluster, "s", &[door], 20, 50).join();
    let loading = load(cluster.http(door), file.clone());
    // Its first pieces lie in the database of the node that is asked.
    let folder = cluster.data_dir().join(format!("node-{door}/sql"));
    let bytes = || walk(&folder).iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum::<u64>();
    cluster.wait_until("pieces have come", PATIENCE, || (bytes() > 8 << 20).then_some(()))?;
    cluster.kill_now(leader)?;
    let answer = loading.join().unwrap();
    assert!([200, 400, 503, 504].contains(&answer.status), "{} {}", answer.status, answer.text());
    cluster.wait_other_leader(leader)?;
    cluster.restart(leader)?;
    cluster.settle()?;
    let is_loaded = scalar(&cluster, door, "SELECT count(*) FROM sqlite_master WHERE name = 'loaded'");
    if answer.status == 200 {
        assert_eq!(is_loaded, 1);
    }
    compare(&cluster, &[1, 2, 3], &if is_loaded == 1 { BTreeSet::new() } else { acked })?;
    let again = load(cluster.http(leader), file).join().unwrap();
    assert_eq!(again.status, 200, "{}", again.text());
    for id in 1..=3 {
        assert_eq!(scalar(&cluster, id, "SELECT count(*) FROM loaded"), 5000, "node {id}");
    }
    compare(&cluster, &[1, 2, 3], &BTreeSet::new())
}
