//! The programs as users run them: a running `tidegate serve`, and what it answers to a plain GET.
//!
//! For tests that run the binary from outside, each in a process of its own.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The binary under test.
pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// A running `tidegate serve`, killed when dropped.
pub struct Server(Child);

impl Server {
    /// Ready when this returns.
    pub fn start(port: u16, data_dir: &Path) -> Self {
        Self::start_with(port, data_dir, &[])
    }

    /// The same with more arguments.
    pub fn start_with(port: u16, data_dir: &Path, more: &[&str]) -> Self {
        let mut process = Command::new(TIDEGATE)
            .args([
                "serve",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data-dir",
            ])
            .arg(data_dir)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let server = Self(process);
        let line = output
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("is listening on"));
        assert!(line.is_some(), "the server does not start");
        server
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL: no drain, no goodbye.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A port that was free a moment ago, for a server that has to come back at the same address.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// What the server answers to a GET, headers and all.
pub fn get(port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
