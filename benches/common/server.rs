//! A server under measurement: a child process, so that its CPU time and memory can be read and it can be killed.
//!
//! Owns the child; it is killed when dropped, its data dir is the caller's. Tidegate is the very binary that users run, with its defaults;
//! `TIDEGATE_*` variables reach it. It is asked over plain HTTP.

use super::PATIENCE;
use anyhow::{Context, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Server {
    child: Child,
    pub port: u16,
    /// What it says later must find an open pipe.
    _says: BufReader<ChildStdout>,
}

impl Server {
    /// `tidegate serve` on a free port; `settings` are variables over its defaults.
    pub fn tidegate(data_dir: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::tidegate_on(None, data_dir, settings)
    }

    /// The same on one core.
    pub fn tidegate_on(
        core: Option<usize>,
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut command = on_core(core, env!("CARGO_BIN_EXE_tidegate").as_ref());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir);
        if std::env::var_os("TIDEGATE_LOG").is_none() {
            command.env("TIDEGATE_LOG", "warn");
        }
        Self::start(command.envs(settings.iter().copied()))
    }

    /// This program again, as a server of another kind, on one core if that is said.
    pub fn of_this_program_on(
        core: Option<usize>,
        kind: &str,
        argument: &str,
    ) -> anyhow::Result<Self> {
        let mut command = on_core(core, &std::env::current_exe()?);
        Self::start(command.args(["--serve", kind, "--argument", argument]))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts a program whose first line ends in its port.
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut says = BufReader::new(child.stdout.take().context("piped")?);
        let mut line = String::new();
        says.read_line(&mut line)?;
        let port = line.trim().trim_end_matches('/').rsplit(':').next();
        let port = port.and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("{command:?} did not start: {line:?}"))?;
        Ok(Self {
            child,
            port,
            _says: says,
        })
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// User and system time so far. The kernel counts in ticks of 10 ms.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Memory that is this process's own, with its share of what it shares, bytes.
    pub fn pss(&self) -> anyhow::Result<u64> {
        self.memory("smaps_rollup", "Pss:")
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        self.memory("status", "VmRSS:")
    }

    fn memory(&self, file: &str, key: &str) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.with_context(|| format!("no {key}"))?.parse()?;
        Ok(kib * 1024)
    }

    /// Body of a GET that was answered with 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        self.ask("GET", path, "").await
    }

    /// Body of a POST of JSON that was answered with 200.
    pub async fn post(&self, path: &str, body: &str) -> anyhow::Result<String> {
        self.ask("POST", path, body).await
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let asking = async {
            let mut tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            tcp.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(
            head.starts_with("HTTP/1.1 200 "),
            "{path}: {}",
            head.lines().next().unwrap_or_default()
        );
        Ok(body.to_owned())
    }

    /// The sum of a metric's series; `name` may be cut short to take in several.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.get("/metrics").await?;
        let series = text.lines().filter(|line| line.starts_with(name));
        let numbers = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(numbers.sum())
    }
}

/// A command that runs on one core: a runtime then has as many threads as there are cores for it. `taskset` becomes the program.
fn on_core(core: Option<usize>, program: &Path) -> Command {
    match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string()]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
