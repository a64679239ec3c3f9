//! A line: the TCP proxy between one peer and what it speaks to, with faults of its own.
//!
//! A line keeps its address while what is behind it comes and goes. It cuts a connection at a byte or at a COMMIT, delays, goes silent without a word
//! to either side (half-open), and may duplicate and swap WebSocket frames on their way up. One task a connection; the
//! end of either direction ends both. Dropping the line ends everything.

use super::frames::{Frames, Odds, find};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes moved at once.
const CHUNK: usize = 4 * 1024;
/// How long a silent connection stays half-open.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a frame waits to be overtaken.
const HELD: Duration = Duration::from_millis(4);

/// How a client of PostgreSQL asks for one.
const COMMIT: &[u8] = b"COMMIT\0";

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the peer to what is behind the line.
    Up,
    /// Back.
    Down,
}

/// The end of a connection that is to come.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// After so many bytes in one direction.
    After { way: Way, left: u64 },
    /// With the next COMMIT: once it has passed, or once its answer is there, which does not pass.
    Commit { answered: bool },
    /// With the next byte of the answer.
    Answer,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Waited before each chunk.
    delay: Duration,
    /// Connections with a lower number have gone silent.
    silent_below: u64,
}

struct Shared {
    upstream: Mutex<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    cut: Mutex<Option<Cut>>,
    accepted: AtomicU64,
    frames: Option<(Odds, u64)>,
    duplicated: AtomicU64,
    swapped: AtomicU64,
}

/// See the module.
pub struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Line {
    /// A line to nowhere yet.
    pub async fn open() -> Self {
        Self::with(None).await
    }

    /// A line that touches WebSocket frames on their way up.
    pub async fn shuffling(odds: Odds, seed: u64) -> Self {
        Self::with(Some((odds, seed))).await
    }

    async fn with(frames: Option<(Odds, u64)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(None),
            weather: watch::Sender::new(Weather::default()),
            cut: Mutex::new(None),
            accepted: AtomicU64::new(0),
            frames,
            duplicated: AtomicU64::new(0),
            swapped: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            accepting,
        }
    }

    /// Where the peer connects.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is behind the line from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().expect("no panic under it") = Some(upstream);
    }

    /// Ends the connection over which `bytes` more have gone that `way`.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.set(Some(Cut::After { way, left: bytes }));
    }

    /// Ends the connection over which the next COMMIT goes, so that its answer is lost.
    pub fn cut_at_commit(&self, answered: bool) {
        self.set(Some(Cut::Commit { answered }));
    }

    fn set(&self, cut: Option<Cut>) {
        *self.shared.cut.lock().expect("no panic under it") = cut;
    }

    /// From now on every chunk waits so long.
    pub fn delay(&self, delay: Duration) {
        self.shared
            .weather
            .send_modify(|weather| weather.delay = delay);
    }

    /// The connections of now carry nothing any more, and nobody is told.
    pub fn go_silent(&self) {
        let accepted = self.shared.accepted.load(Ordering::Relaxed);
        self.shared
            .weather
            .send_modify(|weather| weather.silent_below = accepted);
    }

    /// Good weather again.
    pub fn heal(&self) {
        self.delay(Duration::ZERO);
        self.set(None);
    }

    /// Frames sent twice, and frames overtaken.
    pub fn touched(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.shared.duplicated), read(&self.shared.swapped))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((peer, _)) = accepted else { continue };
                let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(peer, number, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until either side or the weather ends it.
async fn carry(peer: TcpStream, number: u64, shared: Arc<Shared>) {
    let upstream = *shared.upstream.lock().expect("no panic under it");
    let Some(upstream) = upstream else { return };
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    // Small messages travel at once, as they do without a line between.
    for socket in [&peer, &server] {
        let _ = socket.set_nodelay(true);
    }
    let (peer_read, peer_write) = peer.into_split();
    let (server_read, server_write) = server.into_split();
    let frames = shared
        .frames
        .map(|(odds, seed)| Frames::new(odds, seed ^ number));
    let mut up = Pump {
        way: Way::Up,
        from: peer_read,
        to: server_write,
        frames,
        shared: Arc::clone(&shared),
    };
    let mut down = Pump {
        way: Way::Down,
        from: server_read,
        to: peer_write,
        frames: None,
        shared: Arc::clone(&shared),
    };
    tokio::select! {
        _ = up.run() => {}
        _ = down.run() => {}
        // The sockets stay open, held by the two pumps, which no longer run.
        () = silence(&shared, number) => tokio::time::sleep(SILENCE).await,
    }
}

/// Until this connection goes silent.
async fn silence(shared: &Shared, number: u64) {
    let mut weather = shared.weather.subscribe();
    // Fails only when the line is gone, and this task with it.
    let _ = weather
        .wait_for(|weather| weather.silent_below > number)
        .await;
}

/// One direction of a connection.
struct Pump {
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    frames: Option<Frames>,
    shared: Arc<Shared>,
}

impl Pump {
    /// Until the end of this direction.
    async fn run(&mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match &mut self.frames {
                Some(frames) if frames.shuffle.holds() => {
                    match tokio::time::timeout(HELD, self.from.read(&mut buffer)).await {
                        Ok(read) => read?,
                        Err(_) => {
                            let held = frames.shuffle.release().unwrap_or_default();
                            self.send(&held).await?;
                            continue;
                        }
                    }
                }
                _ => self.from.read(&mut buffer).await?,
            };
            if read == 0 {
                return Ok(());
            }
            match self.touch(&buffer[..read]) {
                Some(bytes) => self.send(&bytes).await?,
                None => self.send(&buffer[..read]).await?,
            }
        }
    }

    /// What leaves in place of `bytes`, where frames are touched.
    fn touch(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frames = self.frames.as_mut()?;
        let out = frames.pass(bytes);
        let (duplicated, swapped) = std::mem::take(&mut frames.shuffle.touched);
        self.shared
            .duplicated
            .fetch_add(duplicated, Ordering::Relaxed);
        self.shared.swapped.fetch_add(swapped, Ordering::Relaxed);
        Some(out)
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let delay = self.shared.weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let allowed = self.allowed(bytes);
        self.to.write_all(&bytes[..allowed.len]).await?;
        if allowed.is_last {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// How much of `bytes` may pass before a cut.
    fn allowed(&self, bytes: &[u8]) -> Allowed {
        let all = Allowed {
            len: bytes.len(),
            is_last: false,
        };
        let mut cut = self.shared.cut.lock().expect("no panic under it");
        match (*cut, self.way) {
            (Some(Cut::After { way, left }), _) if way == self.way => {
                let after = left.checked_sub(bytes.len() as u64);
                *cut = after.map(|left| Cut::After { way, left });
                match after {
                    Some(_) => all,
                    None => Allowed {
                        len: usize::try_from(left).expect("less than a chunk"),
                        is_last: true,
                    },
                }
            }
            (Some(Cut::Commit { answered }), Way::Up) if find(bytes, COMMIT).is_some() => {
                *cut = answered.then_some(Cut::Answer);
                Allowed {
                    is_last: !answered,
                    ..all
                }
            }
            (Some(Cut::Answer), Way::Down) => {
                *cut = None;
                Allowed {
                    len: 0,
                    is_last: true,
                }
            }
            _ => all,
        }
    }
}

/// What of a chunk passes, and whether the connection ends behind it.
struct Allowed {
    len: usize,
    is_last: bool,
}
