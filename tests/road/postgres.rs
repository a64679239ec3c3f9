//! The promise with PostgreSQL under it: kills and stops as with a file, and what only a database server can do: restart, hang,
//! commit without an answer, be taken over.

use super::common::http::{request, samples};
use super::common::{
    Device, Home, Lossy, Postgres, Process, TestServer, answer, batch, eventually, plain, rig,
};
use super::restart;
use tidegate_protocol::{Codec, ServerMessage};

type Peer = super::common::peer::Peer<ServerMessage>;

/// Ends the session that holds the writer's lock, as a firewall or an administrator does.
const END_WRITER: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";

fn seqs(samples: &[tidegate_protocol::Sample]) -> Vec<u64> {
    samples.iter().map(|sample| sample.seq).collect()
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was_bit_for_bit() {
    restart::goes_on_bit_for_bit(&Home::postgres().await).await;
}

#[tokio::test]
async fn a_kill_in_mid_stream_loses_nothing_that_was_acked() {
    restart::loses_nothing_that_was_acked(&Home::postgres().await).await;
}

#[tokio::test]
async fn a_stop_commits_and_acks_everything_that_was_taken() {
    restart::stops_clean(&Home::postgres().await).await;
}

#[tokio::test]
async fn a_stream_remembers_its_gaps_and_refusals_over_a_kill() {
    restart::remembers_its_gaps(&Home::postgres().await).await;
}

#[tokio::test]
async fn a_takeover_in_the_middle_of_a_burst_loses_and_doubles_nothing() {
    const READINGS: usize = 600;
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let values = rig(21, READINGS);
    let mut older = server.device("rig-1").await;
    for first in (0..READINGS).step_by(100) {
        older.send(&batch(&values, first, first + 100)).await;
    }
    older.any_prediction().await;
    let mut newer = server.device("rig-1").await;
    assert_eq!(older.close_code().await, 4502);
    let from = usize::try_from(newer.welcome.resume_from).unwrap();
    if from < READINGS {
        newer.stream(&values, from, READINGS).await;
    }
    let stored = server.samples("rig-1").await;
    assert_eq!(seqs(&stored), (0..READINGS as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restart_of_the_server_brings_everything_back_in_order() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let values = rig(22, 50);
    server.device("rig-1").await.stream(&values, 0, 50).await;
    let data_dir = server.data_dir();
    let server = server.restart().await;
    let device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 50);
    assert_eq!(server.samples("rig-1").await.len(), 50);
    let devices = server.get("/api/v1/devices").await.json();
    assert_eq!(devices["devices"][0]["device"], "rig-1");
    let left = std::fs::read_dir(data_dir).unwrap().count();
    assert_eq!(left, 0, "no data dir is needed");
}

/// Streams while `trouble` happens, then compares with a server that had none.
async fn streams_through(server: &TestServer, seed: u64, trouble: impl AsyncFnOnce()) {
    const READINGS: usize = 600;
    let values = rig(seed, READINGS);
    let calm = TestServer::start().await;
    let expected = calm
        .device("rig-1")
        .await
        .stream(&values, 0, READINGS)
        .await;

    let mut device = server.device("rig-1").await;
    let mut predictions = device.stream(&values, 0, 200).await;
    device.send(&batch(&values, 200, 300)).await;
    trouble().await;
    for seq in 200..300 {
        predictions.push(device.prediction(seq).await);
    }
    device.ack(299).await;
    predictions.extend(device.stream(&values, 300, READINGS).await);
    let answers = |list: &[_]| list.iter().map(answer).collect::<Vec<_>>();
    assert_eq!(answers(&predictions), answers(&expected));
    let stored = server.samples("rig-1").await;
    assert_eq!(seqs(&stored), (0..READINGS as u64).collect::<Vec<_>>());
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_database_that_restarts_is_waited_for() {
    let mut postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    streams_through(&server, 23, async || {
        postgres.stop().await;
        eventually("the server to notice", || async {
            server.get("/health/ready").await.status == 503
        })
        .await;
        let ready = server.get("/health/ready").await.json();
        assert_eq!(ready["store"], "failing");
        postgres.start_again().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_crashes_is_waited_for() {
    let mut postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    streams_through(&server, 24, async || {
        postgres.crash().await;
        postgres.start_again().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_hangs_is_given_up_and_its_session_ended() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_with(|raw| {
        raw.store.url = Some(postgres.url().into());
        raw.store.commit_timeout_s = 1;
    })
    .await;
    streams_through(&server, 25, async || {
        postgres.pause();
        eventually("the server to notice", || async {
            server.get("/health/ready").await.status == 503
        })
        .await;
        postgres.resume();
    })
    .await;
    let held = postgres
        .psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        .await;
    assert_eq!(held, "1", "one session holds the lock");
}

#[tokio::test]
async fn a_session_that_an_administrator_ends_is_opened_again() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    streams_through(&server, 26, async || {
        postgres.psql(END_WRITER).await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_stands_once_and_is_acked() {
    let postgres = Postgres::start().await;
    let lossy = Lossy::to(postgres.port()).await;
    let server = TestServer::start_with(|raw| {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", lossy.port());
        raw.store.url = Some(url.into());
        raw.store.max_batch = 20;
    })
    .await;
    // Over and over: also the COMMIT of the batch that follows the one looked up.
    streams_through(&server, 27, async || lossy.lose(3)).await;
    assert_eq!(lossy.lost(), 3);
    let metrics = server.get("/metrics").await.body;
    assert!(
        metrics.contains("tidegate_store_reconnects_total"),
        "{metrics}"
    );
}

/// The refused row comes in the batch that an outage held up: the others of it are committed by themselves.
#[tokio::test]
async fn a_row_that_the_database_refuses_stops_its_stream_and_no_other() {
    let mut postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let mut good = server.device("good").await;
    good.still_works(0).await;
    let mut bad = server.device("bad").await;
    postgres
        .psql("ALTER TABLE streams ADD CHECK (device <> 'bad')")
        .await;
    postgres.stop().await;
    good.read(plain(1)).await;
    bad.read(plain(0)).await;
    bad.prediction(0).await;
    eventually("the server to notice", || async {
        server.get("/health/ready").await.status == 503
    })
    .await;
    postgres.start_again().await;
    good.ack(1).await;
    let (error, code) = bad.error_and_close().await;
    assert_eq!((error.code.as_str(), code), ("stream_stopped", 4013));
    eventually("readiness without another commit", || async {
        server.get("/health/ready").await.status == 200
    })
    .await;
    assert_eq!(postgres.psql("SELECT count(*) FROM samples").await, "2");
}

#[tokio::test]
async fn a_second_server_on_the_same_database_is_refused_and_the_first_goes_on() {
    let home = Home::postgres().await;
    let first = home.serve().await;
    let url = home.postgres.as_ref().unwrap().url();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--store-url", &url];
    let (status, said) = Process::run(&arguments).await;
    assert!(!status.success());
    assert!(said.contains("in use by another tidegate server"), "{said}");
    let mut device = Device::open(first.addr(), "device=rig-1", Codec::Json).await;
    device.still_works(0).await;
}

#[tokio::test]
async fn a_server_that_was_taken_over_commits_nothing_more_says_so_and_ends() {
    let home = Home::postgres().await;
    let postgres = home.postgres.as_ref().unwrap();
    let first = home.serve().await;
    let mut device = Device::open(first.addr(), "device=rig-1", Codec::Json).await;
    device.still_works(0).await;
    // The database forgets the first server; it rests and does not notice.
    postgres.psql(END_WRITER).await;
    let second = home.serve().await;
    device.read(plain(1)).await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code.as_str(), code), ("stream_stopped", 4013));
    let status = first.exit().await;
    assert!(!status.success());

    let mut device = Device::open(second.addr(), "device=rig-1", Codec::Json).await;
    assert_eq!(
        device.welcome.resume_from, 1,
        "what was not acked is not there"
    );
    device.still_works(1).await;
    assert_eq!(seqs(&samples(second.addr(), "rig-1").await), [0, 1]);
}

#[tokio::test]
async fn a_token_that_was_raised_stops_a_server_in_the_middle_of_its_session() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    postgres.psql("UPDATE log SET fence = fence + 1").await;
    device.read(plain(1)).await;
    let lost = server.lost().await.to_string();
    assert!(lost.contains("another tidegate server"), "{lost}");
    assert_eq!(postgres.psql("SELECT count(*) FROM samples").await, "1");
    let ready = server.get("/health/ready").await;
    assert_eq!(
        (ready.status, ready.json()["store"].as_str()),
        (503, Some("lost"))
    );
}

#[tokio::test]
async fn readiness_shows_what_an_ack_survives() {
    let postgres = Postgres::start().await;
    for (setting, in_force) in [("full", "on"), ("normal", "off")] {
        let server = TestServer::start_with(|raw| {
            raw.store.url = Some(postgres.url().into());
            raw.store.synchronous = setting.into();
        })
        .await;
        let ready = request(server.addr(), "GET", "/health/ready", None).await;
        assert_eq!(ready.json()["synchronous"], setting, "{in_force}");
        assert!(server.stop().await);
    }
}

#[tokio::test]
async fn retention_drops_parts_and_roll_ups_outlive_them() {
    const READINGS: usize = 12_000;
    let postgres = Postgres::start().await;
    let server = TestServer::start_with(|raw| {
        raw.store.url = Some(postgres.url().into());
        // An empty schema takes a third of it; a part has a thousand readings then.
        raw.store.max_bytes = 3_000_000;
    })
    .await;
    let values = rig(28, READINGS);
    let mut device = server.device("rig-1").await;
    for first in (0..READINGS).step_by(500) {
        device.stream(&values, first, first + 500).await;
    }
    eventually("retention", || async {
        let first = server.get("/api/v1/samples?limit=1").await.json();
        first["samples"][0]["id"].as_u64() > Some(4_000)
    })
    .await;
    let path = "/api/v1/rollups?endpoint=pump-health&device=rig-1&span=hour";
    eventually("the roll-ups of all", || async {
        let page = server.get(path).await.json();
        let rollups = page["rollups"].as_array().unwrap();
        let counts = rollups.iter().filter_map(|r| r["count"].as_u64());
        counts.sum::<u64>() == READINGS as u64
    })
    .await;
    // In one look: retention may still be at it.
    let agree = "SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = 'samples'::regclass) = (SELECT count(*) FROM sample_parts)";
    assert_eq!(postgres.psql(agree).await, "t");
    // What is left is enough to go on.
    let server = server.restart().await;
    let device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, READINGS as u64);
}

/// Connections of one device that wait for their stream while the database stands still, the newest last.
async fn waiting(server: &TestServer, postgres: &Postgres, count: usize) -> Vec<Peer> {
    postgres.pause();
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(Device::connect(server.addr(), "pump-health?device=rig-1", Codec::Json).await);
    }
    peers
}

/// A device gives one connection up after the other while the database is away. When it comes back, all of them get their stream at
/// once: one that was given up used to take it from the one that is there, which was told not to come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_given_up_while_the_database_was_away_do_not_take_over_the_one_that_is_there() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let mut peers = waiting(&server, &postgres, 40).await;
    let there = peers.pop().unwrap();
    drop(peers);
    postgres.resume();
    let mut device = Device::welcomed(there).await;
    for seq in 0..20 {
        device.still_works(seq).await;
    }
}

/// The same, but all of them are still there: only their order tells which is the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_connections_that_waited_for_the_database_together_the_newest_holds_the_stream() {
    let postgres = Postgres::start().await;
    let server = TestServer::start_on(&postgres).await;
    let mut older = waiting(&server, &postgres, 40).await;
    let newest = older.pop().unwrap();
    postgres.resume();
    let mut device = Device::welcomed(newest).await;
    device.still_works(0).await;
    for peer in &mut older {
        assert_eq!(peer.close_code().await, 4502);
    }
    device.still_works(1).await;
}
