//! Database files that are loaded: prepared outside of the log and put in place in one step, at whatever moment the
//! node crashes.
//!
//! Not here: what a file may contain (`hostile.rs`, `determinism.rs`), who sends the commands
//! (`tests/cluster/sql/loads.rs`).

use super::files::{Folder, folder, start};
use super::script_runner::{Node, answer, outcome_text, request};
use crate::lab::poll::wait_until;
use crate::services::registry::Registry;
use crate::services::sql::commands::STAGE_BYTES_MAX;
use crate::services::sql::{Answer, Command, Database, Files, RunKind};
use rusqlite::{Connection, MAIN_DB};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LOAD: u64 = 7;

/// A file with several tables, one of which contains much text.
fn image() -> Vec<u8> {
    let mut conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE loaded (id INTEGER PRIMARY KEY, n, at CHECK (at < '2020')); CREATE INDEX i ON loaded(n); \
         WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500) \
         INSERT INTO loaded SELECT x, x * 7 % 100, '1999-01-01' FROM c; \
         CREATE VIRTUAL TABLE words USING fts5(a); INSERT INTO words VALUES('one'), ('two'), ('one two'); PRAGMA user_version = 9",
    )
    .unwrap();
    conn.serialize(MAIN_DB).unwrap().to_vec()
}

fn pieces(load: u64, image: &[u8]) -> Vec<Command> {
    let piece =
        |(n, piece): (usize, &[u8])| Command::Stage { load, offset: 9_000 * n as u64, bytes: piece.to_vec().into() };
    image.chunks(9_000).enumerate().map(piece).collect()
}

fn prepare(load: u64, image: &[u8]) -> Command {
    Command::Prepare { load, bytes: image.len() as u64, crc: crc32fast::hash(image), seed: 1 }
}

fn put_in_place(load: u64, image: &[u8]) -> Command {
    Command::PutInPlace { load, bytes: image.len() as u64, crc: crc32fast::hash(image), seed: 1 }
}

fn run(sql: &str) -> Command {
    Command::Run(request(&[sql], RunKind::Execute, 1))
}

fn done(node: &mut Node, command: Command) -> Answer {
    answer(node.entry(1_000_000_000_000, &[command]).pop().unwrap())
}

fn wait_until_prepared(files: &Folder, load: u64) {
    while files.prepared.load(Ordering::SeqCst) != load {
        std::thread::yield_now();
    }
}

/// Starts a node with the files in a folder and returns its state.
fn state_in(path: &Path, current: &str, node: &Node) -> (String, Option<String>) {
    let files = folder(path, "n1");
    *files.current.lock().unwrap() = current.to_string();
    let mut again = Node { log: node.log.clone(), snapshot: node.snapshot.clone(), ..Node::default() };
    let news = start(&mut again, &files);
    assert!(files.aside.lock().unwrap().is_empty(), "{:?}", files.aside.lock().unwrap());
    (state(&again), news)
}

fn state(node: &Node) -> String {
    let digest = node.registry.sql().digests(Default::default());
    let read = |sql| outcome_text(&node.read(sql));
    let words = read("SELECT rowid FROM words WHERE words MATCH 'two'");
    format!("{digest:?} {words} {} {}", read("SELECT count(*), sum(n) FROM loaded"), read("PRAGMA user_version"))
}

#[test]
fn a_file_is_prepared_beside_the_log_and_put_in_place_in_one_step() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let (mut node, mut model, image) = (Node::default(), Node::default(), image());
    start(&mut node, &files);
    for node in [&mut node, &mut model] {
        node.execute(&["CREATE TABLE t (n)", "INSERT INTO t VALUES(1)"]);
        for piece in pieces(LOAD, &image) {
            assert_eq!(done(node, piece), Answer::Done);
        }
        assert_eq!(done(node, prepare(LOAD, &image)), Answer::Done);
    }
    wait_until_prepared(&files, LOAD);
    for node in [&mut node, &mut model] {
        assert_eq!(outcome_text(&node.execute(&["INSERT INTO t VALUES(2)"])[0]), "changed 1, last id 2");
        assert_eq!(
            outcome_text(&node.read("SELECT count(*) FROM t")),
            "[count(*):integer]\n  2",
            "nothing has changed so far"
        );
        assert_eq!(done(node, put_in_place(LOAD, &image)), Answer::Done);
        assert_eq!(
            outcome_text(&node.execute(&["INSERT INTO loaded(n, at) VALUES(8, '2000-01-01')"])[0]),
            "changed 1, last id 501"
        );
        assert_eq!(outcome_text(&node.execute(&["INSERT INTO words VALUES('two')"])[0]), "changed 1, last id 4");
    }
    assert_ne!(files.path(), home.path().join("db.sqlite"), "another file is the database now");
    assert_eq!(state(&node), state(&model));
    assert_eq!(node.registry.sql().newest(), node.log.len() as u64, "the file records its newest entry");
    // The step itself copies no rows: it waits for the prepared file and adds the replies to entries.
    assert_eq!(
        done(&mut node, put_in_place(LOAD, &image)),
        Answer::Refused("another file is being loaded: start the load again".into())
    );
}

/// The entry of the last step contains commands before and after that step. The node crashes when the new file is
/// complete but not yet recorded as the database, and right after it is recorded.
#[test]
fn a_node_that_dies_at_the_last_step_has_done_it_or_does_it() {
    let (home, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = folder(home.path(), "n1");
    *files.copy_at_adoption.lock().unwrap() = Some(crashed.path().to_path_buf());
    let (mut node, mut model, image) = (Node::default(), Node::default(), image());
    start(&mut node, &files);
    for node in [&mut node, &mut model] {
        node.execute(&["CREATE TABLE t (n)"]);
        for piece in pieces(LOAD, &image).into_iter().chain([prepare(LOAD, &image)]) {
            assert_eq!(done(node, piece), Answer::Done);
        }
    }
    wait_until_prepared(&files, LOAD);
    for node in [&mut node, &mut model] {
        // The replies to these commands are known only when the file is put in place.
        node.execute(&["INSERT INTO t VALUES(-1)"]);
        node.execute(&["INSERT INTO t VALUES(-2)"]);
        let around = [
            run("INSERT INTO t VALUES(1)"),
            put_in_place(LOAD, &image),
            run("INSERT INTO loaded(n, at) VALUES(1, '2000-01-01')"),
            run("INSERT INTO t VALUES(2)"),
        ];
        let replies: Vec<Answer> = node.entry(1_000_000_000_001, &around).into_iter().map(answer).collect();
        assert_eq!(replies[1], Answer::Done);
        assert!(format!("{:?}", replies[3]).contains("no such table: t"), "{replies:?}");
    }
    let now = state(&node);
    assert_eq!(now, state(&model));
    let new = files.current.lock().unwrap().clone();
    // Each copy is started twice: the result of the first start must be durable.
    for current in ["db.sqlite", "db.sqlite", &new, &new] {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(crashed.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        assert_eq!(state_in(copy.path(), current, &node), (now.clone(), None), "{current}");
    }
    drop(node.registry);
    node.registry = Registry::default();
    assert_eq!(state_in(home.path(), &new, &node), (now, None));
}

#[test]
fn a_snapshot_brings_a_file_that_is_being_loaded() {
    let image = image();
    for count in [1, pieces(LOAD, &image).len(), pieces(LOAD, &image).len() + 1] {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = folder(home.path(), "n1");
        let mut node = Node::default();
        start(&mut node, &files);
        let mut commands: Vec<Command> = pieces(LOAD, &image).into_iter().chain([prepare(LOAD, &image)]).collect();
        let rest = commands.split_off(count);
        commands.into_iter().for_each(|command| assert_eq!(done(&mut node, command), Answer::Done));
        node.take_snapshot();
        let other = folder(elsewhere.path(), "n2");
        let (log, snapshot) = (node.log.clone(), node.snapshot.clone());
        let mut new_node = Node { log, snapshot, tags: node.tags, ..Node::default() };
        start(&mut new_node, &other);
        if rest.is_empty() {
            wait_until_prepared(&other, LOAD);
        }
        for node in [&mut node, &mut new_node] {
            for command in rest.iter().cloned().chain([put_in_place(LOAD, &image)]) {
                assert_eq!(done(node, command), Answer::Done, "{count}");
            }
        }
        assert_eq!(state(&node), state(&new_node), "{count}");
    }
}

#[test]
fn a_file_of_no_use_leaves_every_table_and_no_piece() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let (mut node, mut model) = (Node::default(), Node::default());
    start(&mut node, &files);
    let mut damaged = image();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4096].fill(0x5a);
    let other = image();
    for node in [&mut node, &mut model] {
        node.execute(&["CREATE TABLE t (n)", "INSERT INTO t VALUES(1)"]);
        for image in [damaged.clone(), b"SQLite format 3\0 or so".repeat(1000), b"anything else".repeat(1000)] {
            for piece in pieces(LOAD, &image).into_iter().chain([prepare(LOAD, &image)]) {
                assert_eq!(done(node, piece), Answer::Done);
            }
            assert!(matches!(done(node, put_in_place(LOAD, &image)), Answer::Refused(_)));
        }
        // Another load replaces one that is half complete; the last step of the first one is refused.
        for piece in pieces(LOAD, &other).into_iter().chain([prepare(LOAD, &other)]) {
            assert_eq!(done(node, piece), Answer::Done);
        }
        let first = pieces(LOAD + 1, &other).remove(0);
        assert_eq!(done(node, first), Answer::Done);
        assert!(matches!(done(node, put_in_place(LOAD, &other)), Answer::Refused(_)));
        assert!(matches!(done(node, pieces(LOAD, &other).remove(1)), Answer::Refused(_)));
        let mut count = 0;
        while done(node, Command::Unstage { load: LOAD + 1 }) == Answer::More {
            count += 1;
        }
        assert!(count > 1, "pieces are removed one at a time");
        assert_eq!(outcome_text(&node.read("SELECT n FROM t")), "[n:integer]\n  1");
    }
    let left: Vec<i64> = node.registry.sql().own_rows();
    assert!(left.iter().all(|row| *row > -1000 && ![-3, -4].contains(row)), "{left:?}");
    assert_eq!(node.registry.sql().digests(Default::default()), model.registry.sql().digests(Default::default()));
    let temporary = || {
        let names = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("temporary")).collect::<Vec<_>>()
    };
    // A preparation that was abandoned removes its file when its thread notices that.
    let gone = || temporary().is_empty().then_some(());
    wait_until("no temporary file is left", Duration::from_secs(60), gone).unwrap();
    let _ = Database::in_folder(Arc::clone(&files) as Arc<dyn Files>);
}

#[test]
fn a_piece_is_bounded() {
    let mut node = Node::default();
    let bytes = vec![0; STAGE_BYTES_MAX + 1].into();
    assert!(matches!(done(&mut node, Command::Stage { load: 1, offset: 0, bytes }), Answer::Refused(_)));
}
