//! What only SQLite does: it rolls a transaction back by itself when a disk has no room, and has one connection for all that is written.

use super::book::{Book, Place};
use futures_util::FutureExt;
use std::time::Duration;

/// A full disk in the middle of a batch used to be the end of the writing connection: SQLite had rolled back already, the roll-back
/// behind it failed, and no transaction could begin any more, room or not.
#[tokio::test]
async fn a_batch_that_sqlite_rolled_back_by_itself_is_taken_the_next_time() {
    let mut book = Book::open(Place::sqlite()).await;
    let mut pen = book.pen("rig-1");
    let mut rows = vec![pen.opened(), pen.reading(0), pen.reading(1)];
    // The same end as a full disk has, but for the error's number.
    book.place
        .tamper(
            "CREATE TRIGGER no_room BEFORE INSERT ON samples BEGIN SELECT RAISE(ROLLBACK, 'no room'); END",
        )
        .await;
    for _ in 0..2 {
        let refused = book.commit(&mut rows).await.expect_err("no room");
        assert!(refused.to_string().contains("no room"), "{refused}");
        assert_eq!(book.position(&pen).await, 0, "nothing of it is there");
    }
    book.place.tamper("DROP TRIGGER no_room").await;
    book.commit(&mut rows).await.expect("there is room");
    assert_eq!(book.load(&pen).await.marks, pen.marks);
    book.close().await;
}

#[tokio::test]
async fn a_batch_whose_caller_went_away_leaves_the_way_free_for_the_next() {
    let mut book = Book::open(Place::sqlite()).await;
    let mut left = Vec::new();
    for device in 0..20 {
        let mut pen = book.pen(&format!("gone-{device}"));
        let mut rows = vec![pen.opened(), pen.reading(0)];
        {
            let mut commit = std::pin::pin!(book.commit(&mut rows));
            for _ in 0..device {
                if commit.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
        left.push((pen, rows));
    }
    for (pen, mut rows) in left {
        // The outcome of some was not heard.
        if book.position(&pen).await == 0 {
            book.commit(&mut rows).await.expect("nothing is in the way");
        }
        assert_eq!(book.load(&pen).await.marks, pen.marks);
    }
    book.close().await;
}
