//! The folder of a node's database: where its files are, and what becomes of one that cannot be used.
//!
//! Layout: `<data dir>/sql/db.sqlite` with SQLite's own `-wal` and `-shm` beside it, `temporary-N` while an image is on its way,
//! `damaged` when the node gave up because of the file, and `set-aside-N` for what was of no use.
//! Not here: what the file holds (`services/sql/`).

use super::disk::EXIT_DISK;
use super::logging;
use super::sql_laps::Laps;
use crate::services::sql::Files;
use crate::store::create_private_dir;
use log::{error, info, warn};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A file up to this size is checked page by page at the start: some 0.2 s.
const CHECK_BYTES_MAX: u64 = 64 << 20;
/// Between two pieces of a long copy.
const BREATH: Duration = Duration::from_millis(2);
/// Between two looks at the disk while a statement writes: in this time it can write some ten megabytes.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// With less room on the disk no statement goes on.
const ROOM_MIN: u64 = 48 << 20;
/// What SQLite keeps beside a file.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// See the module.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    owner: String,
    next: AtomicU64,
    /// Room that reads leave on the disk.
    reserve_bytes: u64,
    started: Instant,
    /// Microseconds since then.
    looked_us: AtomicU64,
    laps: Arc<Laps>,
}

impl Folder {
    /// Makes the folder if it is not there, and removes what a crash has left half done.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(data: &Path, owner: String, reserve_bytes: u64, laps: Arc<Laps>) -> io::Result<Folder> {
        let path = data.join("sql");
        create_private_dir(&path)?;
        let (next, looked_us) = (AtomicU64::new(0), AtomicU64::new(0));
        let folder = Folder { path, owner, next, reserve_bytes, started: Instant::now(), looked_us, laps };
        for entry in fs::read_dir(&folder.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("temporary-") {
                fs::remove_file(entry.path())?;
            }
        }
        let mark = folder.mark();
        if let Ok(why) = fs::read_to_string(&mark) {
            folder.set_aside(&why);
            fs::remove_file(&mark)?;
        }
        Ok(folder)
    }

    /// Says that the file is damaged, for the next start.
    fn mark(&self) -> PathBuf {
        self.path.join("damaged")
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Files for Folder {
    fn path(&self) -> PathBuf {
        self.path.join("db.sqlite")
    }

    fn owner(&self) -> String {
        self.owner.clone()
    }

    fn temporary(&self) -> PathBuf {
        self.path.join(format!("temporary-{}", self.next.fetch_add(1, Ordering::Relaxed)))
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
        for path in BESIDE.map(|suffix| beside(path, suffix)).into_iter().chain([path.to_path_buf()]) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => warn!("{} stays: {e}", path.display()),
                _ => {}
            }
        }
    }

    fn set_aside(&self, why: &str) {
        // One is kept for people to look at, the newest.
        let aside = self.path.join("set-aside.sqlite");
        self.remove(&aside);
        let from = self.path();
        warn!("the database is set aside as {}: {why}", aside.display());
        for suffix in BESIDE.into_iter().chain([""]) {
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
            error!("the next start rebuilds the database from snapshot and log");
            if let Err(e) = fs::write(self.mark(), why).and_then(|()| File::open(self.mark())?.sync_all()) {
                error!("{} cannot be written: {e}; remove {} by hand", self.mark().display(), self.path().display());
            }
        }
        logging::exit(EXIT_DISK);
    }

    fn look_at_room(&self, is_certain: bool) {
        let now_us = self.started.elapsed().as_micros() as u64;
        let looked_us = self.looked_us.load(Ordering::Relaxed);
        if !is_certain && now_us.saturating_sub(looked_us) < LOOK_EVERY.as_micros() as u64 {
            return;
        }
        self.looked_us.store(now_us, Ordering::Relaxed);
        let Ok(free) = fs2::available_space(&self.path) else { return };
        if free < ROOM_MIN {
            self.give_up(
                &format!(
                    "{} MiB are free on the disk of {} while a statement of the database writes: free some and start again",
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

    fn breathe(&self) {
        std::thread::sleep(BREATH);
    }

    fn lap(&self, seed: u64) {
        self.laps.lap(seed);
    }

    fn tell(&self, what: &str) {
        info!("{what}");
    }

    fn check_bytes_max(&self) -> u64 {
        CHECK_BYTES_MAX
    }
}
