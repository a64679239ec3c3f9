//! WebSocket frames as a load generator needs them: written into a buffer that many share, read in place.
//!
//! Owns the framing of RFC 6455 for a client whose peer neither fragments nor compresses (neither Tidegate nor an echo does). A client's
//! frames must be masked; the key here is zero, so that the bytes stand as they are while the server unmasks like any other frame. Pure.

/// Opcodes.
pub const TEXT: u8 = 1;
/// See [`TEXT`].
pub const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Longest frame that is taken; servers stay far below.
const MOST_BYTES: usize = 1024 * 1024;

/// One frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A text or binary message.
    Message(&'a [u8]),
    /// To be answered with the same bytes.
    Ping(&'a [u8]),
    /// Nothing to do.
    Pong,
    /// The end: close code (1005 without one) and reason.
    Close(u16, String),
}

/// Begins a masked frame of `len` bytes; the payload follows as it is.
pub fn begin(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(0x80 | len as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
}

/// Answers a ping.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    begin(out, PONG, payload.len());
    out.extend(payload);
}

/// A close frame with 1000.
pub fn close(out: &mut Vec<u8>) {
    begin(out, CLOSE, 2);
    out.extend(1000_u16.to_be_bytes());
}

/// The first frame in `bytes` and how many it takes; `None` while it is incomplete.
///
/// # Errors
/// Bytes that are no frame of a server, for people.
pub fn take(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!(
            "a frame that begins with {first:#04x} {second:#04x}"
        ));
    }
    let (len, head) = match second {
        126 => match bytes.get(2..4) {
            Some(len) => (usize::from(u16::from_be_bytes([len[0], len[1]])), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(len) => {
                let len = u64::from_be_bytes(len.try_into().unwrap_or_default());
                (usize::try_from(len).unwrap_or(usize::MAX), 10)
            }
            None => return Ok(None),
        },
        len => (usize::from(len), 2),
    };
    if len > MOST_BYTES {
        return Err(format!("a frame of {len} bytes"));
    }
    let Some(payload) = bytes.get(head..head + len) else {
        return Ok(None);
    };
    let frame = match first & 0x0f {
        TEXT | BINARY => Frame::Message(payload),
        PING => Frame::Ping(payload),
        PONG => Frame::Pong,
        CLOSE => closing(payload),
        other => return Err(format!("a frame with opcode {other}")),
    };
    Ok(Some((frame, head + len)))
}

fn closing(payload: &[u8]) -> Frame<'static> {
    match payload {
        [high, low, reason @ ..] => Frame::Close(
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => Frame::Close(1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::{Message, WebSocket};

    /// A stream in memory: what is read from it, what was written to it.
    struct Pipe(std::io::Cursor<Vec<u8>>, Vec<u8>);

    impl std::io::Read for Pipe {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl std::io::Write for Pipe {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.1.write(buf)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_server_reads_what_is_written_here_and_the_reverse() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            let mut out = Vec::new();
            begin(&mut out, BINARY, len);
            out.extend(&payload);
            let pipe = Pipe(std::io::Cursor::new(out), Vec::new());
            let mut server = WebSocket::from_raw_socket(pipe, Role::Server, None);
            let message = server.read().unwrap();
            assert_eq!(message, Message::binary(payload.clone()));
            server.send(message).unwrap();
            let said = &server.get_ref().1;
            let whole = Some((Frame::Message(&payload), said.len()));
            assert_eq!(take(said).unwrap(), whole);
            for end in [0, 1, said.len() - 1] {
                assert_eq!(take(&said[..end]).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_goodbye_has_its_code_and_nonsense_is_none() {
        let close = [0x88, 4, 0x0f, 0xa1, b'n', b'o'];
        assert_eq!(
            take(&close).unwrap(),
            Some((Frame::Close(4001, "no".into()), 6))
        );
        assert_eq!(
            take(&[0x88, 0]).unwrap(),
            Some((Frame::Close(1005, String::new()), 2))
        );
        for nonsense in [&b"HTTP/1.1"[..], &[0x81, 0x81, 0], &[0x83, 0]] {
            assert!(take(nonsense).is_err(), "{nonsense:?}");
        }
        assert!(take(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
