//! A plain HTTP/1.1 client: one request, one connection.

use super::within;
use serde_json::Value;
use std::net::SocketAddr;
use tidegate_protocol::Sample;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// The body as text, as far as it is.
    pub body: String,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Checks that this is a problem document with `status` and `code`; gives its detail.
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let head = self.head.to_lowercase();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["type"], "about:blank", "{self:?}");
        assert!(problem["title"].is_string(), "{self:?}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Sends one request and reads the whole answer.
pub async fn request(addr: SocketAddr, method: &str, path: &str, body: Option<&str>) -> Answer {
    let body = body.unwrap_or_default().as_bytes();
    request_with(addr, method, path, &[], body).await
}

/// The same with more header lines and any bytes.
pub async fn request_with(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    let answer = within(path, async {
        let mut socket = TcpStream::connect(addr).await.expect("a connection");
        socket.write_all(head.as_bytes()).await.expect("a request");
        // A server that refuses the length may stop reading before the body is through.
        let _ = socket.write_all(body).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        answer
    })
    .await;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.expect("a whole answer"));
    let head = String::from_utf8(head.to_vec()).expect("a head in UTF-8");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let bytes = body[4..].to_vec();
    Answer {
        status: status.expect("a status"),
        head,
        body: String::from_utf8_lossy(&bytes).into_owned(),
        bytes,
    }
}

/// Every stored sample of a device, oldest first, read page by page.
pub async fn samples(addr: SocketAddr, device: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v1/samples?device={device}&limit=1000{cursor}");
        let page = request(addr, "GET", &path, None).await;
        assert_eq!(page.status, 200, "{page:?}");
        let mut page = page.json();
        let rows: Vec<Sample> = serde_json::from_value(page["samples"].take()).expect("samples");
        samples.extend(rows);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return samples,
        }
    }
}
