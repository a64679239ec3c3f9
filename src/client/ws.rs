//! A device's WebSocket: handshake, welcome, frames, and what a close means.
//!
//! One value owns the socket; reading and flushing are polled together, so a server that pushes back cannot lock both
//! sides up. Buffers are small: a rig costs about 16 KiB. Pings are answered by tungstenite.

use super::link::{CLOSE_TIMEOUT, CONNECT_TIMEOUT, LinkEnd, TAKE_AT_ONCE, encode};
use super::target::{Address, Target};
use futures_util::{FutureExt, Sink, Stream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tidegate_protocol::close::should_reconnect;
use tidegate_protocol::message::{ServerError, Welcome};
use tidegate_protocol::{Codec, Reading, ServerMessage, Wire};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Largest message taken from a server, bytes.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Most bytes waiting to be written; the window stays far below for readings of a usual width.
const MAX_WRITE_BYTES: usize = 16 * 1024 * 1024;
/// Close code of a connection that ended without a close frame.
const NO_CLOSE_FRAME: u16 = 1006;

/// A stream's connection after its welcome.
pub(super) struct WsLink {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
    /// Whether frames wait to be flushed.
    dirty: bool,
    /// The server's last word before a close.
    refusal: Option<ServerError>,
    /// The end, while messages before it are still unheard.
    end: Option<LinkEnd>,
}

impl WsLink {
    /// Connects and waits for the welcome.
    pub async fn connect(target: &Target) -> Result<(Self, Welcome), LinkEnd> {
        let connecting = async {
            let mut link = Self {
                socket: open(target).await?,
                codec: target.codec,
                dirty: false,
                refusal: None,
                end: None,
            };
            let welcome = link.welcome().await?;
            Ok((link, welcome))
        };
        let late = |_| {
            LinkEnd::cut(format_args!(
                "no welcome within {} s",
                CONNECT_TIMEOUT.as_secs()
            ))
        };
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?
    }

    async fn welcome(&mut self) -> Result<Welcome, LinkEnd> {
        loop {
            match self.next().await? {
                Some(ServerMessage::Welcome(welcome)) => return Ok(welcome),
                Some(_) => return Err(LinkEnd::refused("the first message was no welcome")),
                None => {}
            }
        }
    }

    /// Hands a frame to tungstenite's buffer, which takes it whether or not the socket is writable.
    pub fn queue(&mut self, reading: &Reading) -> Result<(), LinkEnd> {
        let bytes = encode(reading, self.codec);
        let frame = match self.codec {
            Codec::Json => Message::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
            Codec::Bincode => Message::binary(bytes),
        };
        self.dirty = true;
        Pin::new(&mut self.socket)
            .start_send(frame)
            .map_err(|error| self.lost(&error))
    }

    /// Waits for at least one message and takes along what has come with it.
    pub async fn receive(&mut self, into: &mut Vec<ServerMessage>) -> Result<(), LinkEnd> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
        let before = into.len();
        while into.len() == before {
            into.extend(self.next().await?);
        }
        while into.len() < before + TAKE_AT_ONCE {
            match self.next().now_or_never() {
                Some(Ok(message)) => into.extend(message),
                Some(Err(end)) => {
                    self.end = Some(end);
                    break;
                }
                None => break,
            }
        }
        Ok(())
    }

    /// One frame; `None` is one without a message for the window.
    async fn next(&mut self) -> Result<Option<ServerMessage>, LinkEnd> {
        let frame = std::future::poll_fn(|cx| self.poll_frame(cx)).await;
        match frame {
            Some(Ok(Message::Text(text))) => self.read(Codec::Json, text.as_bytes()),
            Some(Ok(Message::Binary(bytes))) => self.read(Codec::Bincode, &bytes),
            Some(Ok(Message::Close(frame))) => {
                let code = frame
                    .as_ref()
                    .map_or(NO_CLOSE_FRAME, |frame| frame.code.into());
                let reason = frame
                    .map(|frame| frame.reason.to_string())
                    .unwrap_or_default();
                Err(self.closed(code, &reason))
            }
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(self.lost(&error)),
            None => Err(self.closed(NO_CLOSE_FRAME, "the connection was cut")),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.dirty {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.dirty = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {}
            }
        }
        Pin::new(&mut self.socket).poll_next(cx)
    }

    fn read(&mut self, codec: Codec, bytes: &[u8]) -> Result<Option<ServerMessage>, LinkEnd> {
        match ServerMessage::decode(codec, bytes) {
            Ok(ServerMessage::Error(error)) => {
                self.refusal = Some(error);
                Ok(None)
            }
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(LinkEnd::refused(format_args!(
                "the server's message was not understood: {error}"
            ))),
        }
    }

    fn lost(&mut self, error: &Error) -> LinkEnd {
        self.closed(NO_CLOSE_FRAME, &error.to_string())
    }

    fn closed(&mut self, code: u16, reason: &str) -> LinkEnd {
        let refusal = self.refusal.take();
        let after = refusal.as_ref().and_then(|refusal| refusal.retry_after_ms);
        let why = match &refusal {
            Some(refusal) => refusal.message.clone(),
            None if reason.is_empty() => format!("closed with {code}"),
            None => reason.to_owned(),
        };
        LinkEnd {
            retry: should_reconnect(code),
            hung_up: refusal.is_none() && code == NO_CLOSE_FRAME,
            after: after.map(Duration::from_millis),
            code: refusal.map(|refusal| refusal.code),
            why,
        }
    }

    /// Closes with 1000 and waits for the echo.
    pub async fn close(mut self) {
        let goodbye = async {
            if self.socket.close(None).await.is_ok() {
                while self.next().await.is_ok() {}
            }
        };
        // A peer that does not answer in time is left; everything it had to say was settled before.
        timeout(CLOSE_TIMEOUT, goodbye).await.ok();
    }
}

async fn open(target: &Target) -> Result<WebSocketStream<TcpStream>, LinkEnd> {
    let Address::Server { authority } = &target.address else {
        return Err(LinkEnd::refused("not the address of a server"));
    };
    let socket = TcpStream::connect(authority).await.map_err(LinkEnd::cut)?;
    socket.set_nodelay(true).map_err(LinkEnd::cut)?;
    let url = format!("ws://{authority}{}", target.path());
    let mut request = url.into_client_request().map_err(LinkEnd::refused)?;
    let offer = HeaderValue::from_static(target.codec.subprotocol());
    request
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
    match client_async_with_config(request, socket, Some(config())).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(refused_by_http(&response)),
        Err(Error::Io(error)) => Err(LinkEnd::hung_up(error)),
        Err(Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
            Err(LinkEnd::hung_up("the connection was cut in its handshake"))
        }
        Err(error) => Err(LinkEnd::refused(error)),
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(MAX_WRITE_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// An HTTP answer instead of an upgrade: a full or starting server may be tried again, anything else may not.
fn refused_by_http(response: &Response<Option<Vec<u8>>>) -> LinkEnd {
    let status = response.status();
    LinkEnd {
        retry: status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
        ..LinkEnd::cut(format_args!("no stream here: HTTP {status}"))
    }
}
