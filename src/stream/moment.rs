//! A point in time as people write it: RFC 3339, or Unix ms.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// A point in time, Unix ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Moment(pub i64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?}: expected RFC 3339 (2026-01-31T12:00:00Z) or Unix ms");
        let ms = text.parse().ok().or_else(|| parse_iso(text));
        ms.map(Moment).ok_or_else(refused)
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// RFC 3339 in UTC; Unix ms where no calendar reaches.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// Unix ms of an ISO 8601 time; one without an offset is UTC.
pub fn parse_iso(text: &str) -> Option<i64> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant.as_millisecond());
    }
    let civil = text.parse::<DateTime>().ok()?;
    let instant = civil.to_zoned(TimeZone::UTC).ok()?;
    Some(instant.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_milliseconds() {
        let ms = 1_770_000_000_000;
        for text in [
            "1770000000000",
            "2026-02-02T02:40:00Z",
            "2026-02-02T03:40:00+01:00",
            "2026-02-02 02:40:00",
        ] {
            assert_eq!(text.parse(), Ok(Moment(ms)), "{text}");
        }
        assert_eq!("-5".parse(), Ok(Moment(-5)));
        for text in ["", "soon", "1.5"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_said_as_a_time() {
        assert_eq!(
            Moment(1_770_000_000_250).to_string(),
            "2026-02-02T02:40:00.25Z"
        );
        assert_eq!(Moment(i64::MAX).to_string(), i64::MAX.to_string());
    }
}
