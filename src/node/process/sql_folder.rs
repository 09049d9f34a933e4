//! The folder of a node's database: where its files are, and what happens to a file that cannot be used.
//!
//! Layout: `<data dir>/sql/db.sqlite` with SQLite's own `-wal` and `-shm` beside it, or `db-N.sqlite` after a load,
//! whose name is in `current`. `temporary-N` while an image is being written, `damaged` if the node has stopped because
//! of the file, and `set-aside.sqlite` for a file that could not be used.
//! Not here: what the file holds (`services/sql/`).

use super::logging::{self, EXIT_DISK};
use crate::lock::{Mutex, lock};
use crate::node::spawn;
use crate::node::views::statement_timings::StatementTimings;
use crate::services::sql::{Files, LongRows};
use crate::store::create_private_dir;
use log::{error, warn};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A file up to this size is checked page by page at the start: some 0.2 s.
const CHECK_BYTES_MAX: u64 = 64 << 20;
/// The database, until a loaded file replaces it.
const FIRST: &str = "db.sqlite";
/// Contains the name of the database's file, if it is not the first.
const CURRENT: &str = "current";
/// Pause between two pieces of a long copy.
const COPY_PAUSE: Duration = Duration::from_millis(2);
/// Time between two checks of the disk while a statement writes: in this time it can write some ten megabytes.
const CHECK_EVERY: Duration = Duration::from_millis(2);
/// Free bytes on the disk below which a node whose SQL statement writes stops (exit 3).
const FREE_BYTES_MIN: u64 = 48 << 20;
/// What SQLite keeps beside a file.
const COMPANION_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The database's folder of one node.
#[derive(Debug)]
pub struct SqlFolder {
    path: PathBuf,
    /// The file that is the database.
    current: Mutex<PathBuf>,
    owner: String,
    next: AtomicU64,
    /// What reads must leave free on the disk.
    reserve_bytes: u64,
    started: Instant,
    /// When the free space was last checked, in microseconds since the start.
    looked_us: AtomicU64,
    timings: Arc<StatementTimings>,
    /// Name of the newest load that is prepared, for the other nodes.
    prepared: Arc<AtomicU64>,
    long_rows: LongRows,
}

impl SqlFolder {
    /// Creates the folder if it does not exist, and removes incomplete files that a crash has left.
    ///
    /// # Errors
    /// On a disk error.
    pub fn open(
        data: &Path,
        owner: String,
        reserve_bytes: u64,
        timings: Arc<StatementTimings>,
        prepared: Arc<AtomicU64>,
    ) -> io::Result<SqlFolder> {
        let path = data.join("sql");
        create_private_dir(&path).map_err(|e| at("create", &path, e))?;
        let current = current(&path)?;
        let next = AtomicU64::new(number(&current) + 1);
        let (current, looked_us) = (Mutex::new(path.join(current)), AtomicU64::new(0));
        let (started, long_rows) = (Instant::now(), LongRows::default());
        let folder =
            SqlFolder { path, current, owner, next, reserve_bytes, started, looked_us, timings, prepared, long_rows };
        let kept = folder.path();
        for entry in fs::read_dir(&folder.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_other =
                name.starts_with("db") && !entry.path().to_string_lossy().starts_with(&*kept.to_string_lossy());
            if name.starts_with("temporary-") || is_other {
                fs::remove_file(entry.path()).map_err(|e| at("remove", &entry.path(), e))?;
            }
        }
        let mark = folder.damage_mark();
        if let Ok(why) = fs::read_to_string(&mark) {
            folder.set_aside(&why);
            fs::remove_file(&mark)?;
        }
        Ok(folder)
    }

    /// A file that marks the database as damaged, for the next start.
    fn damage_mark(&self) -> PathBuf {
        self.path.join("damaged")
    }
}

/// Name of the file that is the database.
fn current(folder: &Path) -> io::Result<String> {
    match fs::read_to_string(folder.join(CURRENT)) {
        Ok(name) if number(&name) > 0 => Ok(name),
        Ok(name) => {
            let file = folder.join(CURRENT);
            warn!("{} names {name:?}: the database is rebuilt from snapshot and log", file.display());
            Ok(FIRST.to_string())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(FIRST.to_string()),
        Err(e) => Err(e),
    }
}

/// The number in the name of a file that was loaded; 0 if there is none.
fn number(name: &str) -> u64 {
    let digits = name.strip_prefix("db-").and_then(|rest| rest.strip_suffix(".sqlite"));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Path for a file that cannot be used. If there is a folder of that name, another name is used.
fn aside(folder: &Path) -> PathBuf {
    let name = |n| if n == 1 { "set-aside.sqlite".to_string() } else { format!("set-aside-{n}.sqlite") };
    let is_usable =
        |path: &PathBuf| !COMPANION_SUFFIXES.into_iter().chain([""]).any(|suffix| beside(path, suffix).is_dir());
    (1u64..).map(|n| folder.join(name(n))).find(is_usable).expect("a folder holds fewer names than there are numbers")
}

/// Adds the file to an error of the system.
fn at(doing: &str, path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {doing} {}: {e}", path.display()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Files for SqlFolder {
    fn path(&self) -> PathBuf {
        lock(&self.current).clone()
    }

    fn owner(&self) -> String {
        self.owner.clone()
    }

    fn temporary(&self) -> PathBuf {
        self.path.join(format!("temporary-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn successor(&self) -> PathBuf {
        self.path.join(format!("db-{}.sqlite", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn adopt(&self, path: &Path) {
        let (new, file) = (self.path.join("temporary-current"), self.path.join(CURRENT));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let written = fs::write(&new, name)
            .and_then(|()| self.sync(&new))
            .and_then(|()| fs::rename(&new, &file))
            // Makes the names of the database and of its log durable, too.
            .and_then(|()| self.sync(&self.path));
        if let Err(e) = written {
            self.give_up(&format!("{} cannot be written: {e}", file.display()), false);
        }
        *lock(&self.current) = path.to_path_buf();
    }

    fn in_background(&self, work: Box<dyn FnOnce() + Send>) {
        if let Err(e) = spawn::spawn_with_retries("sql-file", work) {
            self.give_up(&format!("cannot start a thread for a database file: {e}"), false);
        }
    }

    fn prepared(&self, load: u64) {
        self.prepared.store(load, Ordering::Relaxed);
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>> {
        Ok(Box::new(BufWriter::with_capacity(
            256 << 10,
            File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?,
        )))
    }

    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read>, u64)> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn remove(&self, path: &Path) {
        for path in COMPANION_SUFFIXES.map(|suffix| beside(path, suffix)).into_iter().chain([path.to_path_buf()]) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => warn!("cannot remove {}: {e}", path.display()),
                _ => {}
            }
        }
    }

    fn set_aside(&self, why: &str) {
        // The newest file that was set aside is kept for inspection.
        let aside = aside(&self.path);
        self.remove(&aside);
        let from = self.path();
        warn!("the database is set aside as {}: {why}", aside.display());
        for suffix in COMPANION_SUFFIXES.into_iter().chain([""]) {
            match fs::rename(beside(&from, suffix), beside(&aside, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    self.give_up(&format!("{} cannot be set aside: {e}", from.display()), false);
                }
                _ => {}
            }
        }
    }

    fn give_up(&self, why: &str, is_damaged: bool) -> ! {
        error!("{why}, this node stops");
        if is_damaged {
            error!("the database is rebuilt from snapshot and log at the next start");
            let mark = self.damage_mark();
            if let Err(e) = fs::write(&mark, why).and_then(|()| self.sync(&mark)) {
                error!("{} cannot be written: {e}; remove {} yourself", mark.display(), self.path().display());
            }
        }
        logging::exit(EXIT_DISK);
    }

    fn check_free_space(&self, is_certain: bool) {
        let now_us = self.started.elapsed().as_micros() as u64;
        let looked_us = self.looked_us.load(Ordering::Relaxed);
        if !is_certain && now_us.saturating_sub(looked_us) < CHECK_EVERY.as_micros() as u64 {
            return;
        }
        self.looked_us.store(now_us, Ordering::Relaxed);
        let Ok(free) = fs2::available_space(&self.path) else { return };
        if free < FREE_BYTES_MIN {
            self.give_up(
                &format!(
                    "only {} MiB are free on the disk of {} while an SQL statement writes: free some space and start \
                        the node again",
                    free >> 20,
                    self.path.display()
                ),
                false,
            );
        }
    }

    fn has_room_for_reads(&self) -> bool {
        fs2::available_space(&self.path).is_ok_and(|free| free >= self.reserve_bytes)
    }

    fn pause_copy(&self) {
        std::thread::sleep(COPY_PAUSE);
    }

    fn on_statement(&self, seed: u64) {
        self.timings.mark(seed);
    }

    fn long_rows(&self) -> &LongRows {
        &self.long_rows
    }

    fn check_bytes_max(&self) -> u64 {
        CHECK_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use crate::node::process::sql_folder::*;

    fn open(data: &Path) -> SqlFolder {
        SqlFolder::open(data, "n1".to_string(), 0, Arc::default(), Arc::default()).unwrap()
    }

    fn names(data: &Path) -> Vec<String> {
        let entries = fs::read_dir(data.join("sql")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_the_adopted_file_is_the_database_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let folder = open(home.path());
        assert!(folder.path().ends_with("db.sqlite"));
        let [lost, new] = [folder.successor(), folder.successor()];
        for path in [&folder.path(), &lost, &new, &beside(&new, "-wal"), &beside(&lost, "-wal"), &folder.temporary()] {
            fs::write(path, b"x").unwrap();
        }
        folder.adopt(&new);
        assert_eq!(folder.path(), new);
        drop(folder);
        let folder = open(home.path());
        assert_eq!(folder.path(), new);
        let name = new.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(names(home.path()), ["current".to_string(), name.clone(), format!("{name}-wal")]);
        assert_ne!(folder.successor(), new, "a name is given once");
    }

    /// A folder that a user put there does not prevent a file from being set aside, and is not removed.
    #[test]
    fn folders_of_the_same_name_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let folder = open(home.path());
        let sql = home.path().join("sql");
        for name in ["set-aside.sqlite", "set-aside-2.sqlite-wal"] {
            fs::create_dir(sql.join(name)).unwrap();
        }
        for text in ["first", "second"] {
            fs::write(folder.path(), text).unwrap();
            folder.set_aside("a test");
            assert_eq!(fs::read_to_string(sql.join("set-aside-3.sqlite")).unwrap(), text);
        }
        assert_eq!(names(home.path()), ["set-aside-2.sqlite-wal", "set-aside-3.sqlite", "set-aside.sqlite"]);

        fs::create_dir(sql.join("temporary-7")).unwrap();
        let refused = SqlFolder::open(home.path(), "n1".to_string(), 0, Arc::default(), Arc::default()).unwrap_err();
        assert!(refused.to_string().contains("sql/temporary-7"), "{refused}");
    }

    #[test]
    fn a_name_that_is_of_no_use_leaves_a_database_to_be_made_anew() {
        for name in ["", "db-.sqlite", "../../x", "db-7.sqlite\n", "\0\0"] {
            let home = tempfile::tempdir().unwrap();
            drop(open(home.path()));
            fs::write(home.path().join("sql/current"), name).unwrap();
            fs::write(home.path().join("sql/db-7.sqlite"), b"x").unwrap();
            assert!(open(home.path()).path().ends_with("sql/db.sqlite"), "{name:?}");
        }
    }
}
