//! What only a database server brings: addresses, rights, settings, and crashes of its own.

use super::book::{Book, Place};
use super::postgres::Postgres;
use sqlx::Connection;
use tidegate::config::RawConfig;
use tidegate::store::{self, Opened, StoreError};

async fn open(url: &str, change: impl FnOnce(&mut RawConfig)) -> Result<Opened, StoreError> {
    let mut raw = RawConfig::default();
    raw.store.url = Some(url.into());
    change(&mut raw);
    store::open(&raw.check().expect("the configuration is valid")).await
}

/// Why it cannot be opened: one line, which never shows a password.
async fn refusal(url: &str) -> String {
    let text = open(url, |_| {})
        .await
        .err()
        .expect("it is refused")
        .to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("secret"), "{text}");
    text
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// The cluster's address as another user.
fn as_user(postgres: &Postgres, user: &str) -> String {
    let port = postgres.port();
    format!("postgres://{user}:secret@127.0.0.1:{port}/postgres")
}

#[tokio::test]
async fn what_keeps_a_database_from_being_used_is_said_in_one_line_with_what_to_do() {
    let mut postgres = Postgres::start().await;
    let said = refusal(&postgres.url_of("readings")).await;
    assert_says(
        &said,
        &["\"readings\" does not exist", "`createdb readings`"],
    );
    let said = refusal(&as_user(&postgres, "nobody")).await;
    assert_says(
        &said,
        &[
            "role \"nobody\" does not exist",
            "check user and password in store.url",
        ],
    );
    postgres
        .psql("CREATE ROLE guest LOGIN PASSWORD 'another'")
        .await;
    let said = refusal(&as_user(&postgres, "guest")).await;
    assert_says(
        &said,
        &["permission denied for schema public", "may create in it"],
    );
    let tls = format!("{}?sslmode=require", postgres.url());
    assert_says(&refusal(&tls).await, &["no TLS", "sslmode"]);
    let nowhere = format!("{}?options[search_path]=nowhere", postgres.url());
    assert_says(
        &refusal(&nowhere).await,
        &["no schema of its search_path exists"],
    );

    let rules = postgres.data_dir().join("pg_hba.conf");
    std::fs::write(rules, "host all all 127.0.0.1/32 scram-sha-256\n").expect("rules");
    postgres.restart().await;
    let said = refusal(&as_user(&postgres, "guest")).await;
    assert_says(
        &said,
        &[
            "password authentication failed",
            "check user and password in store.url",
        ],
    );

    postgres.stop().await;
    let said = refusal(&postgres.url()).await;
    assert_says(&said, &["cannot connect", "is PostgreSQL running there"]);
}

#[tokio::test]
async fn logs_in_two_schemas_of_one_database_have_a_server_each() {
    let postgres = Postgres::start().await;
    postgres
        .psql("CREATE SCHEMA north; CREATE SCHEMA south")
        .await;
    let in_schema = |schema: &str| format!("{}?options[search_path]={schema}", postgres.url());
    let north = open(&in_schema("north"), |_| {}).await.expect("it opens");
    let south = open(&in_schema("south"), |_| {}).await.expect("it opens");
    assert_ne!(north.store.log_id(), south.store.log_id());
    let said = refusal(&in_schema("north")).await;
    assert_says(&said, &["in use by another tidegate server"]);
    north.store.close().await;
    let north = open(&in_schema("north"), |_| {}).await.expect("it is free");
    north.store.close().await;
    south.store.close().await;
}

#[tokio::test]
async fn a_server_without_fsync_is_refused_unless_less_is_wanted() {
    let mut postgres = Postgres::start().await;
    postgres.psql("ALTER SYSTEM SET fsync = off").await;
    postgres.restart().await;
    let said = refusal(&postgres.url()).await;
    assert_says(
        &said,
        &["fsync = off", "set fsync = on", "store.synchronous"],
    );
    let weaker = open(&postgres.url(), |raw| {
        raw.store.synchronous = "normal".into();
    })
    .await;
    weaker.expect("it opens").store.close().await;
}

/// The server answers before it syncs, unless it is told otherwise: what was committed must outlive its crash all the same.
#[tokio::test]
async fn a_commit_outlives_a_crash_of_a_server_that_is_set_to_be_hasty() {
    let mut postgres = Postgres::start().await;
    postgres
        .psql("ALTER SYSTEM SET synchronous_commit = off")
        .await;
    postgres
        .psql("ALTER SYSTEM SET wal_writer_delay = '10s'")
        .await;
    postgres.restart().await;
    let mut book = Book::open(Place::Postgres(postgres)).await;
    let mut pen = book.pen("hasty");
    book.write(vec![pen.opened(), pen.reading(0)]).await;
    let Place::Postgres(postgres) = &mut book.place else {
        unreachable!("it was made above");
    };
    postgres.crash().await;
    postgres.start_again().await;
    let noticed = book.store().positions(&[pen.stream.id]).await;
    assert!(noticed.is_err(), "the connection was lost");
    assert_eq!(book.position(&pen).await, 2);
    book.write(vec![pen.reading(1)]).await;
    assert_eq!(book.samples_of("hasty").await.len(), 2);
    book.close().await;
}

/// As `pg_dump` reads: one transaction over every table, for as long as it takes.
#[tokio::test]
async fn a_long_dump_holds_up_retention_and_nothing_else() {
    const A_PART: u64 = 1_000;
    let mut book = Book::open(Place::Postgres(Postgres::start().await)).await;
    let mut pen = book.pen("dumped");
    book.write(vec![pen.opened()]).await;
    book.write(pen.readings(0, A_PART)).await;
    book.write(pen.readings(A_PART, 2 * A_PART)).await;
    let slice = book.store().oldest(1).await.unwrap().expect("a part");
    let Place::Postgres(postgres) = &book.place else {
        unreachable!("it was made above");
    };
    let mut dump = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    let reads = "BEGIN; LOCK TABLE samples IN ACCESS SHARE MODE; SELECT count(*) FROM samples";
    sqlx::raw_sql(reads).execute(&mut dump).await.unwrap();

    // A part begins beside it.
    book.write(pen.readings(2 * A_PART, 2 * A_PART + 1)).await;
    let busy = book.store().retire(&slice, 10).await.unwrap_err();
    assert_says(&busy.to_string(), &["lock timeout"]);
    assert_eq!(book.samples_of("dumped").await.len() as u64, 2 * A_PART + 1);

    sqlx::raw_sql("COMMIT").execute(&mut dump).await.unwrap();
    let gone = book.store().retire(&slice, 10).await.unwrap();
    // Its stream has no snapshot but the first: a fold needs every reading.
    assert_eq!(gone, 0);
    assert_eq!(book.store().first_kept().await.unwrap(), slice.until);
    assert_eq!(book.samples_of("dumped").await.len() as u64, 2 * A_PART + 1);
    book.close().await;
}

/// Another program's tables are no reason to fail: their size counts, their rows stay.
#[tokio::test]
async fn tables_of_others_in_the_same_schema_are_left_alone() {
    let postgres = Postgres::start().await;
    postgres
        .psql("CREATE TABLE others (n INT); INSERT INTO others VALUES (1)")
        .await;
    let mut book = Book::open(Place::Postgres(postgres)).await;
    let mut pen = book.pen("guest");
    book.write(vec![pen.opened(), pen.reading(0)]).await;
    let Place::Postgres(postgres) = &book.place else {
        unreachable!("it was made above");
    };
    assert_eq!(postgres.psql("SELECT n FROM others").await, "1");
    book.close().await;
}
