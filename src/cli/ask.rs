//! One HTTP request to a server over a plain socket, for commands that need no more than that.
//!
//! Owns the deadline and the bound of the answer. No TLS, no redirects, no keep-alive.

use anyhow::{Context, anyhow};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most bytes of an answer that are read.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status line as it came.
    pub line: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The status; `None` when this is no HTTP answer.
    pub fn status(&self) -> Option<u16> {
        let rest = self.line.strip_prefix("HTTP/1.")?;
        rest.split(' ').nth(1)?.parse().ok()
    }

    /// A field of a JSON body.
    pub fn field(&self, name: &str) -> Option<serde_json::Value> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        body.get(name).cloned()
    }
}

/// Asks `url` (`http://host:port`, `ws://` is taken as well) and waits at most `deadline`.
///
/// # Errors
/// A URL of another form, a server that cannot be reached, or no answer in time.
pub async fn ask(
    url: &str,
    method: &str,
    path: &str,
    deadline: Duration,
) -> anyhow::Result<Answer> {
    ask_with(url, method, path, None, deadline).await
}

/// The same with a body of JSON.
///
/// # Errors
/// See [`ask`].
pub async fn ask_with(
    url: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
    deadline: Duration,
) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(deadline, exchange(url, method, path, body)).await;
    answer.with_context(|| format!("{url}: no answer within {} s", deadline.as_secs()))?
}

async fn exchange(
    url: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> anyhow::Result<Answer> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("ws://"));
    let authority = rest
        .with_context(|| format!("{url:?}: expected http://host:port"))?
        .trim_end_matches('/');
    let mut socket = TcpStream::connect(authority).await.map_err(|error| {
        anyhow!("cannot connect to {authority}: {error}; does the server run there?")
    })?;
    let kind = body.map_or("", |_| "content-type: application/json\r\n");
    let body = body.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    socket.take(MOST_BYTES).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Answer {
        line: head.lines().next().unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}
