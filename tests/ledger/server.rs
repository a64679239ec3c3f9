//! The server as users run it: a process of its own, killed, stopped and frozen by its id.
//!
//! Its bounds are small, so that snapshots, batches and queues are met all the time. Its log is kept beside its data.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest that a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Small bounds: every path is crossed often.
const CONFIG: &str = "\
listen = \"127.0.0.1:0\"

[connections]
ping_s = 2
pong_s = 1
overload_close_s = 2

[sessions]
idle_s = 1
snapshot_every = 7

[live]
outbox = 256
backlog = 16

[store]
queue = 1024
max_batch = 48
";

/// See the module. Killed when dropped.
pub struct Server {
    child: Option<Child>,
    /// A program that runs it, with its arguments.
    tracer: Vec<String>,
    config: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Not running yet; `dir` is for its configuration and its log, `store` are more lines of that table, `tables` more tables.
    pub fn new(dir: &Path, data_dir: &Path, models_dir: &Path, store: &str, tables: &str) -> Self {
        let config = dir.join("tidegate.toml");
        let dirs = format!("data_dir = {data_dir:?}\nmodels_dir = {models_dir:?}\n");
        std::fs::write(&config, [&dirs, CONFIG, store, tables].concat())
            .expect("its configuration");
        Self {
            child: None,
            tracer: Vec::new(),
            config,
            log: dir.join("server.log"),
        }
    }

    /// Has it run by another program.
    pub fn trace(&mut self, tracer: &[String]) {
        self.tracer = tracer.to_vec();
    }

    /// Starts it; where it listens, or what it said.
    pub async fn start(&mut self) -> Result<SocketAddr, String> {
        assert!(self.child.is_none(), "it runs already");
        let words = [
            self.tracer.as_slice(),
            &[env!("CARGO_BIN_EXE_tidegate").into()],
        ]
        .concat();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["serve", "--config"])
            .arg(&self.config)
            .env("TIDEGATE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log_file())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", words[0]))?;
        let out = child.stdout.take().expect("standard output is piped");
        self.child = Some(child);
        let mut lines = BufReader::new(out).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            self.kill().await;
            return Err(format!(
                "it ended without listening; see {}",
                self.log.display()
            ));
        };
        let addr = line.rsplit("http://").next();
        let addr = addr.and_then(|addr| addr.trim_end_matches('/').parse().ok());
        addr.ok_or_else(|| format!("no address in {line:?}"))
    }

    fn log_file(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("its log")
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("it can be killed");
        }
    }

    /// SIGTERM; its exit status, or none when it takes longer than any drain.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        self.signal("TERM").await;
        let mut child = self.child.take()?;
        timeout(PATIENCE, child.wait()).await.ok()?.ok()
    }

    /// Whether the last stop said that it left something undone, and what.
    pub fn said_what_it_left(&self) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.rfind("stopping").map_or("", |at| &log[at..]);
        last.contains("stopped before everything was finished")
    }

    /// Sends a signal.
    pub async fn signal(&self, name: &str) {
        let Some(id) = self.id() else { return };
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id.to_string()])
            .status()
            .await;
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Its process id while it runs: the tracer's only child, if there is a tracer.
    pub fn id(&self) -> Option<u32> {
        let id = self.child.as_ref().and_then(Child::id)?;
        if self.tracer.is_empty() {
            return Some(id);
        }
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}
