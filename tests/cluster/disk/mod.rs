//! A disk that fills up, a folder that is put back to an older copy, files that were cut short: the cluster goes on, and the
//! node says what is wrong.

mod damage;
mod folders;
mod full;
mod lost;
mod older;

use phalanx::lab::Cluster;
use std::path::{Path, PathBuf};

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
