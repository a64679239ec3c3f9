//! A wire that can be spoilt: a small proxy between the server and a peer.
//!
//! It can swallow the bytes of the connections it has, in one direction or both, without closing anything; cut them; and turn away new
//! ones that open with certain words. Connections that come later pass again.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The proxy; its connections end with the test's runtime.
pub struct Gate {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    wires: Vec<Arc<Wire>>,
    turned_away: Option<&'static str>,
}

/// One connection.
#[derive(Default)]
struct Wire {
    /// What the side that connected said first.
    opening: String,
    swallows_forth: AtomicBool,
    swallows_back: AtomicBool,
    cut: CancellationToken,
}

impl Gate {
    /// A proxy before `upstream`.
    pub async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                tokio::spawn(join(peer, upstream, Arc::clone(&shared)));
            }
        });
        Self { addr, state }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing that was said by those who connected with `opening` arrives.
    pub fn swallow_forth(&self, opening: &str) {
        self.each(opening, |wire| {
            wire.swallows_forth.store(true, Ordering::Relaxed);
        });
    }

    /// From now on nothing arrives at either end of the connections there are.
    pub fn swallow_all(&self) {
        self.each("", |wire| {
            wire.swallows_forth.store(true, Ordering::Relaxed);
            wire.swallows_back.store(true, Ordering::Relaxed);
        });
    }

    /// Cuts the connections there are.
    pub fn cut(&self) {
        self.each("", |wire| wire.cut.cancel());
        self.state.lock().wires.clear();
    }

    /// Turns away who opens with `opening` from now on; `None` lets everyone in again.
    pub fn turn_away(&self, opening: Option<&'static str>) {
        self.state.lock().turned_away = opening;
    }

    fn each(&self, opening: &str, spoil: impl Fn(&Wire)) {
        let state = self.state.lock();
        let wires = state.wires.iter();
        wires
            .filter(|wire| wire.opening.contains(opening))
            .for_each(|wire| spoil(wire));
    }
}

async fn join(mut peer: TcpStream, upstream: SocketAddr, state: Arc<Mutex<State>>) {
    let mut first = vec![0; 4_096];
    let Ok(length) = peer.read(&mut first).await else {
        return;
    };
    let opening = String::from_utf8_lossy(&first[..length]).into_owned();
    let wire = Arc::new(Wire {
        opening,
        ..Wire::default()
    });
    {
        let mut state = state.lock();
        let away = state.turned_away;
        if away.is_some_and(|words| wire.opening.contains(words)) {
            return;
        }
        state.wires.push(Arc::clone(&wire));
    }
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return;
    };
    if server.write_all(&first[..length]).await.is_err() {
        return;
    }
    let (peer_in, peer_out) = peer.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(peer_in, server_out, &wire.swallows_forth) => {}
        () = pass(server_in, peer_out, &wire.swallows_back) => {}
        () = wire.cut.cancelled() => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: &AtomicBool) {
    let mut bytes = vec![0; 64 * 1_024];
    while let Ok(length) = from.read(&mut bytes).await {
        if length == 0 {
            return;
        }
        if !swallows.load(Ordering::Relaxed) && to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
