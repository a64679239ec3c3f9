//! The parts that `samples` is cut into: a partition each, for the readings that arrived on one day.
//!
//! A part begins in the transaction that needs it, when the day of arrival changes. Ids rise from part to part even when the clock jumps,
//! so a range of ids is a range of parts. Knows which part is the newest and where each begins; a part that was dropped
//! meanwhile does no harm, a read merely finds nothing in it.

use crate::store::Result;
use crate::store::rows::signed;
use parking_lot::RwLock;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// A clock that jumps to and fro does not begin parts faster than this.
const LEAST_LENGTH: Duration = Duration::from_secs(3_600);
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Counts up.
    pub part: i32,
    /// Days since 1970-01-01 UTC, by the server's clock at its first commit.
    pub day: i32,
    /// No sample in it has a lower id.
    pub first_id: u64,
}

/// Parts by number, and when the newest was begun here.
#[derive(Debug, Default)]
struct Known {
    parts: Vec<Part>,
    begun: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Parts(RwLock<Known>);

impl Parts {
    /// Reads them anew.
    pub async fn load(&self, connection: &mut PgConnection) -> Result<()> {
        let rows = sqlx::query("SELECT part, day, first_id FROM sample_parts ORDER BY part")
            .fetch_all(connection)
            .await?;
        let parts = rows.iter().map(|row| Part {
            part: row.get(0),
            day: row.get(1),
            first_id: row.get::<i64, _>(2).cast_unsigned(),
        });
        self.0.write().parts = parts.collect();
        Ok(())
    }

    /// The part for a commit at `now_ms` whose first sample is `first_id`, and whether it is new.
    pub fn due(&self, now_ms: i64, first_id: u64) -> (Part, bool) {
        let day = i32::try_from(now_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX);
        let known = self.0.read();
        let newest = known.parts.last();
        let young = known
            .begun
            .is_some_and(|begun| begun.elapsed() < LEAST_LENGTH);
        match newest {
            Some(part) if !has_passed(part.day, day) || young => (*part, false),
            _ => {
                let part = newest.map_or(1, |newest| newest.part + 1);
                (
                    Part {
                        part,
                        day,
                        first_id,
                    },
                    true,
                )
            }
        }
    }

    /// A new part was committed.
    pub fn note(&self, part: Part) {
        let mut known = self.0.write();
        known.parts.push(part);
        known.begun = Some(Instant::now());
    }

    /// A part was dropped.
    pub fn forget(&self, part: i32) {
        self.0.write().parts.retain(|known| known.part != part);
    }

    /// The newest part, 0 without one.
    pub fn newest(&self) -> i32 {
        self.0.read().parts.last().map_or(0, |part| part.part)
    }

    /// The part that a sample with this id is in, or the nearest one after it.
    pub fn of(&self, id: u64) -> i32 {
        let known = self.0.read();
        let index = index_of(&known.parts, id);
        known.parts.get(index).map_or(0, |part| part.part)
    }

    /// Ranges of parts that hold the ids between, in reading order. Most reads end in the first, so the ranges grow.
    pub fn spans(&self, ids: RangeInclusive<u64>, newest_first: bool) -> Vec<(i32, i32)> {
        let known = self.0.read();
        spans(&known.parts, ids, newest_first)
    }
}

/// Whether the day is over. A clock that is set back over midnight begins nothing.
fn has_passed(day: i32, today: i32) -> bool {
    today > day || today < day - 1
}

fn index_of(parts: &[Part], id: u64) -> usize {
    parts
        .partition_point(|part| part.first_id <= id)
        .saturating_sub(1)
}

fn spans(parts: &[Part], ids: RangeInclusive<u64>, newest_first: bool) -> Vec<(i32, i32)> {
    let Some(newest) = parts.len().checked_sub(1) else {
        return vec![(0, i32::MAX)];
    };
    let (low, high) = (index_of(parts, *ids.start()), index_of(parts, *ids.end()));
    // A part that this process does not know of yet lies behind the newest it knows.
    let number = |index: usize| {
        if index == newest {
            i32::MAX
        } else {
            parts[index].part
        }
    };
    let mut spans = Vec::new();
    let (mut done, mut length) = (0, 1);
    let all = high - low + 1;
    while done < all {
        let taken = length.min(all - done);
        let (first, last) = if newest_first {
            (high + 1 - done - taken, high - done)
        } else {
            (low + done, low + done + taken - 1)
        };
        spans.push((parts[first].part, number(last)));
        (done, length) = (done + taken, length * 2);
    }
    spans
}

/// Makes the partition. Attached and not created in place: that waits for no reader, so a long backup holds up no commit.
pub async fn begin(connection: &mut PgConnection, part: Part) -> Result<()> {
    let number = part.part;
    let statements = format!(
        "CREATE TABLE samples_p{number} (LIKE samples INCLUDING DEFAULTS INCLUDING STORAGE); \
         ALTER TABLE samples ATTACH PARTITION samples_p{number} FOR VALUES IN ({number})"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO sample_parts (part, day, first_id) VALUES ($1, $2, $3)")
        .bind(number)
        .bind(part.day)
        .bind(signed(part.first_id))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five parts; part n begins with id 100 n, on day 1000 + n.
    fn five() -> Vec<Part> {
        let part = |number: i32| Part {
            part: number,
            day: 1_000 + number,
            first_id: 100 * u64::from(number.cast_unsigned()),
        };
        (1..=5).map(part).collect()
    }

    fn known(parts: Vec<Part>) -> Parts {
        Parts(RwLock::new(Known { parts, begun: None }))
    }

    #[test]
    fn the_first_commit_and_a_new_day_begin_a_part() {
        let none = Parts::default();
        let first = Part {
            part: 1,
            day: 1_000,
            first_id: 7,
        };
        assert_eq!(none.due(1_000 * DAY_MS, 7), (first, true));
        let parts = known(five());
        assert_eq!(parts.due(1_006 * DAY_MS - 1, 560).0.part, 5);
        let next = Part {
            part: 6,
            day: 1_006,
            first_id: 560,
        };
        assert_eq!(parts.due(1_006 * DAY_MS, 560), (next, true));
    }

    #[test]
    fn a_clock_that_jumps_begins_a_part_at_most_once_an_hour_and_never_reorders_them() {
        let parts = known(five());
        assert!(!parts.due(1_004 * DAY_MS, 560).1, "over midnight and back");
        let (ahead, new) = parts.due(9_000 * DAY_MS, 560);
        assert!(new);
        parts.note(ahead);
        let (same, new) = parts.due(1_005 * DAY_MS, 570);
        assert_eq!(
            (same, new),
            (ahead, false),
            "set right again within the hour"
        );
        parts.0.write().begun = None;
        let (back, new) = parts.due(1_005 * DAY_MS, 580);
        assert_eq!((back.part, back.day, new), (7, 1_005, true));
    }

    #[test]
    fn ids_are_found_in_the_part_that_holds_them() {
        let parts = known(five());
        let found = [0, 100, 199, 200, 450, 9_000].map(|id| parts.of(id));
        assert_eq!(found, [1, 1, 1, 2, 4, 5]);
        assert_eq!(Parts::default().of(5), 0);
    }

    #[test]
    fn spans_cover_a_range_once_in_reading_order() {
        let all = i32::MAX;
        assert_eq!(
            spans(&five(), 0..=u64::MAX, false),
            [(1, 1), (2, 3), (4, all)]
        );
        assert_eq!(
            spans(&five(), 0..=u64::MAX, true),
            [(5, all), (3, 4), (1, 2)]
        );
        assert_eq!(spans(&five(), 250..=320, true), [(3, 3), (2, 2)]);
        assert_eq!(spans(&five(), 250..=320, false), [(2, 2), (3, 3)]);
        assert_eq!(spans(&five(), 510..=520, false), [(5, all)]);
        assert_eq!(spans(&[], 0..=u64::MAX, false), [(0, all)]);
    }
}
