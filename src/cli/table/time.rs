//! Timestamps in the forms that sensor files have: ISO 8601 with a space or a T, with or without an offset, Unix s or ms.
//!
//! A time without an offset is UTC: a device's epoch must not depend on where the file is sent from.

use crate::stream::parse_iso;

/// Numbers below are seconds, from here on milliseconds: year 5138 in seconds, March 1973 in milliseconds.
const SECONDS_BELOW: f64 = 1e11;
/// Largest Unix time in ms that is taken (year 9999).
const LATEST_MS: f64 = 253_402_300_799_999.0;

/// Unix ms of a cell.
///
/// # Errors
/// What was found instead of a time.
pub fn parse(cell: &str) -> Result<i64, String> {
    if let Ok(number) = cell.parse::<f64>() {
        return parse_unix(number)
            .ok_or_else(|| format!("{cell:?} is no Unix time in seconds or milliseconds"));
    }
    parse_iso(cell)
        .ok_or_else(|| format!("{cell:?} is no time (ISO 8601 or Unix seconds or milliseconds)"))
}

/// Whether a cell is a time by its form alone, which a bare number is not.
pub fn is_iso(cell: &str) -> bool {
    cell.parse::<f64>().is_err() && parse_iso(cell).is_some()
}

fn parse_unix(number: f64) -> Option<i64> {
    let ms = if number.abs() < SECONDS_BELOW {
        number * 1_000.0
    } else {
        number
    };
    (ms.is_finite() && ms.abs() <= LATEST_MS).then_some(ms.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_the_same_moment() {
        for cell in [
            "2020-03-09 10:14:33",
            "2020-03-09T10:14:33",
            "2020-03-09T10:14:33Z",
            "2020-03-09 11:14:33+01:00",
            "2020-03-09 10:14:33.000",
            "1583748873",
            "1583748873.0",
            "1583748873000",
        ] {
            assert_eq!(parse(cell), Ok(1_583_748_873_000), "{cell}");
        }
        assert_eq!(parse("1583748873.25"), Ok(1_583_748_873_250));
    }

    #[test]
    fn anything_else_is_said_to_be_no_time() {
        for cell in ["", "soon", "2020-13-01", "1e300", "nan", "inf"] {
            assert!(parse(cell).is_err(), "{cell}");
        }
    }

    #[test]
    fn a_number_is_no_time_by_its_form() {
        assert!(is_iso("2020-03-09 10:14:33"));
        assert!(!is_iso("1583748873"));
        assert!(!is_iso("32.0"));
    }
}
