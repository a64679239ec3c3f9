//! HTTP requests and answers as a load generator needs them: one reading a request, kept alive, one at a time.
//!
//! The answer comes after the commit, so it is prediction and ack in one. Pure.

use super::words::{self, Heard, Kind};
use tidegate_protocol::Codec;

/// Longest answer that is taken, head and body.
const MOST_BYTES: usize = 1024 * 1024;

/// Requests of one device.
#[derive(Debug)]
pub struct Client {
    head: String,
}

impl Client {
    /// A client that posts to `authority` for `device`.
    pub fn new(authority: &str, endpoint: &str, device: &str, codec: Codec) -> Self {
        let kind = codec.content_type();
        Self {
            head: format!(
                "POST /api/v1/{endpoint}/predict?device={device} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: {kind}\r\nContent-Length: "
            ),
        }
    }

    /// Begins a request with a body of `len` bytes; the body follows.
    pub fn begin(&self, out: &mut Vec<u8>, len: usize) {
        out.extend(self.head.as_bytes());
        out.extend(format!("{len}\r\n\r\n").as_bytes());
    }
}

/// The first answer in `bytes`.
///
/// # Errors
/// Bytes that are no answer, for people.
pub fn take(bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
    let Some((status, head, len)) = head(bytes)? else {
        return Ok(None);
    };
    let Some(body) = bytes.get(head..head + len) else {
        return Ok(None);
    };
    let heard = match status {
        200 => stored(body)?,
        503 | 429 => Heard::Shed(problem(body).0),
        _ => {
            let (code, text) = problem(body);
            Heard::Nack(None, format!("http {status} {code}"), text)
        }
    };
    Ok(Some((heard, head + len)))
}

/// Status, length of the head and of the body.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
        return match bytes.len() {
            len if len > MOST_BYTES => Err("an answer without an end".into()),
            _ => Ok(None),
        };
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let status = status.filter(|_| text.starts_with("HTTP/1.1 "));
    let status = status.ok_or_else(|| "an answer that is not HTTP/1.1".to_owned())?;
    let len = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let len = len.filter(|len| *len <= MOST_BYTES);
    let len = len.ok_or_else(|| format!("an answer {status} without a usable content-length"))?;
    Ok(Some((status, end + 4, len)))
}

fn stored(body: &[u8]) -> Result<Heard, String> {
    let mark = b"\"seq\":";
    let at = body.windows(mark.len()).position(|part| part == mark);
    let seq = at.and_then(|at| {
        let rest = &body[at + mark.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    });
    let kind: Option<Kind> = words::kind_in_json(body);
    match (seq, kind) {
        (Some(seq), Some(kind)) => Ok(Heard::Stored(seq, kind)),
        _ => Err("an answer without seq and output".into()),
    }
}

/// Code and text of a problem document.
fn problem(body: &[u8]) -> (String, String) {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    (field("code"), field("detail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_prediction_and_ack_in_one() {
        let body = r#"{"endpoint":"e","device":"d","epoch":3,"seq":12,"output":{"score":0.5}}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for end in 0..answer.len() {
            assert_eq!(take(&answer.as_bytes()[..end]), Ok(None));
        }
        let whole = Some((Heard::Stored(12, Kind::Answer), answer.len()));
        assert_eq!(take(format!("{answer}HTTP").as_bytes()), Ok(whole));
    }

    #[test]
    fn a_full_server_sheds_and_a_refusal_is_told_by_its_code() {
        let answer = |status: &str| {
            let body = r#"{"code":"numbering","detail":"no"}"#;
            let len = body.len();
            format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n{body}")
        };
        let heard = |status| take(answer(status).as_bytes()).unwrap().unwrap().0;
        assert_eq!(
            heard("503 Service Unavailable"),
            Heard::Shed("numbering".into())
        );
        assert_eq!(
            heard("409 Conflict"),
            Heard::Nack(None, "http 409 numbering".into(), "no".into())
        );
        assert!(take(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(take(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
