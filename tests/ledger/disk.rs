//! A disk without room, and room again.
//!
//! Where this user may mount, the data dir is a small tmpfs, and a ballast file takes what is left of it. Everywhere else, and in
//! some seeds on purpose, `strace` takes hold of the server and makes its writes to the database fail with ENOSPC. Where that is not
//! permitted either, the fault is left out and the table says so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Room for a run's database, its log and more.
const SIZE: &str = "size=48m";
/// Ballast is written in pieces, the last ones small.
const PIECES: [usize; 3] = [1 << 20, 1 << 12, 1];
/// What a database grows and writes with.
const CALLS: &str = "pwrite64,ftruncate,fallocate";
/// Longest until strace has taken hold of a process.
const ATTACH: Duration = Duration::from_secs(5);

/// A small disk; unmounted when dropped.
pub struct Disk(PathBuf);

/// No room; [`Full::relieve`] makes some.
pub enum Full {
    /// A file has taken it all.
    Ballast(PathBuf),
    /// A tracer says so.
    Tracer(Child),
}

impl Disk {
    /// Mounts one on `dir`; `None` where this user may not.
    pub fn mount(dir: &Path) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tidegate-ledger"])
            .arg(dir)
            .stderr(Stdio::null())
            .status();
        mount.ok()?.success().then(|| Self(dir.to_owned()))
    }

    /// Takes all the room.
    pub fn fill(&self) -> Full {
        use std::io::Write;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path).expect("a ballast file");
        for piece in PIECES {
            let bytes = vec![0; piece];
            while file.write_all(&bytes).is_ok() {}
        }
        Full::Ballast(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may hold it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Full {
    /// Makes the writes of a process fail; `None` where this user may not.
    pub async fn inject(process: u32) -> Option<Self> {
        let (trace, inject) = (
            format!("trace={CALLS}"),
            format!("inject={CALLS}:error=ENOSPC"),
        );
        let mut tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", &trace, "-e", &inject, "-o", "/dev/null"])
            .args(["-p", &process.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let traced = format!("TracerPid:\t{}\n", tracer.id());
        let deadline = Instant::now() + ATTACH;
        while Instant::now() < deadline && tracer.try_wait().ok()?.is_none() {
            let status = std::fs::read_to_string(format!("/proc/{process}/status"));
            if status.is_ok_and(|status| status.contains(&traced)) {
                return Some(Self::Tracer(tracer));
            }
            sleep(Duration::from_millis(2)).await;
        }
        let _ = tracer.kill();
        let _ = tracer.wait();
        None
    }

    /// There is room again.
    pub async fn relieve(self) {
        match self {
            Self::Ballast(file) => std::fs::remove_file(file).expect("the ballast goes"),
            Self::Tracer(mut tracer) => {
                let id = tracer.id().to_string();
                let _ = Command::new("kill").args(["-INT", &id]).status();
                let ended = tokio::task::spawn_blocking(move || tracer.wait());
                let _ = ended.await;
            }
        }
    }
}
