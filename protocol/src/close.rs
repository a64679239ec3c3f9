//! Why a WebSocket ends: close codes, their words, and whether the peer should come back.
//!
//! The rule a client follows is in the numbers: 4000-4499 (and 1001, 1012) mean "reconnect", 4500-4999 (and 1003,
//! 1007, 1008, 1009) mean "do not, something has to change first".

/// A close code of Protocol v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// Ended by agreement; nothing more to say.
    Normal = 1000,
    /// The message was larger than `max_frame_bytes`.
    TooLarge = 1009,
    /// The server is stopping; everything accepted was committed and acked.
    ShuttingDown = 4001,
    /// The peer read too slowly and its outbox was full.
    TooSlow = 4008,
    /// No frame came within the pong deadline.
    NoPong = 4012,
    /// The server could not take readings for `overload_close_s`.
    Overloaded = 4013,
    /// Not who they say, or not allowed to.
    NotAuthorised = 4500,
    /// Unknown endpoint, malformed device id or parameter.
    BadRequest = 4501,
    /// A newer connection of the same stream took over.
    TakenOver = 4502,
    /// Too many connections.
    ConnectionLimit = 4504,
    /// A text frame on a binary subprotocol or the reverse.
    WrongFrame = 4506,
    /// The page's origin is not on the list.
    OriginNotAllowed = 4507,
}

impl CloseCode {
    /// Every code, for tables and tests.
    pub const ALL: &'static [CloseCode] = &[
        Self::Normal,
        Self::TooLarge,
        Self::ShuttingDown,
        Self::TooSlow,
        Self::NoPong,
        Self::Overloaded,
        Self::NotAuthorised,
        Self::BadRequest,
        Self::TakenOver,
        Self::ConnectionLimit,
        Self::WrongFrame,
        Self::OriginNotAllowed,
    ];

    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The reason text on the wire, at most 123 bytes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::TooLarge => "message too large",
            Self::ShuttingDown => "shutting down",
            Self::TooSlow => "too slow",
            Self::NoPong => "no pong",
            Self::Overloaded => "overloaded",
            Self::NotAuthorised => "not authorised",
            Self::BadRequest => "bad request",
            Self::TakenOver => "taken over",
            Self::ConnectionLimit => "connection limit",
            Self::WrongFrame => "wrong frame kind",
            Self::OriginNotAllowed => "origin not allowed",
        }
    }
}

/// Whether a client that was closed with `code` should reconnect (with back-off).
///
/// Codes that Protocol v1 does not name (a cut without a close frame is 1006) are network weather: reconnect.
pub fn should_reconnect(code: u16) -> bool {
    !matches!(code, 1000 | 1003 | 1007 | 1008 | 1009 | 4500..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_says_whether_to_come_back() {
        for code in CloseCode::ALL {
            let number = code.code();
            let expected = (4000..4500).contains(&number);
            assert_eq!(should_reconnect(number), expected, "{number}");
            assert!(code.reason().len() <= 123);
        }
        assert!(should_reconnect(1001));
        assert!(should_reconnect(1006));
        assert!(should_reconnect(1012));
        assert!(!should_reconnect(1008));
    }
}
