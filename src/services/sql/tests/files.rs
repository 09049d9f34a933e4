//! The database in a file: kept, set aside, rebuilt, and pinned while writes continue.
//!
//! Not here: the node around it (`tests/cluster/sql/loads.rs`).

use super::script_runner::{Node, outcome_text, request};
use crate::services::registry::Registry;
use crate::services::sql::{
    Checkpointer, Command, Database, Files, LongRows, Outcome, Reader, RunKind, Statement, bare_image,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    pub current: Mutex<String>,
    pub prepared: AtomicU64,
    /// Folder into which the files are copied before another file becomes the database, as kill -9 would leave them.
    pub copy_at_adoption: Mutex<Option<PathBuf>>,
    owner: String,
    next: AtomicU64,
    pub aside: Mutex<Vec<String>>,
    long_rows: LongRows,
}

impl Files for Folder {
    fn path(&self) -> PathBuf {
        self.path.join(&*self.current.lock().unwrap())
    }
    fn successor(&self) -> PathBuf {
        self.path.join(format!("db-{}.sqlite", self.next.fetch_add(1, Ordering::Relaxed)))
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
    fn adopt(&self, path: &Path) {
        if let Some(to) = &*self.copy_at_adoption.lock().unwrap() {
            for entry in std::fs::read_dir(&self.path).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().ends_with("-shm") {
                    std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
        }
        *self.current.lock().unwrap() = path.file_name().unwrap().to_str().unwrap().to_string();
    }
    fn in_background(&self, work: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(work);
    }
    fn prepared(&self, load: u64) {
        self.prepared.store(load, Ordering::SeqCst);
    }
    fn owner(&self) -> String {
        self.owner.clone()
    }
    fn temporary(&self) -> PathBuf {
        self.path.join(format!("temporary-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>> {
        Ok(Box::new(File::create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read>, u64)> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }
    fn remove(&self, path: &Path) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = path.as_os_str().to_owned();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
    }
    fn set_aside(&self, why: &str) {
        self.aside.lock().unwrap().push(why.to_string());
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.path.join(format!("db.sqlite{suffix}")));
        }
    }
    fn give_up(&self, why: &str, is_damaged: bool) -> ! {
        panic!("gives up: {why} {is_damaged}")
    }
    fn pause_copy(&self) {}
    fn check_free_space(&self, _: bool) {}
    fn has_room_for_reads(&self) -> bool {
        true
    }
    fn on_statement(&self, _: u64) {}
    fn long_rows(&self) -> &LongRows {
        &self.long_rows
    }
    fn check_bytes_max(&self) -> u64 {
        64 << 20
    }
}

pub fn folder(path: &Path, owner: &str) -> Arc<Folder> {
    Arc::new(Folder {
        path: path.to_path_buf(),
        current: Mutex::new("db.sqlite".to_string()),
        prepared: AtomicU64::default(),
        copy_at_adoption: Mutex::default(),
        owner: owner.to_string(),
        next: AtomicU64::new(0),
        aside: Mutex::default(),
        long_rows: LongRows::default(),
    })
}

pub fn start(node: &mut Node, files: &Arc<Folder>) -> Option<String> {
    node.registry = Registry::default();
    let files: Arc<dyn Files> = Arc::clone(files) as _;
    let mut registry = Registry::default();
    registry.sql = Database::in_folder(files);
    let from = match &node.snapshot {
        Some((index, bytes)) => {
            registry.restore(&mut bytes.as_slice()).unwrap();
            *index
        }
        None => {
            registry.reset_services().unwrap();
            0
        }
    };
    let news = registry.take_news().pop();
    for (place, batch) in node.log.iter().enumerate().skip(from as usize) {
        registry.apply(crate::types::Index(place as u64 + 1), batch);
    }
    node.registry = registry;
    news
}

/// Copies the files in their present state, as kill -9 would leave them.
fn copy_of(files: &Folder, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = format!("db.sqlite{suffix}");
        let _ = std::fs::remove_file(to.join(&name));
        if files.path.join(&name).exists() {
            std::fs::copy(files.path.join(&name), to.join(&name)).unwrap();
        }
    }
    let _ = std::fs::remove_file(to.join("db.sqlite-shm"));
}

#[test]
fn a_file_copied_at_any_moment_can_be_continued() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    assert_eq!(start(&mut node, &files), None);
    let mut model = Node::default();
    for number in 0..30_u64 {
        let sql = match number {
            0 => "CREATE TABLE t (id INTEGER PRIMARY KEY, n DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP)",
            n if n % 3 == 0 => "UPDATE t SET n = n / 2 + 1",
            _ => "INSERT INTO t DEFAULT VALUES",
        };
        let command = [Command::Run(request(&[sql], RunKind::Execute, number))];
        assert_eq!(node.entry(number * 1000, &command), model.entry(number * 1000, &command));
        if number % 7 == 3 {
            node.take_snapshot();
        }
        if number % 4 == 1 {
            copy_of(&files, elsewhere.path());
            let copied = folder(elsewhere.path(), "n1");
            let mut again = Node { log: node.log.clone(), snapshot: node.snapshot.clone(), ..Node::default() };
            assert_eq!(start(&mut again, &copied), None, "the file is kept");
            assert_eq!(again.registry.digests(), model.registry.digests(), "entry {number}");
            assert!(copied.aside.lock().unwrap().is_empty());
        }
    }
    // The same file, without the end that a power failure removes: the log restores it.
    assert_eq!(start(&mut node, &files), None);
    assert_eq!(node.registry.digests(), model.registry.digests());
}

#[test]
fn a_file_that_is_of_no_use_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, n)", "INSERT INTO t(n) VALUES(random()), (2)"]);
    node.take_snapshot();
    node.execute(&["UPDATE t SET n = n + 1"]);
    let wanted = node.registry.digests();
    let path = files.path();
    type Damage = fn(&Path);
    let harms: [(&str, Damage); 4] = [
        ("missing", |path| std::fs::remove_file(path).unwrap()),
        ("garbage", |path| std::fs::write(path, vec![7; 20_000]).unwrap()),
        ("cut", |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap()),
        ("empty", |path| std::fs::write(path, b"").unwrap()),
    ];
    for (name, harm) in harms {
        node.registry = Registry::default();
        harm(&path);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        let news = start(&mut node, &files).unwrap_or_default();
        println!("{name}: {news}");
        assert!(news.contains("rebuilt its database from the snapshot at index 1"), "{name}: {news}");
        assert_eq!(node.registry.digests(), wanted, "{name}");
    }
    let another = folder(home.path(), "n2");
    let news = start(&mut node, &another).unwrap();
    assert!(news.contains("belongs to another node or cluster"), "{news}");
    assert_eq!(node.registry.digests(), wanted);
    // A snapshot from the leader is installed in the running node during a read.
    let (leaders, mut leader) = (tempfile::tempdir().unwrap(), Node::default());
    start(&mut leader, &folder(leaders.path(), "n3"));
    leader.execute(&["CREATE TABLE other (x)", "INSERT INTO other VALUES('from the leader')"]);
    leader.execute(&["SELECT 1"]);
    leader.execute(&["SELECT 1"]);
    leader.take_snapshot();
    let mut reader = Reader::open(&path, Arc::new(|| None)).unwrap();
    assert!(
        outcome_text(&reader.read(&[Statement::bare("SELECT count(*) FROM t")], 0, 0, &mut || ())[0]).ends_with('2')
    );
    node.registry.restore(&mut leader.snapshot.as_ref().unwrap().1.as_slice()).unwrap();
    assert_eq!(node.registry.digests(), leader.registry.digests());
    let seen = outcome_text(&reader.read(&[Statement::bare("SELECT x FROM other")], 0, 0, &mut || ())[0]);
    // Rows take no more memory than the limit, however small they are.
    let many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 50000) SELECT x, x, x FROM c";
    let mut asked = Vec::new();
    let mut grant = |bytes| {
        asked.push(bytes);
        bytes <= 1 << 20
    };
    let refused = reader.read_within(&[Statement::bare(many)], 0, 0, &mut || (), &mut grant);
    assert!(
        matches!(&refused[0], super::super::Outcome::Failed(why) if why.contains("not enough \
        memory")),
        "{refused:?}"
    );
    assert_eq!(asked, [1, 2, 3, 4, 5].map(|pieces| pieces * (256 << 10)));
    assert!(seen.ends_with("'from the leader'"), "{seen}");
}

#[test]
fn a_snapshot_holds_the_moment_at_which_it_was_taken() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&["CREATE TABLE t (n)", "INSERT INTO t VALUES(1)"]);
    let pinned = node.registry.clone();
    let then = node.registry.digests();
    for _ in 0..50 {
        node.execute(&["INSERT INTO t SELECT n FROM t LIMIT 100"]);
    }
    let mut bytes = Vec::new();
    pinned.snapshot(&mut bytes).unwrap();
    let mut twice = Vec::new();
    pinned.snapshot(&mut twice).unwrap();
    assert_eq!(bytes, twice);
    let mut restored = Registry::default();
    restored.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.digests(), then);
    drop(pinned);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("temporary")), "{left:?}");
    let mut backup = Vec::new();
    bare_image(&(files as Arc<dyn Files>), false, &mut backup).unwrap();
    let conn = crate::services::sql::storage::load::open(backup).unwrap();
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1, "the internal table is left out");
}

#[test]
fn a_reader_reads_and_nothing_else_and_ends_in_time() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&["CREATE TABLE t (n)", "INSERT INTO t VALUES(1)"]);
    let is_late = Arc::new(AtomicBool::new(false));
    let clock = Arc::clone(&is_late);
    let mut reader =
        Reader::open(&files.path(), Arc::new(move || clock.load(Ordering::Relaxed).then_some("late"))).unwrap();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    let asks = |reader: &Reader| reader.only_read(&[Statement::bare("SELECT n FROM t"), Statement::bare(endless)]);
    assert!(asks(&reader), "on a new connection too");
    assert!(!reader.only_read(&[Statement::bare("SELECT 1"), Statement::bare("DELETE FROM t")]));
    let mut said = |sql: &str| outcome_text(&reader.read(&[Statement::bare(sql)], 1_700_000_000_000, 7, &mut || ())[0]);
    assert_eq!(said("SELECT n, date('now') FROM t"), "[n:integer date('now'):text]\n  1 | '2023-11-14'");
    for sql in [
        "DELETE FROM t",
        "SELECT * FROM sqlite_phalanx",
        "ATTACH 'x' AS y",
        "PRAGMA query_only = OFF",
        "SELECT 1; DELETE FROM t",
    ] {
        assert!(said(sql).starts_with("failed: "), "{sql}: {}", said(sql));
    }
    assert_eq!(said("PRAGMA quick_check"), "[quick_check:text]\n  'ok'");
    let tables: Vec<String> = (0..150_000).map(|n| format!("c{n}(a) AS (SELECT 1)")).collect();
    assert!(said(&format!("WITH {} SELECT 1", tables.join(","))).contains("SELECT and VALUES"));
    let wide = vec!["hex(zeroblob(1000000))"; 1000].join(",");
    assert_eq!(said(&format!("SELECT {wide}")), "failed: string or blob too big");
    assert_eq!(said(&format!("SELECT {wide}; -- two")), "failed: string or blob too big");
    assert!(said("SELECT length(hex(zeroblob(2000000)))").ends_with("4000000"), "a few values may be long");
    is_late.store(true, Ordering::Relaxed);
    assert_eq!(said(endless), "failed: late");
    assert!(asks(&reader), "on a connection whose last read was interrupted too");
}

/// The pause of writes while a snapshot of a large database is taken: `--ignored --nocapture`, `PHALANX_SQL_MB=1024`.
#[test]
#[ignore = "writes a gigabyte"]
fn writes_go_on_while_a_snapshot_is_taken() {
    let megabytes: u64 = std::env::var("PHALANX_SQL_MB").map_or(1024, |mb| mb.parse().unwrap());
    let home = tempfile::tempdir_in(".").unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB)"]);
    let fill = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1024) \
                INSERT INTO t(b) SELECT randomblob(1000) FROM c";
    for _ in 0..megabytes {
        node.execute(&[fill]);
        node.log.clear();
        node.log.resize(node.registry.applied().index.0 as usize, Vec::new());
    }
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (checkpointer, stop) = (Checkpointer::open(&files.path()).unwrap(), Arc::clone(&is_done));
    checkpointer.pass().unwrap();
    let checkpoints = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(250));
            checkpointer.pass().unwrap();
        }
    });
    let one = |node: &mut Node| {
        let begun = Instant::now();
        node.execute(&["INSERT INTO t(b) VALUES(x'00')"]);
        begun.elapsed()
    };
    let worst = |times: &[Duration]| times.iter().max().copied().unwrap();
    let before: Vec<Duration> = (0..2000).map(|_| one(&mut node)).collect();
    let begun = Instant::now();
    let pinned = node.registry.clone();
    let clone = begun.elapsed();
    let saving = std::thread::spawn(move || {
        let begun = Instant::now();
        pinned.snapshot(&mut io::sink()).unwrap();
        begun.elapsed()
    });
    let mut during = Vec::new();
    while !saving.is_finished() {
        during.push(one(&mut node));
    }
    let took = saving.join().unwrap();
    is_done.store(true, Ordering::Relaxed);
    checkpoints.join().unwrap();
    during.sort();
    let over = during.iter().filter(|took| **took > Duration::from_millis(50)).count();
    println!("{over} writes over 50 ms; p999 {:?}", during[during.len() * 999 / 1000]);
    println!(
        "{megabytes} MB: clone {clone:?}, snapshot {took:?}, writes before: worst of 2000 {:?}, meanwhile: worst of {} {:?}",
        worst(&before),
        during.len(),
        worst(&during)
    );
    assert!(clone < Duration::from_millis(50));
}

/// `*` and the columns of the table in one read: both belong to the same schema.
fn shape(reader: &mut Reader) -> (String, String) {
    let ask = [
        "SELECT group_concat(name) FROM pragma_table_info('t')",
        "SELECT * FROM t",
        "SELECT count(*) FROM pragma_index_list('t')",
        "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 't'",
    ];
    let outcomes = reader.read(&ask.map(Statement::bare), 0, 0, &mut || ());
    let one = |number: usize| match &outcomes[number] {
        Outcome::Rows { values, .. } => format!("{:?}", values[0][0]),
        other => panic!("{other:?}"),
    };
    assert_eq!(one(2), one(3), "indexes");
    match &outcomes[1] {
        Outcome::Rows { columns, values, types } => {
            assert!(values.iter().all(|row| row.len() == columns.len()) && types.len() == columns.len());
            (one(0), format!("{:?}", crate::services::sql::Value::Text(columns.join(","))))
        }
        other => panic!("{other:?}"),
    }
}

/// Readers that prepared the same statements for an older schema.
#[test]
fn no_read_answers_with_the_columns_of_an_older_schema() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    let mut readers: Vec<Reader> = (0..4).map(|_| Reader::open(&files.path(), Arc::new(|| None)).unwrap()).collect();
    let alone = |reader: &mut Reader| {
        let read = [Statement::bare("SELECT * FROM t")];
        outcome_text(&reader.read(&read, 0, 0, &mut || ())[0])
    };
    for (sql, columns) in [
        (&["CREATE TABLE t (a, b)", "INSERT INTO t VALUES(1, 2)"][..], "[a:integer b:integer]\n  1 | 2"),
        (&["ALTER TABLE t ADD COLUMN c DEFAULT 3"], "[a:integer b:integer c:integer]\n  1 | 2 | 3"),
        (&["ALTER TABLE t DROP COLUMN b"], "[a:integer c:integer]\n  1 | 3"),
        (&["ALTER TABLE t RENAME COLUMN c TO z"], "[a:integer z:integer]\n  1 | 3"),
        (&["DROP TABLE t", "CREATE TABLE t (x TEXT)", "INSERT INTO t VALUES('y')"], "[x:text]\n  'y'"),
        (&["DROP TABLE t", "CREATE VIEW t AS SELECT 1 AS p, 2 AS q"], "[p:integer q:integer]\n  1 | 2"),
        (&["DROP VIEW t", "CREATE TABLE t (only)"], "[only:]"),
        (&["CREATE INDEX i ON t(only)", "ALTER TABLE t ADD COLUMN last"], "[only: last:]"),
    ] {
        node.execute(sql);
        for (number, reader) in readers.iter_mut().enumerate() {
            if number % 2 == 0 {
                assert_eq!(alone(reader), columns, "{sql:?}, reader {number}");
            }
            let (table, answered) = shape_of_any(reader);
            assert_eq!(table, answered, "{sql:?}, reader {number}");
            assert_eq!(alone(reader), columns, "{sql:?}, reader {number}");
        }
    }
}

fn shape_of_any(reader: &mut Reader) -> (String, String) {
    let read = [Statement::bare("SELECT * FROM t"), Statement::bare("SELECT name FROM pragma_table_info('t')")];
    let outcomes = reader.read(&read, 0, 0, &mut || ());
    match &outcomes[..] {
        [Outcome::Rows { columns, .. }, Outcome::Rows { values, .. }] => {
            let names: Vec<String> = values.iter().map(|row| format!("{:?}", row[0])).collect();
            let columns = columns.iter().map(|name| format!("{:?}", crate::services::sql::Value::Text(name.clone())));
            (names.join(","), columns.collect::<Vec<_>>().join(","))
        }
        other => panic!("{other:?}"),
    }
}

/// The same while the schema changes continuously.
#[test]
fn reads_beside_changes_of_the_schema_are_of_one_schema() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&["CREATE TABLE t (a, b)", "INSERT INTO t VALUES(1, 2)"]);
    let (is_over, have_seen_all) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = Reader::open(&files.path(), Arc::new(|| None)).unwrap();
                let (is_over, have_seen_all) = (&is_over, &have_seen_all);
                scope.spawn(move || {
                    let mut seen = std::collections::BTreeSet::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let (table, answered) = shape(&mut reader);
                        assert_eq!(table, answered);
                        if seen.insert(answered) && seen.len() == 3 {
                            have_seen_all.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        // Each reader has seen each shape of the table.
        while have_seen_all.load(Ordering::Relaxed) < 3 && readers.iter().all(|reader| !reader.is_finished()) {
            node.execute(&["ALTER TABLE t ADD COLUMN c", "CREATE INDEX i ON t(c)"]);
            node.execute(&["DROP TABLE t", "CREATE TABLE t (x, y, z)", "INSERT INTO t VALUES(1, 2, 3)"]);
            node.execute(&["ALTER TABLE t DROP COLUMN y", "CREATE INDEX i ON t(x)"]);
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A CHECK may use functions whose results differ from SQLite's own, or that SQLite lacks.
#[test]
fn a_check_that_uses_time_or_chance_is_no_damage() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(&[
        "CREATE TABLE c (a CHECK (a <= date('now')), b CHECK (random() <> b))",
        "INSERT INTO c VALUES('1970-01-01', 'x')",
    ]);
    assert_eq!(start(&mut node, &files), None);
    assert!(files.aside.lock().unwrap().is_empty(), "{:?}", files.aside);
    assert_eq!(outcome_text(&node.read("SELECT count(*) FROM c")), "[count(*):integer]\n  1");
    // A file to be loaded: all nodes must decide equally whether it is valid.
    let mut conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE c (a CHECK (random() > 0), b CHECK (b < date('now'))); PRAGMA ignore_check_constraints = ON; \
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 64) INSERT INTO c SELECT x, '' FROM n",
    )
    .unwrap();
    let image = conn.serialize(rusqlite::MAIN_DB).unwrap();
    let opened = crate::services::sql::storage::load::open(image.to_vec());
    assert!(opened.is_ok(), "{:?}", opened.err());
}
