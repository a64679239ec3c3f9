//! The same with the log in PostgreSQL, read by connections that may not write.

use super::replay::replays_equal_under_retention;
use super::{EVENTFUL, Said, over_log, record_on};
use crate::common::{Postgres, TestServer};

async fn over(command: &str, postgres: &Postgres, more: &[&str]) -> Said {
    over_log(command, ["--store-url", &postgres.url()], more).await
}

#[tokio::test]
async fn an_eventful_run_replays_equal_to_the_bit_and_what_is_changed_is_found() {
    let postgres = Postgres::start().await;
    let dir = tempfile::tempdir().unwrap();
    record_on(dir.path(), &["--store-url", &postgres.url()]).await;
    let said = over("replay", &postgres, &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("result: equal to the bit"), "{said:?}");
    assert_eq!(said.count("equal"), EVENTFUL - 1);

    let compared = over("replay", &postgres, &["--version", "autoencoder/1.0.0"]).await;
    assert_eq!(compared.count("readings"), EVENTFUL, "{compared:?}");
    let exported = over("export", &postgres, &["--format", "csv", "--out", "-"]).await;
    assert_eq!(exported.out.lines().count() as u64, EVENTFUL + 1);
    let ids = exported.out.lines().skip(1).map(|line| {
        let id = line.split(',').next().unwrap();
        id.parse::<u64>().unwrap()
    });
    assert!(ids.collect::<Vec<_>>().is_sorted());
    let some = [
        "--format", "jsonl", "--out", "-", "--device", "rig-1", "--epoch", "4",
    ];
    assert_eq!(
        over("export", &postgres, &some).await.out.lines().count(),
        5
    );

    postgres
        .psql(
            "UPDATE samples SET output = (SELECT output FROM samples WHERE seq = 511) \
             WHERE seq = 510 AND stream_id = (SELECT id FROM streams WHERE device = 'rig-1')",
        )
        .await;
    let said = over("replay", &postgres, &[]).await;
    assert_eq!((said.code, said.count("different")), (1, 1), "{said:?}");
    assert!(
        said.out.contains("rig-1, epoch 0, seq 510, id "),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_log_that_retention_cuts_meanwhile_replays_equal() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_with(|raw| {
        raw.store.url = Some(postgres.url().into());
        raw.store.max_bytes = 3_000_000;
    })
    .await;
    replays_equal_under_retention(&server, ["--store-url", &postgres.url()]).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_read_says_what_to_do() {
    let postgres = Postgres::start().await;
    let said = over("replay", &postgres, &[]).await;
    assert_eq!((said.code, said.err.lines().count()), (2, 1), "{said:?}");
    assert!(said.err.contains("start the server on it once"), "{said:?}");
    let elsewhere = ["--store-url", "postgres://me:secret@127.0.0.1:1/none"];
    let said = over_log("replay", elsewhere, &[]).await;
    assert_eq!((said.code, said.err.lines().count()), (2, 1), "{said:?}");
    assert!(
        said.err.contains("cannot connect") && !said.err.contains("secret"),
        "{said:?}"
    );
}
