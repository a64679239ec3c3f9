//! Mosquitto on a port of its own, with its queue limits raised and without Nagle's wait.

use super::PATIENCE;
use anyhow::{Context, ensure};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A broker; killed when dropped.
pub struct Broker {
    child: Child,
    pub port: u16,
    _gone_when_dropped: TempDir,
}

impl Broker {
    /// Starts one and waits until it takes connections.
    pub async fn start() -> anyhow::Result<Self> {
        // A port that was free a moment ago: Mosquitto cannot tell which one it was given.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("mosquitto.conf");
        let lines = [
            format!("listener {port} 127.0.0.1"),
            "allow_anonymous true\npersistence false\nset_tcp_nodelay true".into(),
            "max_inflight_messages 2000\nmax_queued_messages 1000000\n".into(),
        ];
        std::fs::write(&file, lines.join("\n"))?;
        // Debian keeps it outside of a plain user's PATH.
        let sbin = Path::new("/usr/sbin/mosquitto");
        let program = if sbin.exists() {
            sbin
        } else {
            Path::new("mosquitto")
        };
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("mosquitto: apt-get install mosquitto")?;
        let broker = Self {
            child,
            port,
            _gone_when_dropped: dir,
        };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "mosquitto does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(broker)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
