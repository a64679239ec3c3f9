//! Backups beside a running server and the way back, and databases that must not be touched.

use crate::common::http::samples;
use crate::common::{Device, Process, answer, rig};
use std::path::Path;
use tidegate_protocol::Codec;

/// One line that names the file, says each thing once, and what to do.
fn is_plain(said: &str, file: &Path, advice: &str) {
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(text(file)), "{said}");
    assert!(said.contains(advice), "{said}");
    let parts: Vec<&str> = said.trim().split(": ").collect();
    for (at, part) in parts.iter().enumerate() {
        assert!(!parts[at + 1..].contains(part), "twice {part:?}: {said}");
    }
    assert!(!said.contains("error returned from database"), "{said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn backup(dir: &Path, file: &Path) -> (bool, String) {
    let (status, said) = Process::run(&["backup", text(file), "--data-dir", text(dir)]).await;
    (status.success(), said)
}

async fn restore(file: &Path, dir: &Path, more: &[&str]) -> (bool, String) {
    let arguments = [&["restore", text(file), "--data-dir", text(dir)], more].concat();
    let (status, said) = Process::run(&arguments).await;
    (status.success(), said)
}

#[tokio::test]
async fn a_backup_of_a_running_server_goes_on_elsewhere_bit_for_bit_as_another_log() {
    let values = rig(41, 500);
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    let file = place.path().join("backup.db");
    let server = Process::serve(&one, &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 450).await;
    let (done, said) = backup(&one, &file).await;
    assert!(done, "{said}");
    let expected = device.stream(&values, 450, 500).await;
    let (again, said) = backup(&one, &file).await;
    assert!(!again && said.contains("exists already"), "{said}");

    let (done, said) = restore(&file, &two, &[]).await;
    assert!(done, "{said}");
    let restored = Process::serve(&two, &[]).await;
    assert_eq!(samples(restored.addr(), "rig-1").await.len(), 450);
    let mut device = Device::open(restored.addr(), "device=rig-1", Codec::Json).await;
    assert_eq!(device.welcome.resume_from, 450);
    let predictions = device.stream(&values, 450, 500).await;
    let answers = |list: &[_]| list.iter().map(answer).collect::<Vec<_>>();
    assert_eq!(answers(&predictions), answers(&expected));

    // A position in the one log means nothing in the other.
    let log = |addr| async move {
        let mut subscriber = crate::common::Subscriber::connect(addr, Codec::Json).await;
        let wish = crate::common::peer::wish(1, "predictions/*/*");
        subscriber.subscribe(wish).await.0.log
    };
    assert_ne!(log(server.addr()).await, log(restored.addr()).await);
}

#[tokio::test]
async fn a_restore_never_touches_a_live_database_nor_overwrites_one() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("backup.db"));
    let server = Process::serve(&dir, &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&rig(42, 10), 0, 10).await;
    assert!(backup(&dir, &file).await.0);
    for more in [&[][..], &["--force"][..]] {
        let (done, said) = restore(&file, &dir, more).await;
        assert!(!done && said.contains("in use by another"), "{said}");
    }
    device.stream(&rig(42, 20), 10, 20).await;
    server.kill().await;

    let (done, said) = restore(&file, &dir, &[]).await;
    assert!(!done && said.contains("--force"), "{said}");
    let (done, said) = restore(&file, &dir, &["--force"]).await;
    assert!(done, "{said}");
    let server = Process::serve(&dir, &[]).await;
    assert_eq!(samples(server.addr(), "rig-1").await.len(), 10);
    assert!(dir.join("tidegate.db.before-restore-1").is_file());
}

#[tokio::test]
async fn a_file_that_is_no_whole_database_is_refused_and_left_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    let garbage = b"this is no database, whatever its name says".repeat(200);
    let database = dir.join("tidegate.db");
    std::fs::write(&database, &garbage).unwrap();
    let (status, said) =
        Process::run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&dir)]).await;
    assert!(!status.success());
    assert!(said.contains("not a database"), "{said}");
    is_plain(&said, &database, "restore a backup");
    assert_eq!(std::fs::read(&database).unwrap(), garbage);

    let (done, said) = restore(&database, &place.path().join("other"), &[]).await;
    assert!(!done && said.contains("no database of tidegate"), "{said}");
    is_plain(&said, &database, "restore a backup");
    let (done, said) = backup(&place.path().join("nowhere"), &place.path().join("b.db")).await;
    assert!(!done && said.contains("no such database"), "{said}");
    assert!(!place.path().join("b.db").exists());
}

#[tokio::test]
async fn a_damaged_backup_is_refused_before_anything_is_moved() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("backup.db"));
    let server = Process::serve(&dir, &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&rig(43, 300), 0, 300).await;
    assert!(backup(&dir, &file).await.0);
    server.kill().await;
    let mut bytes = std::fs::read(&file).unwrap();
    let torn = bytes.len() / 2;
    bytes[torn..torn + 4096].fill(0xA5);
    std::fs::write(&file, &bytes).unwrap();
    let (done, said) = restore(&file, &dir, &["--force"]).await;
    assert!(!done && said.contains("damaged"), "{said}");
    is_plain(&said, &file, "restore a backup");
    assert!(!dir.join("tidegate.db.before-restore-1").exists());
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    Process::serve(dir.path(), &[]).await.kill().await;
    let file = dir.path().join("tidegate.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         VALUES (9999, 'from the future', CURRENT_TIMESTAMP, 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let (status, said) = Process::run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        text(dir.path()),
    ])
    .await;
    assert!(!status.success());
    assert!(
        said.contains("9999") && said.contains("this build knows"),
        "{said}"
    );
}

#[tokio::test]
async fn a_backup_of_a_killed_database_has_its_write_ahead_log_and_leftovers_are_no_part_of_it() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    let server = Process::serve(&one, &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&rig(44, 300), 0, 300).await;
    server.kill().await;
    std::fs::create_dir(&two).unwrap();
    for leftover in ["tidegate.db.partial-wal", "tidegate.db-wal"] {
        std::fs::copy(one.join("tidegate.db-wal"), two.join(leftover)).unwrap();
    }
    // What was acked stands in the log beside the file, most of it.
    let (done, said) = restore(&one.join("tidegate.db"), &two, &[]).await;
    assert!(done, "{said}");
    let server = Process::serve(&two, &[]).await;
    assert_eq!(samples(server.addr(), "rig-1").await.len(), 300);
}

#[tokio::test]
async fn a_damaged_database_and_one_of_another_program_are_refused_and_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::serve(dir.path(), &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&rig(45, 300), 0, 300).await;
    server.terminate().await;
    assert!(server.exit().await.success());
    let file = dir.path().join("tidegate.db");
    let torn = page_of_samples(&file).await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[torn].fill(0xA5);
    std::fs::write(&file, &bytes).unwrap();
    refused_and_left(dir.path(), "damaged").await;
    let (done, said) = backup(dir.path(), &dir.path().join("copy.db")).await;
    assert!(!done, "{said}");
    is_plain(&said, &file, "restore a backup");

    let other = tempfile::tempdir().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(other.path().join("tidegate.db"))
        .create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let table = sqlx::query("CREATE TABLE invoices (id INTEGER)");
    table.execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    refused_and_left(other.path(), "no database of tidegate").await;
}

/// The page that the table of samples begins with: a copy cannot do without it, while a damaged index is made anew.
async fn page_of_samples(file: &Path) -> std::ops::Range<usize> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let root = sqlx::query_scalar("SELECT rootpage FROM sqlite_schema WHERE name = 'samples'");
    let root: i64 = root.fetch_one(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let start = (usize::try_from(root).unwrap() - 1) * 4096;
    start..start + 4096
}

async fn refused_and_left(dir: &Path, reason: &str) {
    let before = std::fs::read(dir.join("tidegate.db")).unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", text(dir)];
    let (status, said) = Process::run(&arguments).await;
    assert!(!status.success() && said.contains(reason), "{said}");
    is_plain(&said, &dir.join("tidegate.db"), reason);
    assert_eq!(std::fs::read(dir.join("tidegate.db")).unwrap(), before);
}

#[tokio::test]
async fn a_folder_where_a_file_belongs_and_a_folder_that_is_not_there_are_named() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let url = format!("sqlite:{}", text(folder));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--store-url", &url];
    let (status, said) = Process::run(&arguments).await;
    assert!(!status.success());
    is_plain(&said, folder, "name a file in it");
    let (done, said) = restore(folder, &folder.join("data"), &[]).await;
    assert!(!done);
    is_plain(&said, folder, "name a file in it");

    let data = folder.join("one");
    Process::serve(&data, &[]).await.kill().await;
    let file = folder.join("nowhere").join("b.db");
    let (done, said) = backup(&data, &file).await;
    assert!(!done);
    is_plain(&said, &file, "make it first");
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_told_once_by_replay_and_export() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.db");
    std::fs::write(&file, b"this is no database".repeat(300)).unwrap();
    let out = dir.path().join("out.csv");
    let export = ["--format", "csv", "--out", text(&out)];
    for (command, more) in [("replay", &[][..]), ("export", &export[..])] {
        let mut arguments = vec![command, "--endpoint", "pump-health", "--data-dir"];
        arguments.push(text(dir.path()));
        arguments.extend(more);
        let (status, said) = Process::run(&arguments).await;
        assert!(!status.success());
        is_plain(&said, &file, "restore a backup");
    }
}
