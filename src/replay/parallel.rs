//! Streams over threads: each thread takes the next stream, results stand in the order of the streams.
//!
//! Threads of the blocking pool, because a replay computes; nothing is shared but the counter. The order in which
//! streams end decides nothing.

use super::{Context, ReplayError};
use crate::store::StoreError;
use crate::store::history::LoggedStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// Runs `work` on every stream, `context.options.threads` at once.
///
/// # Errors
/// The first failure in the order of threads; the others finish the stream they are at.
pub async fn each<T, W>(
    context: Context,
    streams: Vec<LoggedStream>,
    work: W,
) -> Result<Vec<T>, ReplayError>
where
    T: Send + 'static,
    W: AsyncFn(&Context, &LoggedStream) -> Result<T, StoreError> + Clone + Send + 'static,
{
    let threads = context.options.threads.clamp(1, streams.len().max(1));
    let shared = Arc::new((streams, AtomicUsize::new(0)));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (context, shared, work) = (context.clone(), Arc::clone(&shared), work.clone());
            let runtime = Handle::current();
            spawn_blocking(move || runtime.block_on(take_streams(&context, &shared, work)))
        })
        .collect();
    let mut done = Vec::new();
    for worker in workers {
        done.extend(worker.await.map_err(|_| ReplayError::Worker)??);
    }
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

async fn take_streams<T, W>(
    context: &Context,
    (streams, next): &(Vec<LoggedStream>, AtomicUsize),
    work: W,
) -> Result<Vec<(usize, T)>, StoreError>
where
    W: AsyncFn(&Context, &LoggedStream) -> Result<T, StoreError>,
{
    let mut done = Vec::new();
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = streams.get(place) else {
            return Ok(done);
        };
        match work(context, stream).await {
            Ok(result) => done.push((place, result)),
            Err(error) => {
                // The others stop behind the stream they are at.
                next.store(streams.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
    }
}
