//! The WebSocket stack in one file: the upgrade of an HTTP request, and the buffers of every socket.
//!
//! Owns the handshake's checks (RFC 6455, section 4.2) and the choice of subprotocol. After the upgrade the plain TCP stream is taken back from
//! hyper, so that an idle socket keeps no HTTP state. Knows nothing of what is said on a socket.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use futures_util::FutureExt;
use hyper_util::rt::TokioIo;
use tidegate_protocol::{Codec, MAX_FRAME_BYTES};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Read buffer of every socket, bytes; allocated with the socket, and cleared with every read. A reading is about 150 bytes: a busy
/// device's read takes seven, an idle socket holds no more than this. A longer message makes room for itself.
const READ_BUFFER_BYTES: usize = 1024;
/// Bytes gathered before a write goes out by itself; a flush sends less at once.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Most bytes that may wait in a socket's write buffer. Never reached by who feeds and waits: once the kernel takes no more, the next
/// frame waits until the buffer is empty, so it holds `WRITE_BUFFER_BYTES` and one frame.
const MAX_WRITE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// Most bytes that the kernel may hold for a subscriber that does not read (it takes twice as many, for its own overhead). Left alone it would grow to
/// megabytes, and a slow dashboard would look at events of a minute ago.
const SUBSCRIBER_SEND_BYTES: usize = 128 * 1024;

/// Longest that a peer may take to answer a close frame.
pub const CLOSE_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// A socket after its upgrade.
pub type Socket = WebSocketStream<TcpStream>;

/// Buffers and limits of every socket.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
}

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// A plain HTTP request.
    #[error("this is a WebSocket address: expected an upgrade")]
    NotUpgrade,
    /// Another version of the WebSocket protocol.
    #[error("expected Sec-WebSocket-Version 13")]
    Version,
    /// Only subprotocols that this server does not speak.
    #[error("expected subprotocol tidegate.v1.json or tidegate.v1.bincode")]
    Subprotocol,
}

/// A request that will become a WebSocket.
pub struct Upgrade {
    /// How the peer writes its messages.
    pub codec: Codec,
    pending: hyper::upgrade::OnUpgrade,
    response: Response<Body>,
}

impl Upgrade {
    /// Checks the handshake.
    ///
    /// # Errors
    /// See [`UpgradeError`].
    pub fn new(request: &mut Request) -> Result<Self, UpgradeError> {
        let headers = request.headers();
        let asks = has_token(headers, header::CONNECTION, "upgrade")
            && has_token(headers, header::UPGRADE, "websocket");
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .filter(|_| asks)
            .ok_or(UpgradeError::NotUpgrade)?;
        let accept = derive_accept_key(key.as_bytes());
        if headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Err(UpgradeError::Version);
        }
        let (codec, offered) = choose_codec(headers)?;
        let response = switching(&accept, offered.then_some(codec));
        Ok(Self {
            codec,
            response,
            pending: hyper::upgrade::on(request),
        })
    }

    /// The response, and the socket to come. A peer that goes away meanwhile gives no socket.
    pub fn split(self) -> (Response<Body>, impl Future<Output = Option<Socket>> + Send) {
        (self.response, open(self.pending))
    }
}

async fn open(pending: hyper::upgrade::OnUpgrade) -> Option<Socket> {
    let upgraded = pending.await.ok()?;
    let parts =
        hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded).ok()?;
    let tcp = parts.io.into_inner();
    let read = parts.read_buf.to_vec();
    // Boxed: the future of a socket is made once a connection, its size would weigh on every task.
    Some(
        WebSocketStream::from_partially_read(tcp, read, Role::Server, Some(config()))
            .boxed()
            .await,
    )
}

/// Bounds what the kernel holds for a subscriber.
pub fn bound_send_buffer(socket: &Socket) {
    let tcp = socket2::SockRef::from(socket.get_ref());
    if let Err(error) = tcp.set_send_buffer_size(SUBSCRIBER_SEND_BYTES) {
        tracing::debug!(%error, "SO_SNDBUF not set");
    }
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The first offered subprotocol that is ours; JSON when none is offered.
fn choose_codec(headers: &HeaderMap) -> Result<(Codec, bool), UpgradeError> {
    let values = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let mut offered = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .peekable();
    if offered.peek().is_none() {
        return Ok((Codec::Json, false));
    }
    offered
        .find_map(Codec::from_subprotocol)
        .map(|codec| (codec, true))
        .ok_or(UpgradeError::Subprotocol)
}

fn switching(accept: &str, subprotocol: Option<Codec>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(codec) = subprotocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(codec.subprotocol()),
        );
    }
    response
}

/// The close frame of a code.
pub fn close_frame(code: tidegate_protocol::CloseCode) -> tokio_tungstenite::tungstenite::Message {
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    Message::Close(Some(CloseFrame {
        code: code.code().into(),
        reason: code.reason().into(),
    }))
}

/// One encoded message as a frame of its codec.
pub fn frame(codec: Codec, bytes: Vec<u8>) -> tokio_tungstenite::tungstenite::Message {
    use tokio_tungstenite::tungstenite::Message;
    match codec {
        // serde_json writes UTF-8 only, so the text is never replaced; the check costs less than unsafe would.
        Codec::Json => Message::text(String::from_utf8(bytes).unwrap_or_default()),
        Codec::Bincode => Message::binary(bytes),
    }
}

/// Says goodbye and waits a moment for the peer's answer, so that what was sent before arrives.
pub async fn close(socket: &mut Socket, goodbye: tokio_tungstenite::tungstenite::Message) {
    use futures_util::{SinkExt, StreamExt};
    let farewell = async {
        if socket.send(goodbye).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    // Elapsed: the peer does not answer; dropping the socket ends it.
    let _ = tokio::time::timeout(CLOSE_WAIT, farewell).await;
}
