//! How much room a disk has left.

use std::path::Path;

/// Bytes that this user may still write on the disk that holds `file`; `None` where the system does not say.
pub fn free_bytes(file: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(file).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
