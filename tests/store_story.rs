//! One story through `dyn Store`, told to SQLite and to PostgreSQL.
//!
//! A chapter is a function over an open [`Book`] and stands by itself: it uses devices of its own, and leaves the store open. To add
//! one, write it (here or in a file beside `chapters.rs`) and name it in [`tell`]. What only PostgreSQL has is told in
//! `postgres_alone.rs`.

#[path = "store_story/book.rs"]
mod book;
#[path = "store_story/chapters.rs"]
mod chapters;
#[allow(dead_code, reason = "other test programs use the rest")]
#[path = "common/postgres.rs"]
mod postgres;
#[path = "store_story/postgres_alone.rs"]
mod postgres_alone;
#[path = "store_story/upkeep.rs"]
mod upkeep;

use book::{Book, Place};
use chapters::*;
use postgres::Postgres;
use std::time::Duration;
use upkeep::*;

/// Tells every chapter, in this order.
async fn tell(place: Place) {
    let mut book = Book::open(place).await;
    macro_rules! chapters {
        ($($chapter:ident),* $(,)?) => {
            $(
                eprintln!("chapter {}", stringify!($chapter));
                $chapter(&mut book).await;
            )*
        };
    }
    chapters![
        an_empty_store_has_given_no_ids,
        a_new_stream_is_there_after_its_first_commit,
        a_batch_over_several_streams_commits_whole,
        a_stream_that_moved_takes_the_whole_batch_down,
        rows_that_do_not_follow_each_other_are_refused,
        a_second_stream_of_the_same_device_is_refused,
        gaps_are_replaced_by_the_newest_list,
        a_new_epoch_counts_anew,
        refusals_are_found_by_the_number_they_consumed,
        texts_of_any_kind_are_stored,
        a_number_is_found_with_every_bit_of_its_sample,
        the_newest_snapshot_comes_back_with_the_readings_behind_it,
        readings_are_counted_from_a_reset,
        every_filter_of_samples_holds,
        pages_of_samples_are_whole_in_both_directions,
        devices_come_page_by_page_with_their_newest_sample,
        an_import_is_a_stream_of_its_own,
        a_version_never_changes,
        a_second_server_is_refused,
        everything_is_there_after_it_was_opened_again,
        roll_ups_of_one_bucket_add_up_and_the_offset_moves_with_them,
        retired_samples_leave_what_folds_and_calibrations_need,
        a_newer_schema_is_refused_with_both_versions_named,
    ];
    book.close().await;
}

#[tokio::test]
async fn the_story_holds_on_sqlite() {
    tell(Place::sqlite()).await;
}

#[tokio::test]
async fn the_story_holds_on_postgres() {
    tell(Place::Postgres(Postgres::start().await)).await;
}

#[tokio::test]
async fn a_private_cluster_keeps_its_rows_over_stop_crash_and_pause() {
    let mut postgres = Postgres::start().await;
    postgres.psql("CREATE TABLE kept (n INT)").await;
    postgres.psql("INSERT INTO kept VALUES (1)").await;
    postgres.restart().await;
    postgres.psql("INSERT INTO kept VALUES (2)").await;
    postgres.crash().await;
    postgres.start_again().await;
    {
        postgres.pause();
        let mut held = std::pin::pin!(postgres.psql("SELECT n FROM kept ORDER BY n"));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut held).await;
        assert!(early.is_err(), "held, yet it answered");
        postgres.resume();
        assert_eq!(held.await, "1\n2");
    }
    let data = postgres.data_dir();
    drop(postgres);
    assert!(!data.exists(), "nothing of it is left");
}
