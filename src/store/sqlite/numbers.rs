//! Where a number of a stream lies: the id of its sample, without an index of numbers.
//!
//! A stream's samples lie in the order of their numbers (epoch, then seq), but for the late ones, which are few and have an index of
//! their own. So a number is found by looking ever closer to it, in about as many steps as an index would take. An index
//! of numbers would cost every commit one more page for every stream in it.

use crate::stream::Flags;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

/// Epoch and seq.
type Number = (i64, i64);

/// A sample's id and number.
type Place = (i64, Number);

/// Condition of late samples; the index of them names it in the same words.
const LATE: &str = "(flags & 8) <> 0";
const IN_ORDER: &str = "(flags & 8) = 0";
const _: () = assert!(Flags::LATE.0 == 8);

/// The id of the sample with this number.
pub async fn locate(
    connection: &mut SqliteConnection,
    stream: i64,
    wanted: Number,
) -> sqlx::Result<Option<i64>> {
    match among_ordered(connection, stream, wanted).await? {
        Some(id) => Ok(Some(id)),
        None => among_late(connection, stream, wanted).await,
    }
}

async fn among_late(
    connection: &mut SqliteConnection,
    stream: i64,
    (epoch, seq): Number,
) -> sqlx::Result<Option<i64>> {
    let text =
        format!("SELECT id FROM samples WHERE stream_id = ? AND epoch = ? AND seq = ? AND {LATE}");
    let found = sqlx::query_scalar(AssertSqlSafe(text))
        .bind(stream)
        .bind(epoch)
        .bind(seq);
    found.fetch_optional(connection).await
}

async fn among_ordered(
    connection: &mut SqliteConnection,
    stream: i64,
    wanted: Number,
) -> sqlx::Result<Option<i64>> {
    let ends = (
        at(connection, stream, i64::MIN, true).await?,
        at(connection, stream, i64::MAX, false).await?,
    );
    let (Some(mut low), Some(mut high)) = ends else {
        return Ok(None);
    };
    let mut guesses = true;
    while low.1 < wanted && wanted < high.1 && high.0 - low.0 > 1 {
        let middle = low.0 + (high.0 - low.0) / 2;
        // Numbers mostly come at an even pace; where they do not, every second step halves.
        let probe = if guesses {
            guess(low, high, wanted)
        } else {
            middle
        };
        guesses = !guesses;
        // There is one: `high` is at or behind the probe.
        let Some(found) = at(connection, stream, probe, true).await? else {
            return Ok(None);
        };
        if found.1 <= wanted {
            low = found;
        } else if found.0 < high.0 {
            high = found;
        } else {
            // Nothing lies between the probe and `high`.
            high.0 = probe;
        }
    }
    let hit = [low, high].into_iter().find(|place| place.1 == wanted);
    Ok(hit.map(|place| place.0))
}

/// Where the number lies if the numbers between two places came at an even pace; strictly between them.
fn guess(low: Place, high: Place, wanted: Number) -> i64 {
    let (first, last) = (low.0 + 1, high.0 - 1);
    let (from, to) = (low.1, high.1);
    if from.0 != wanted.0 || to.0 != wanted.0 {
        return first + (last - first) / 2;
    }
    let share = (wanted.1 - from.1) as f64 / (to.1 - from.1) as f64;
    let ids = (high.0 - low.0) as f64;
    (low.0 + (share * ids) as i64).clamp(first, last)
}

/// The first sample in order at or behind `id`, or the last one at or before it.
async fn at(
    connection: &mut SqliteConnection,
    stream: i64,
    id: i64,
    behind: bool,
) -> sqlx::Result<Option<Place>> {
    let (side, order) = if behind {
        (">=", "ASC")
    } else {
        ("<=", "DESC")
    };
    let text = format!(
        "SELECT id, epoch, seq FROM samples WHERE stream_id = ? AND id {side} ? AND {IN_ORDER} ORDER BY id {order} LIMIT 1"
    );
    let row = sqlx::query(AssertSqlSafe(text)).bind(stream).bind(id);
    let place = |row: SqliteRow| (row.get(0), (row.get(1), row.get(2)));
    Ok(row.fetch_optional(connection).await?.map(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sqlx::Connection;

    /// What happens to a stream: ids that others took, numbers skipped, whether a skipped one comes late, a new epoch.
    #[derive(Debug, Clone, Copy)]
    struct Step {
        others: u16,
        skipped: u8,
        late: bool,
        new_epoch: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0..2_000_u16, 0..4_u8, any::<bool>(), 0..20_u8);
        let step = step.prop_map(|(others, skipped, late, dice)| Step {
            others: if dice > 15 { others } else { others % 3 },
            skipped: skipped.saturating_sub(2),
            late,
            new_epoch: dice == 0,
        });
        prop::collection::vec(step, 0..120)
    }

    /// Rows of one stream: id, number, whether it is late.
    fn rows(steps: &[Step]) -> Vec<(i64, Number, bool)> {
        let (mut id, mut next, mut skipped, mut rows) = (1, (0, 0), Vec::new(), Vec::new());
        for step in steps {
            if step.new_epoch {
                next = (next.0 + 1, 0);
                skipped.clear();
            }
            if let Some(number) = skipped.pop().filter(|_| step.late) {
                rows.push((id, number, true));
                id += 1;
            }
            skipped.extend((0..i64::from(step.skipped)).map(|more| (next.0, next.1 + more)));
            next.1 += i64::from(step.skipped);
            rows.push((id, next, false));
            next.1 += 1;
            id += 1 + i64::from(step.others);
        }
        rows
    }

    async fn check(rows: &[(i64, Number, bool)]) -> sqlx::Result<()> {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await?;
        let table = "CREATE TABLE samples (id INTEGER PRIMARY KEY, stream_id, epoch, seq, flags)";
        sqlx::raw_sql(table).execute(&mut connection).await?;
        for (stream, shift) in [(1, 0), (2, 1_000_000)] {
            for (id, (epoch, seq), late) in rows {
                let row = sqlx::query("INSERT INTO samples VALUES (?, ?, ?, ?, ?)");
                let row = row.bind(id + shift).bind(stream).bind(epoch).bind(seq);
                row.bind(8 * i64::from(*late))
                    .execute(&mut connection)
                    .await?;
            }
        }
        for (id, number, _) in rows {
            let found = locate(&mut connection, 1, *number).await?;
            assert_eq!(found, Some(*id), "{number:?}");
        }
        let last = rows.last().map_or((0, 0), |row| row.1);
        for seq in 0..=last.1 + 1 {
            let there = rows.iter().find(|row| row.1 == (last.0, seq));
            let found = locate(&mut connection, 1, (last.0, seq)).await?;
            assert_eq!(found, there.map(|row| row.0), "seq {seq}");
        }
        assert_eq!(locate(&mut connection, 3, (0, 0)).await?, None);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn every_number_is_found_whatever_lies_between(steps in steps()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(check(&rows(&steps))).unwrap();
        }
    }
}
