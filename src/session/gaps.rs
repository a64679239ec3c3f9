//! Which numbers of an epoch were skipped and may still come late.
//!
//! Owns a bounded, ordered list of ranges. When it is full the oldest range is closed: a reading that falls into it
//! later counts as taken already. Pure.

/// Skipped ranges, both ends inclusive, rising and apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    ranges: Vec<(u64, u64)>,
}

impl Gaps {
    /// The ranges as stored.
    pub fn from_ranges(ranges: Vec<(u64, u64)>) -> Self {
        Self { ranges }
    }

    /// The ranges, rising.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Whether `seq` was skipped and did not come yet.
    pub fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// Records a range above all others; with `most` ranges already, the oldest is closed.
    pub fn open(&mut self, from: u64, to: u64, most: usize) {
        if self.ranges.len() >= most {
            self.ranges.remove(0);
        }
        self.ranges.push((from, to));
    }

    /// `seq` came late: takes it out of its range, which may split. With `most` ranges the oldest is closed.
    pub fn fill(&mut self, seq: u64, most: usize) {
        let Some(place) = self.find(seq) else { return };
        let (from, to) = self.ranges.remove(place);
        if seq < to {
            self.ranges.insert(place, (seq + 1, to));
        }
        if from < seq {
            self.ranges.insert(place, (from, seq - 1));
        }
        if self.ranges.len() > most {
            self.ranges.remove(0);
        }
    }

    /// Forgets all: a new epoch.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    fn find(&self, seq: u64) -> Option<usize> {
        let place = self.ranges.partition_point(|(_, to)| *to < seq);
        self.ranges
            .get(place)
            .filter(|(from, _)| *from <= seq)
            .map(|_| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_oldest_range_is_closed_when_the_list_is_full() {
        let mut gaps = Gaps::default();
        gaps.open(1, 2, 2);
        gaps.open(5, 6, 2);
        gaps.open(9, 9, 2);
        assert_eq!(gaps.ranges(), [(5, 6), (9, 9)]);
        gaps.fill(5, 2);
        assert_eq!(gaps.ranges(), [(6, 6), (9, 9)]);
    }

    proptest! {
        #[test]
        fn late_readings_leave_exactly_the_numbers_that_did_not_come(
            jumps in prop::collection::vec((1u64..4, 1u64..20), 1..10),
            late in prop::collection::vec(0u64..250, 0..60),
        ) {
            let mut gaps = Gaps::default();
            let mut missing = BTreeSet::new();
            let mut next = 0;
            for (taken, skipped) in jumps {
                next += taken;
                gaps.open(next, next + skipped - 1, 1_000);
                missing.extend(next..next + skipped);
                next += skipped;
            }
            for seq in late {
                prop_assert_eq!(gaps.contains(seq), missing.contains(&seq));
                gaps.fill(seq, 1_000);
                missing.remove(&seq);
            }
            let left: BTreeSet<u64> = gaps.ranges().iter().flat_map(|(from, to)| *from..=*to).collect();
            prop_assert_eq!(left, missing);
        }
    }
}
