//! The yardstick of the road: an echo on bare tokio-tungstenite, plain or with coalesced flushes, as a child process.

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves until it is killed; its port is its only line.
pub async fn serve(coalesced: bool) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(echo(tcp, coalesced));
    }
    Ok(())
}

async fn echo(tcp: TcpStream, coalesced: bool) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let mut socket = tokio_tungstenite::accept_async(tcp).await?;
    while let Some(message) = socket.next().await {
        let mut next = Some(message?);
        while let Some(message) = next.take().filter(|m| m.is_text() || m.is_binary()) {
            if !coalesced {
                socket.send(message).await?;
                break;
            }
            socket.feed(message).await?;
            next = socket.next().now_or_never().flatten().transpose()?;
        }
        socket.flush().await?;
    }
    Ok(())
}
