//! What holds of sessions in the map and of who waits for their commits.

use super::*;
use crate::inference::{Engine, Fold, load_zoo};
use crate::push::Outbox;
use crate::stream::{Marks, StreamRef};
use std::convert::Infallible;

const MOST: usize = 10;

fn key() -> StreamKey {
    let (endpoint, device) = ("pump-health".parse(), "rig-1".parse());
    StreamKey::live(endpoint.expect("a name"), device.expect("an id"))
}

fn new_session() -> Session {
    let zoo = load_zoo(None).expect("our own models");
    let endpoint = &zoo.endpoints["pump-health"];
    let ids = endpoint.versions.keys().cloned().zip(1..).collect();
    let mut engine = Engine::default();
    engine.add(key().endpoint, endpoint, &ids);
    let served = engine.endpoint("pump-health").expect("added");
    let fold = Fold::new(Arc::clone(&served.production));
    let bounds = Bounds {
        max_gaps: 4,
        snapshot_every: 8,
        max_repeats: 2,
    };
    let stream = StreamRef { id: 1, key: key() };
    Session::new(stream, Marks::default(), Gaps::default(), fold, bounds)
}

async fn open(sessions: &Sessions) -> Arc<SessionCell> {
    let key = key();
    let opened = sessions.open(&key, MOST, async { Ok::<_, Infallible>(new_session()) });
    opened.await.expect("room")
}

#[tokio::test]
async fn a_stopped_stream_leaves_memory_with_its_rows_and_is_loaded_anew() {
    let sessions = Sessions::default();
    let stopped = open(&sessions).await;
    {
        let mut session = stopped.lock();
        session.open();
        assert_eq!(session.pending(), 1);
        session.stop();
    }
    sessions.sweep(Duration::ZERO);
    assert!(stopped.lock().retired, "the sweep brought it back to life");
    let opened = open(&sessions).await;
    assert!(!Arc::ptr_eq(&opened, &stopped));
    assert_eq!(opened.lock().marks.pos, 0);
}

#[tokio::test]
async fn a_stream_with_a_row_on_its_way_is_never_swept() {
    let sessions = Sessions::default();
    let session = open(&sessions).await;
    session.lock().open();
    sessions.sweep(Duration::ZERO);
    assert!(Arc::ptr_eq(&open(&sessions).await, &session));
}

#[test]
fn witnesses_that_do_not_all_fit_are_not_kept_in_part() {
    let mut session = new_session();
    let row = session.open().expect("a new stream opens with a row");
    let outbox = Outbox::for_task(Some(0), false);
    let witness = |hears| Witness {
        pos: 1,
        outbox: Arc::clone(&outbox),
        hears,
    };
    assert!(session.watch([witness(Hears::Row)]));
    assert!(!session.watch([witness(Hears::Row), witness(Hears::Publish(7))]));
    assert_eq!(session.settle(&row).len(), 1);
}

#[test]
fn a_session_is_as_large_as_it_is_planned() {
    // With its cell and its place in the map: what each of a million resting devices costs beside its model's state.
    let size = std::mem::size_of::<SessionCell>();
    assert!(size <= 400, "{size}");
}
