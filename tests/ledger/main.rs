//! The ledger test: devices that write down everything, a seeded series of faults, and then the books are compared.
//!
//! Run from outside, against the real binary. A tour in reading order: `plan` (what happens under a seed), `script`, `kept`, `ledger`, `conduct`
//! (what a device does, keeps, writes down and infers; pure), `door`, `device`, `subscriber` (the peers), `frames`, `proxy` (the lines
//! between), `server`, `backend` (what is behind them), `scene` (one seed), `stored`, `fold`, `checks`, `report` (the books).
//!
//! `cargo test` plays a few seeds; `cargo xtask ledger --seeds 100` plays many, through the variables `LEDGER_SEEDS`, `LEDGER_FROM` and
//! `LEDGER_STORE`.

mod backend;
mod broker;
mod checks;
mod conduct;
mod device;
mod disk;
mod door;
mod fold;
mod frames;
#[path = "../road/common/http.rs"]
#[allow(dead_code, reason = "the tests of the road use the rest")]
mod http;
mod kept;
mod ledger;
mod plan;
#[path = "../common/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod postgres;
mod proxy;
mod report;
mod scene;
mod script;
mod server;
mod stored;
mod subscriber;
mod sync;
mod trace;
mod zoo;

use plan::{Plan, StoreKind};
use postgres::Postgres;
use report::Outcome;
use scene::Scene;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zoo::SmallZoo;

/// Seeds that a plain `cargo test` plays on each store.
const FEW: u64 = 5;

/// The outcome of `future`, or a panic that says what did not come.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let longest = Duration::from_secs(10);
    tokio::time::timeout(longest, future)
        .await
        .unwrap_or_else(|_| panic!("nothing came within {longest:?}: {what}"))
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} {text:?}: expected a number")),
    )
}

/// Plays the seeds that are asked for and prints them; panics when one broke a promise.
async fn play(store: StoreKind) {
    let wanted = std::env::var("LEDGER_STORE").unwrap_or_else(|_| "both".into());
    if wanted != "both" && wanted != store.name() {
        return;
    }
    let zoo = SmallZoo::write();
    let cluster = match store {
        StoreKind::Sqlite => None,
        StoreKind::Postgres => Some(Arc::new(Mutex::new(Postgres::start().await))),
    };
    let from = number("LEDGER_FROM").unwrap_or(1);
    let seeds = from..from + number("LEDGER_SEEDS").unwrap_or(FEW);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for seed in seeds {
        let outcome = Scene::play(Plan::of(seed, store), &zoo, cluster.as_ref()).await;
        println!("{}", outcome.line());
        if outcome.has_story() {
            println!("{}", outcome.story());
        }
        outcomes.push(outcome);
    }
    println!("\n{}", report::table(&outcomes));
    let broken = outcomes.iter().filter(|outcome| !outcome.is_good()).count();
    assert_eq!(broken, 0, "seeds that broke a promise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_on_sqlite_the_books_agree() {
    play(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_on_postgres_the_books_agree() {
    play(StoreKind::Postgres).await;
}
