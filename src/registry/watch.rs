//! Looks at the folder of models every now and then, so that a version that is put there is noticed.

use super::Registry;
use crate::telemetry::metric;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looks every `every` until the server stops. A look reads names, sizes and times; only what changed and came to rest is read.
pub async fn watch(registry: Arc<Registry>, every: Duration, stop: CancellationToken) {
    if every.is_zero() || !registry.source.changes() {
        return;
    }
    let mut was_readable = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
        match registry.notice().await {
            Ok(report) => {
                was_readable = true;
                let mistakes = report.mistakes.len() as u64;
                metrics::counter!(metric::MODEL_MISTAKES).increment(mistakes);
            }
            Err(error) if was_readable => {
                was_readable = false;
                tracing::error!(%error, "the models cannot be looked at: what is loaded goes on");
            }
            Err(_) => {}
        }
    }
}
