//! A way to PostgreSQL that can lose the answer to a COMMIT: the server has committed, and nobody hears of it. The next connections
//! are cut too, so that whoever wants to look it up has to try again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A COMMIT as the server sends it: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Connections cut behind a lost answer: the look-up fails, the next would not.
const CUT: usize = 1;

/// The way; it ends with the test's runtime.
pub struct Lossy {
    port: u16,
    plan: Arc<Plan>,
}

/// What is still to go wrong, and what did.
#[derive(Default)]
struct Plan {
    answers: AtomicUsize,
    connections: AtomicUsize,
    lost: AtomicUsize,
}

impl Lossy {
    /// Opens a way to what listens on `port`.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = listener.local_addr().expect("its address").port();
        let plan = Arc::new(Plan::default());
        tokio::spawn(accept(listener, port, Arc::clone(&plan)));
        Self { port: near, plan }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The answers to the next `count` COMMITs are lost.
    pub fn lose(&self, count: usize) {
        self.plan.answers.store(count, Ordering::SeqCst);
    }

    /// Answers lost so far.
    pub fn lost(&self) -> usize {
        self.plan.lost.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, port: u16, plan: Arc<Plan>) {
    while let Ok((near, _)) = listener.accept().await {
        if take_one(&plan.connections) {
            continue;
        }
        if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
            tokio::spawn(carry(near, far, Arc::clone(&plan)));
        }
    }
}

/// Carries bytes both ways until one side ends or an answer is lost.
async fn carry(mut near: TcpStream, mut far: TcpStream, plan: Arc<Plan>) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut losing = false;
    loop {
        tokio::select! {
            Ok(count) = near.read(&mut asked) => {
                let bytes = &asked[..count];
                let commits = bytes.windows(COMMIT.len()).any(|window| window == COMMIT);
                losing |= commits && take_one(&plan.answers);
                if count == 0 || far.write_all(bytes).await.is_err() {
                    return;
                }
            }
            Ok(count) = far.read(&mut answered) => {
                if losing {
                    plan.connections.store(CUT, Ordering::SeqCst);
                    plan.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if count == 0 || near.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}
