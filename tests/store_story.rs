//! One story through `dyn Store`, told to SQLite and to PostgreSQL.
//!
//! A chapter is a function over an open [`Book`] and stands by itself: it uses devices of its own, and leaves the store open. To add
//! one, write it (here or in a file beside `chapters.rs`) and name it in [`tell`]. What only one of them
//! has is told in `postgres_alone.rs` and `sqlite_alone.rs`.

#[path = "store_story/alerts.rs"]
mod alerts;
#[path = "store_story/book.rs"]
mod book;
#[path = "store_story/chapters.rs"]
mod chapters;
#[path = "store_story/experiments.rs"]
mod experiments;
#[path = "store_story/history.rs"]
mod history;
#[allow(dead_code, reason = "other test programs use the rest")]
#[path = "common/postgres.rs"]
mod postgres;
#[path = "store_story/postgres_alone.rs"]
mod postgres_alone;
#[path = "store_story/sqlite_alone.rs"]
mod sqlite_alone;
#[path = "store_story/upkeep.rs"]
mod upkeep;
#[path = "store_story/versions.rs"]
mod versions;

use book::{Book, Place};
use postgres::Postgres;
use std::time::Duration;

/// Tells every chapter, in this order.
async fn tell(place: Place) {
    let mut book = Book::open(place).await;
    macro_rules! chapters {
        ($($module:ident::$chapter:ident),* $(,)?) => {
            $(
                eprintln!("chapter {}", stringify!($chapter));
                $module::$chapter(&mut book).await;
            )*
        };
    }
    chapters![
        chapters::an_empty_store_has_given_no_ids,
        chapters::a_new_stream_is_there_after_its_first_commit,
        chapters::a_batch_over_several_streams_commits_whole,
        chapters::a_stream_that_moved_takes_the_whole_batch_down,
        chapters::rows_that_do_not_follow_each_other_are_refused,
        chapters::a_second_stream_of_the_same_device_is_refused,
        chapters::gaps_are_replaced_by_the_newest_list,
        chapters::a_new_epoch_counts_anew,
        chapters::refusals_are_found_by_the_number_they_consumed,
        chapters::texts_of_any_kind_are_stored,
        chapters::a_number_is_found_with_every_bit_of_its_sample,
        chapters::the_newest_snapshot_comes_back_with_the_readings_behind_it,
        chapters::readings_are_counted_from_a_reset,
        chapters::every_filter_of_samples_holds,
        chapters::pages_of_samples_are_whole_in_both_directions,
        chapters::devices_come_page_by_page_with_their_newest_sample,
        chapters::an_import_is_a_stream_of_its_own,
        upkeep::failed_and_late_readings_are_no_part_of_what_is_folded_again,
        upkeep::roll_ups_add_up_and_move_their_consumer,
        upkeep::retention_keeps_what_a_fold_needs,
        upkeep::refusals_and_feedback_go_by_their_own_age,
        history::the_log_is_read_whole_slice_by_slice,
        alerts::alerts_are_recorded_whole_and_again,
        versions::a_version_never_changes,
        versions::a_revision_keeps_its_schema,
        versions::changes_of_status_are_added_whole_and_in_order,
        versions::a_version_that_changes_is_no_sign_of_life_of_its_device,
        experiments::a_change_of_an_experiment_is_a_row_of_its_history,
        experiments::an_arm_is_stored_with_the_switch_and_every_sample,
        experiments::feedback_comes_in_its_order_with_what_it_corrects,
        chapters::a_second_server_is_refused,
        chapters::everything_is_there_after_it_was_opened_again,
        chapters::a_newer_schema_is_refused_with_both_versions_named,
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
