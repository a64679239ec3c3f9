//! The real binary as a child process: for kill -9, SIGTERM and what it says when it cannot start.

use super::within;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A server in its own process; killed when dropped.
pub struct Process {
    child: Child,
    addr: SocketAddr,
}

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

impl Process {
    /// Starts `tidegate serve` on a free port and waits until it listens.
    pub async fn serve(data_dir: &Path, more: &[&str]) -> Self {
        Self::serve_with(data_dir, more, |_| {}).await
    }

    /// The same, for a command that `change` has changed: variables, where its log goes.
    pub async fn serve_with(
        data_dir: &Path,
        more: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let dir = data_dir.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", dir];
        arguments.extend(more);
        let mut command = tidegate(&arguments);
        change(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = child.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(out).lines();
        let line = within("the address", lines.next_line())
            .await
            .expect("its output")
            .expect("a line before it ends");
        let addr = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.trim_end_matches('/').parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { child, addr }
    }

    /// Runs the binary to its end; its exit status and what it wrote to standard error.
    pub async fn run(arguments: &[&str]) -> (ExitStatus, String) {
        let output = within("the end", tidegate(arguments).output())
            .await
            .expect("the binary starts");
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(mut self) {
        within("its death", self.child.kill())
            .await
            .expect("it can be killed");
    }

    /// Sends SIGTERM.
    pub async fn terminate(&self) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end.
    pub async fn exit(mut self) -> ExitStatus {
        within("its end", self.child.wait())
            .await
            .expect("a status")
    }
}
