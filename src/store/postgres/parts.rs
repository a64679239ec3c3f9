//! The parts that `samples` is cut into: a partition each, for the readings that arrived on one day.
//!
//! A part begins in the transaction that needs it, when the day of arrival changes or the newest has enough rows. Ids rise from part to
//! part even when the clock jumps, so a range of ids is a range of parts. Part 0 is older than all: it keeps what a fold still
//! needs of parts that were dropped. Knows where each part begins; one that is gone does no harm, a read finds nothing in it.

use crate::store::Result;
use crate::store::rows::signed;
use parking_lot::RwLock;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// A clock that jumps to and fro does not begin parts faster than this.
const LEAST_LENGTH: Duration = Duration::from_secs(3_600);
/// Parts that a database of the largest size has at least: what retention drops at once is that fraction of it.
const LEAST_PARTS: u64 = 16;
/// Bytes of a sample with its indexes, roughly.
const SAMPLE_BYTES: u64 = 512;
/// Most and fewest rows of a part: dropping takes time by the row, planning by the part.
const ROWS: (u64, u64) = (1_000, 4_000_000);
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
#[derive(Debug)]
pub struct Parts {
    known: RwLock<Known>,
    most_rows: u64,
}

impl Parts {
    /// None known yet; parts of a size that suits a database of at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            known: RwLock::default(),
            most_rows: (max_bytes / LEAST_PARTS / SAMPLE_BYTES).clamp(ROWS.0, ROWS.1),
        }
    }

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
        self.known.write().parts = parts.collect();
        Ok(())
    }

    /// The part for a commit at `now_ms` whose first sample is `first_id`, and whether it is new.
    pub fn due(&self, now_ms: i64, first_id: u64) -> (Part, bool) {
        let day = i32::try_from(now_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX);
        let known = self.known.read();
        let newest = known.parts.last().filter(|part| part.part > 0);
        let young = known
            .begun
            .is_some_and(|begun| begun.elapsed() < LEAST_LENGTH);
        match newest {
            Some(part)
                if first_id < part.first_id + self.most_rows
                    && (young || !has_passed(part.day, day)) =>
            {
                (*part, false)
            }
            _ => {
                let part = newest.map_or(1, |newest| newest.part + 1);
                let first_id = first_id.max(1);
                let part = Part {
                    part,
                    day,
                    first_id,
                };
                (part, true)
            }
        }
    }

    /// A new part was committed.
    pub fn note(&self, part: Part) {
        let mut known = self.known.write();
        known.parts.push(part);
        known.begun = Some(Instant::now());
    }

    /// A part was dropped.
    pub fn forget(&self, part: i32) {
        self.known.write().parts.retain(|known| known.part != part);
    }

    /// The oldest part that samples were written to, 0 without one.
    pub fn oldest(&self) -> i32 {
        let known = self.known.read();
        let oldest = known.parts.iter().find(|part| part.part > 0);
        oldest.map_or(0, |part| part.part)
    }

    /// The newest part, 0 without one.
    pub fn newest(&self) -> i32 {
        self.known.read().parts.last().map_or(0, |part| part.part)
    }

    /// The part that a sample with this id is in, or the nearest one after it.
    pub fn of(&self, id: u64) -> i32 {
        let known = self.known.read();
        let index = index_of(&known.parts, id);
        known.parts.get(index).map_or(0, |part| part.part)
    }

    /// The first and the last part that hold the ids between.
    pub fn span(&self, ids: RangeInclusive<u64>) -> (i32, i32) {
        let spans = self.spans(ids, false);
        let first = spans.first().map_or(0, |span| span.0);
        (first, spans.last().map_or(i32::MAX, |span| span.1))
    }

    /// Ranges of parts that hold the ids between, in reading order. Most reads end in the first, so the ranges grow.
    pub fn spans(&self, ids: RangeInclusive<u64>, newest_first: bool) -> Vec<(i32, i32)> {
        let known = self.known.read();
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

/// Tells the planner what the new partition's number is, once there is a row. Without, it takes a range of parts for a rare
/// thing, and reads and sorts a partition for a page of it until the server's own statistics come.
pub async fn introduce(connection: &mut PgConnection, part: i32) -> Result<()> {
    let analyze = format!("ANALYZE samples_p{part} (part)");
    sqlx::raw_sql(AssertSqlSafe(analyze))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Part 0 and five more; part n begins with id 100 n, on day 1000 + n.
    fn five() -> Vec<Part> {
        let zero = Part {
            part: 0,
            day: 0,
            first_id: 0,
        };
        let part = |number: i32| Part {
            part: number,
            day: 1_000 + number,
            first_id: 100 * u64::from(number.cast_unsigned()),
        };
        std::iter::once(zero).chain((1..=5).map(part)).collect()
    }

    fn known(parts: Vec<Part>) -> Parts {
        Parts {
            known: RwLock::new(Known { parts, begun: None }),
            most_rows: 1_000,
        }
    }

    fn day(day: i64) -> i64 {
        day * DAY_MS
    }

    #[test]
    fn the_first_commit_a_new_day_and_a_full_part_begin_a_part() {
        let zero = known(five()[..1].to_vec());
        for today in [0, 1_000] {
            let (first, new) = zero.due(day(today), 7);
            assert_eq!((first.part, first.first_id, new), (1, 7, true));
        }
        let parts = known(five());
        let (same, new) = parts.due(day(1_006) - 1, 560);
        assert_eq!((same.part, new), (5, false));
        let (next, new) = parts.due(day(1_006), 560);
        assert_eq!((next.part, next.day, new), (6, 1_006, true));
        assert!(!parts.due(day(1_005), 1_499).1);
        assert!(parts.due(day(1_005), 1_500).1, "a thousand rows");
    }

    #[test]
    fn a_clock_that_jumps_begins_a_part_at_most_once_an_hour_and_never_reorders_them() {
        let parts = known(five());
        assert!(!parts.due(day(1_004), 560).1, "over midnight and back");
        let (ahead, new) = parts.due(day(9_000), 560);
        assert!(new);
        parts.note(ahead);
        let (same, new) = parts.due(day(1_005), 570);
        assert_eq!(
            (same, new),
            (ahead, false),
            "set right again within the hour"
        );
        parts.known.write().begun = None;
        let (back, new) = parts.due(day(1_005), 580);
        assert_eq!((back.part, back.day, new), (7, 1_005, true));
    }

    #[test]
    fn ids_are_found_in_the_part_that_holds_them() {
        let parts = known(five());
        let found = [0, 99, 100, 199, 200, 450, 9_000].map(|id| parts.of(id));
        assert_eq!(found, [0, 0, 1, 1, 2, 4, 5]);
        parts.forget(1);
        assert_eq!(parts.of(150), 0, "what is left of it");
        assert_eq!(Parts::new(1).of(5), 0);
    }

    #[test]
    fn spans_cover_a_range_once_in_reading_order() {
        let all = i32::MAX;
        let five = &five()[1..];
        assert_eq!(spans(five, 0..=u64::MAX, false), [(1, 1), (2, 3), (4, all)]);
        assert_eq!(spans(five, 0..=u64::MAX, true), [(5, all), (3, 4), (1, 2)]);
        assert_eq!(spans(five, 250..=320, true), [(3, 3), (2, 2)]);
        assert_eq!(spans(five, 250..=320, false), [(2, 2), (3, 3)]);
        assert_eq!(spans(five, 510..=520, false), [(5, all)]);
        assert_eq!(spans(&[], 0..=u64::MAX, false), [(0, all)]);
    }
}
