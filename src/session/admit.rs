//! What to do with a reading, decided from its numbers alone.
//!
//! Pure: where the stream stands and what the reading says go in, an [`Admission`] comes out. The rules are those of the protocol's
//! numbering: epochs only rise, the first reading of an epoch opens it at whatever number it has and fixes who counts, a
//! jump is a gap, a number inside a gap is late, any other known number is a duplicate or a reuse.

use super::Gaps;
use crate::stream::{Marks, Numbering};
use tidegate_protocol::{MAX_NUMBER, NackCode};

/// Epoch and number as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// `None` is the connection's epoch.
    pub epoch: Option<u64>,
    /// `None` leaves the counting to the server.
    pub seq: Option<u64>,
}

/// What to do with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is the newest of its epoch.
    Take {
        /// Its number.
        seq: u64,
        /// The numbers it skipped.
        gap: Option<(u64, u64)>,
    },
    /// It is the first of a later epoch; that epoch's start is a row before it.
    OpenEpoch {
        /// The new epoch.
        epoch: u64,
        /// Its number.
        seq: u64,
    },
    /// It fell into a recorded gap.
    Late {
        /// Its number.
        seq: u64,
    },
    /// Its number is known: look up what was done with it.
    Known {
        /// Its epoch; an earlier one than the stream's is answered only if it was taken.
        epoch: u64,
        /// Its number.
        seq: u64,
    },
    /// It is refused for its numbers, which stay unused.
    Refuse(NackCode, &'static str),
}

/// Decides. `connection_epoch` stands in for a reading without an epoch.
pub fn admit(marks: &Marks, gaps: &Gaps, numbers: Numbers, connection_epoch: u64) -> Admission {
    let epoch = numbers.epoch.unwrap_or(connection_epoch);
    if epoch < marks.epoch {
        return match numbers.seq {
            Some(seq) => Admission::Known { epoch, seq },
            None => Admission::Refuse(NackCode::OldEpoch, "the stream has moved to a later epoch"),
        };
    }
    if epoch > marks.epoch {
        return Admission::OpenEpoch {
            epoch,
            seq: numbers.seq.unwrap_or(0),
        };
    }
    match (marks.numbering, numbers.seq) {
        (Numbering::Server, Some(_)) => Admission::Refuse(
            NackCode::Numbering,
            "the server numbers this epoch: leave out seq",
        ),
        (Numbering::Device, None) => Admission::Refuse(
            NackCode::Numbering,
            "the device numbers this epoch: seq is missing",
        ),
        (_, None) => number_by_server(marks),
        (_, Some(seq)) => place(marks, gaps, seq),
    }
}

fn number_by_server(marks: &Marks) -> Admission {
    let seq = marks.high_water.map_or(0, |high| high + 1);
    if seq > MAX_NUMBER {
        return Admission::Refuse(NackCode::Numbering, "the epoch is full: start another");
    }
    Admission::Take { seq, gap: None }
}

fn place(marks: &Marks, gaps: &Gaps, seq: u64) -> Admission {
    match marks.high_water {
        None => Admission::Take { seq, gap: None },
        Some(high) if seq > high => {
            let gap = (seq > high + 1).then_some((high + 1, seq - 1));
            Admission::Take { seq, gap }
        }
        Some(_) if gaps.contains(seq) => Admission::Late { seq },
        Some(_) => Admission::Known {
            epoch: marks.epoch,
            seq,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(high: Option<u64>, numbering: Numbering) -> Marks {
        Marks {
            pos: 9,
            epoch: 2,
            high_water: high,
            numbering,
            last_ts: None,
        }
    }

    fn decide(marks: &Marks, gaps: &Gaps, epoch: Option<u64>, seq: Option<u64>) -> Admission {
        admit(marks, gaps, Numbers { epoch, seq }, 2)
    }

    #[test]
    fn the_first_reading_opens_an_epoch_without_a_gap() {
        let fresh = stream(None, Numbering::Open);
        let none = Gaps::default();
        assert_eq!(
            decide(&fresh, &none, None, Some(7)),
            Admission::Take { seq: 7, gap: None }
        );
        assert_eq!(
            decide(&fresh, &none, None, None),
            Admission::Take { seq: 0, gap: None }
        );
        assert_eq!(
            decide(&fresh, &none, Some(5), Some(7)),
            Admission::OpenEpoch { epoch: 5, seq: 7 }
        );
    }

    #[test]
    fn a_jump_is_a_gap_and_its_numbers_are_late() {
        let marks = stream(Some(9), Numbering::Device);
        let mut gaps = Gaps::default();
        assert_eq!(
            decide(&marks, &gaps, None, Some(10)),
            Admission::Take { seq: 10, gap: None }
        );
        assert_eq!(
            decide(&marks, &gaps, None, Some(13)),
            Admission::Take {
                seq: 13,
                gap: Some((10, 12))
            }
        );
        gaps.open(4, 5, 8);
        assert_eq!(
            decide(&marks, &gaps, None, Some(5)),
            Admission::Late { seq: 5 }
        );
        assert_eq!(
            decide(&marks, &gaps, None, Some(6)),
            Admission::Known { epoch: 2, seq: 6 }
        );
    }

    #[test]
    fn an_earlier_epoch_is_answered_only_from_what_is_known() {
        let marks = stream(Some(9), Numbering::Device);
        let gaps = Gaps::default();
        assert_eq!(
            decide(&marks, &gaps, Some(1), Some(50)),
            Admission::Known { epoch: 1, seq: 50 }
        );
        assert!(matches!(
            decide(&marks, &gaps, Some(1), None),
            Admission::Refuse(NackCode::OldEpoch, _)
        ));
    }

    #[test]
    fn the_mode_of_an_epoch_does_not_change() {
        let gaps = Gaps::default();
        let server = stream(Some(9), Numbering::Server);
        assert_eq!(
            decide(&server, &gaps, None, None),
            Admission::Take { seq: 10, gap: None }
        );
        assert!(matches!(
            decide(&server, &gaps, None, Some(10)),
            Admission::Refuse(NackCode::Numbering, _)
        ));
        let device = stream(Some(9), Numbering::Device);
        assert!(matches!(
            decide(&device, &gaps, None, None),
            Admission::Refuse(NackCode::Numbering, _)
        ));
        assert!(matches!(
            decide(&device, &gaps, Some(3), None),
            Admission::OpenEpoch { epoch: 3, seq: 0 }
        ));
    }
}
