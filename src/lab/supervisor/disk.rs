//! Damage to the folder of a node that does not run.

use crate::store::WAL_DIR;
use crate::work::leftovers;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Removes the node's folder, as a new disk would not have it.
pub fn wipe(node_dir: &Path) -> Result<String, String> {
    leftovers::unmount_below(node_dir);
    std::fs::remove_dir_all(node_dir).map_err(|e| format!("cannot remove {}: {e}", node_dir.display()))?;
    Ok(format!("{} removed", node_dir.display()))
}

/// Changes one bit of what the newest segment of the log holds, in its middle: that was synced long ago, so no torn write
/// explains it.
pub fn flip_a_bit(node_dir: &Path) -> Result<String, String> {
    let wal = node_dir.join(WAL_DIR);
    let in_wal = |e: std::io::Error| format!("cannot damage {}: {e}", wal.display());
    let entries = std::fs::read_dir(&wal).map_err(in_wal)?.flatten();
    let mut segments: Vec<_> = entries.map(|it| it.path()).filter(|path| path.is_file()).collect();
    segments.sort();
    for path in segments.iter().rev() {
        let bytes = std::fs::read(path).map_err(in_wal)?;
        // Segments are zeroed beforehand: what follows the last other byte was never written.
        let Some(used) = bytes.iter().rposition(|byte| *byte != 0) else { continue };
        let at = used / 2;
        let file = OpenOptions::new().write(true).open(path).map_err(in_wal)?;
        file.write_all_at(&[bytes[at] ^ 1], at as u64).and_then(|()| file.sync_all()).map_err(in_wal)?;
        return Ok(format!("one bit of {} changed, in byte {at}", path.display()));
    }
    Err(format!("{} holds nothing that could be damaged", wal.display()))
}
