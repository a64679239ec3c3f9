//! Mosquitto with its memory on disk, restarted with the sessions it kept or with none.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longest that a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it takes connections.
const LOOK: Duration = Duration::from_millis(5);

/// A broker; killed when dropped.
pub struct Broker {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
}

impl Broker {
    /// A new one on a free port.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (child, addr) = launch(dir.path()).await;
        Self { child, addr, dir }
    }

    /// Where it listens; another place after each restart.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it and starts another one: in order, with every session and message it had, or killed and with an empty memory.
    pub async fn restart(&mut self, keep: bool) {
        if keep {
            let id = self.child.id().expect("it runs").to_string();
            let told = Command::new("kill").args(["-TERM", &id]).status().await;
            assert!(told.is_ok_and(|status| status.success()), "kill -TERM");
            timeout(PATIENCE, self.child.wait())
                .await
                .expect("it ends")
                .expect("a status");
        } else {
            self.child.kill().await.expect("it can be killed");
            // Not there before the first save.
            let _ = std::fs::remove_file(self.dir.path().join("mosquitto.db"));
        }
        (self.child, self.addr) = launch(self.dir.path()).await;
    }
}

async fn launch(dir: &Path) -> (Child, SocketAddr) {
    let port = free_port();
    let config = dir.join("mosquitto.conf");
    // As root it would become another user, who cannot write here.
    let lines = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
         max_inflight_messages 1000\nmax_queued_messages 100000\n",
        dir.display()
    );
    std::fs::write(&config, lines).expect("its configuration");
    let child = Command::new(program())
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("mosquitto starts: apt-get install mosquitto");
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let listening = async {
        while TcpStream::connect(addr).await.is_err() {
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, listening).await.expect("it listens");
    (child, addr)
}

/// A port that was free a moment ago: Mosquitto cannot tell which one it was given.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Debian keeps it outside of a plain user's PATH.
fn program() -> &'static str {
    let sbin = "/usr/sbin/mosquitto";
    if Path::new(sbin).exists() {
        sbin
    } else {
        "mosquitto"
    }
}
