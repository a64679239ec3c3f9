//! One story through `dyn Store`, told to both databases.

#[allow(dead_code, reason = "other test programs use the rest")]
#[path = "common/postgres.rs"]
mod postgres;

use postgres::Postgres;
use std::time::Duration;

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
