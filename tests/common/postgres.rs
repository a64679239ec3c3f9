//! A private PostgreSQL: a cluster of the test's own, on a free port, gone when it is dropped.
//!
//! Taken in by several test targets through `#[path]`. Owns the folder of the cluster and its postmaster, synced as it should be
//! (`fsync` stays on). `initdb` runs once a checkout; every cluster is a copy of what it made. PostgreSQL refuses to run as root, so root
//! hands the folder and the processes to the system's user `postgres`. Does not install anything: `cargo xtask test` does.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for a start, a stop or an answer.
const WAIT: Duration = Duration::from_secs(30);
/// Between two looks at what nobody announces.
const LOOK: Duration = Duration::from_millis(10);
/// Ports tried; another process may take one between the look and the start.
const PORTS: usize = 5;

/// Light, so that several run side by side; durable, because that is what is tested.
const SETTINGS: &str = "\
fsync = on
synchronous_commit = on
full_page_writes = on
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 40
shared_buffers = 32MB
";

/// One cluster may be made from nothing at a time.
static MAKING: Mutex<()> = Mutex::new(());

/// A running cluster.
pub struct Postgres {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    postmaster: Option<Child>,
}

impl Postgres {
    /// Starts a cluster of its own and waits until it takes connections.
    pub async fn start() -> Self {
        let bin = bin();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let template = tokio::task::spawn_blocking({
            let (bin, data) = (bin.clone(), dir.path().join("data"));
            move || copy(&template(&bin), &data)
        });
        template.await.expect("a copied cluster");
        give_away(dir.path());
        let mut postgres = Self {
            bin,
            dir,
            port: 0,
            postmaster: None,
        };
        for _ in 0..PORTS {
            postgres.port = free_port();
            if postgres.launch().await {
                return postgres;
            }
        }
        panic!("PostgreSQL did not start: {}", postgres.log());
    }

    /// What a server is told.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for another database of this cluster.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the cluster, with `pg_hba.conf` in it.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Stops it in order (connections are ended) and starts it again on the same port.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Stops it in order; connections are ended.
    pub async fn stop(&mut self) {
        self.end("INT").await;
    }

    /// Stops it as a crash does: nothing is written that was not written yet.
    pub async fn crash(&mut self) {
        self.end("QUIT").await;
    }

    /// Starts a stopped cluster on its old port.
    pub async fn start_again(&mut self) {
        assert!(self.postmaster.is_none(), "it runs");
        assert!(self.launch().await, "no start: {}", self.log());
    }

    /// Holds every process of it: connections stay open and nothing answers.
    pub fn pause(&self) {
        // The postmaster first, so that no process is added meanwhile.
        signal("STOP", &[self.id()]);
        signal("STOP", &children(self.id()));
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&self) {
        signal("CONT", &children(self.id()));
        signal("CONT", &[self.id()]);
    }

    /// Runs statements and gives what `psql` prints: rows by line, columns between `|`.
    pub async fn psql(&self, sql: &str) -> String {
        let mut command = tokio::process::Command::new(self.bin.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url())
            .kill_on_drop(true);
        let output = within("psql", command.output()).await.expect("psql starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts the postmaster; false when it ended before it was ready.
    async fn launch(&mut self) -> bool {
        let log = fs::File::create(self.dir.path().join("log")).expect("a log file");
        let mut command = as_owner(Command::new(self.bin.join("postgres")));
        command
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port.to_string()])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.postmaster = Some(command.spawn().expect("postgres starts"));
        let mut ready = false;
        within("a postmaster", async {
            while !ready && self.is_running() {
                tokio::time::sleep(LOOK).await;
                ready = self.is_ready();
            }
        })
        .await;
        if !ready {
            self.postmaster = None;
        }
        ready
    }

    fn is_running(&mut self) -> bool {
        let child = self.postmaster.as_mut().expect("it was started");
        child.try_wait().expect("its status").is_none()
    }

    /// The eighth line of its pid file says so, as `pg_ctl` reads it too.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let ours = lines.next() == Some(&self.id().to_string());
        ours && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    async fn end(&mut self, how: &str) {
        let mut child = self.postmaster.take().expect("it runs");
        signal(how, &[child.id()]);
        let ended = tokio::task::spawn_blocking(move || child.wait());
        within("the end of the postmaster", ended)
            .await
            .expect("a wait")
            .expect("its status");
    }

    fn id(&self) -> u32 {
        self.postmaster.as_ref().expect("it runs").id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.postmaster.is_none() {
            return;
        }
        // Its processes go with it, held ones only once they run again.
        self.resume();
        signal("QUIT", &[self.id()]);
        if let Some(mut child) = self.postmaster.take() {
            let _ = child.wait();
        }
    }
}

/// The newest server on this machine.
fn bin() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort();
    let newest = found.pop().map(|(_, bin)| bin);
    newest.expect("no PostgreSQL in /usr/lib/postgresql: `cargo xtask test` installs it")
}

/// A cluster as `initdb` makes it; made by the first who asks, for all test programs of this checkout.
fn template(bin: &Path) -> PathBuf {
    let _one_at_a_time = MAKING.lock().unwrap_or_else(|broken| broken.into_inner());
    let version = bin.parent().and_then(Path::file_name).expect("a version");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = home.join(format!("postgres-{}-template", version.display()));
    if template.is_dir() {
        return template;
    }
    let work = tempfile::tempdir().expect("a temporary folder");
    give_away(work.path());
    let data = work.path().join("data");
    let mut initdb = as_owner(Command::new(bin.join("initdb")));
    initdb.current_dir(work.path()).arg("-D").arg(&data).args([
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]);
    let output = initdb.output().expect("initdb starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "initdb: {said}");
    let config = data.join("postgresql.conf");
    let given = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, given + SETTINGS).expect("a configuration");
    // Moved into place as a whole; another program that was quicker has made the same.
    let part = home.join(format!("postgres-part-{}", std::process::id()));
    copy(&data, &part);
    if fs::rename(&part, &template).is_err() {
        fs::remove_dir_all(&part).expect("the spare copy goes");
    }
    template
}

/// Copies a folder with owners and permissions.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([from, to])
        .status();
    assert!(copied.expect("cp is there").success(), "{}", to.display());
}

/// The system's user `postgres`, when this is root.
fn owner() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut ids = line.expect("a user postgres").split(':').skip(2);
    let mut id = || ids.next()?.parse().ok();
    Some((id()?, id()?))
}

fn as_owner(mut command: Command) -> Command {
    if let Some((user, group)) = owner() {
        command.uid(user).gid(group);
    }
    command
}

fn give_away(dir: &Path) {
    if let Some((user, group)) = owner() {
        std::os::unix::fs::chown(dir, Some(user), Some(group)).expect("root may");
    }
}

/// Processes whose parent is `id`.
fn children(id: u32) -> Vec<u32> {
    let parent = format!("PPid:\t{id}");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|child: &u32| {
        let status = fs::read_to_string(format!("/proc/{child}/status"));
        status.is_ok_and(|status| status.lines().any(|line| line == parent))
    })
    .collect()
}

/// A process that ended meanwhile needs no signal.
fn signal(name: &str, ids: &[u32]) {
    let ids = ids.iter().map(u32::to_string);
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(ids).stderr(Stdio::null());
    let _: io::Result<_> = kill.status();
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future)
        .await
        .unwrap_or_else(|_| panic!("nothing came within {WAIT:?}: {what}"))
}
