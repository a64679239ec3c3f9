//! Whether a position can be recovered from: the same log, nothing of it retired, and no more events than may be replayed.
//!
//! Decided by look-ups that are bounded whatever the position: one stream's samples are counted by its index; a pattern with a `*` looks through the
//! rows of other streams too, `SPAN` at a time so that no read lives long, and reaches back `SPANS` of them.

use super::{Hub, Pattern};
use crate::store::{SampleQuery, StoreError};
use tidegate_protocol::Position;

/// Samples that one read for a pattern with a `*` goes through.
const SPAN: u64 = 100_000;
/// Spans that such a pattern may reach back.
const SPANS: usize = 20;

impl Hub {
    /// Whether everything after a position is still there and no more than `live.max_recover`.
    pub(super) async fn is_within_reach(
        &self,
        pattern: &Pattern,
        from: &Position,
    ) -> Result<bool, StoreError> {
        if from.log != self.log_id() || from.offset > self.committed_id() {
            return Ok(false);
        }
        let (until, in_memory) = self.flow.lock().reach(from.offset);
        let most = self.config.max_recover;
        // Ids count up: there are no more samples than numbers.
        let few = until.saturating_sub(from.offset) <= most.into();
        if few && in_memory {
            return Ok(true);
        }
        if from.offset + 1 < self.store.first_kept().await? {
            return Ok(false);
        }
        if few {
            return Ok(true);
        }
        let mut query = query(pattern, from.offset, until);
        query.limit = most + 1;
        self.are_fewer(query, until).await
    }

    /// Whether fewer than `query.limit` samples match up to `until`.
    async fn are_fewer(&self, mut query: SampleQuery, until: u64) -> Result<bool, StoreError> {
        for _ in 0..SPANS {
            let turn = self.reads.acquire().await;
            let count = self.store.count_samples(&query).await?;
            drop(turn);
            if count >= query.limit {
                return Ok(false);
            }
            let end = query.until.unwrap_or(until);
            if end >= until {
                return Ok(true);
            }
            query.limit -= count;
            query.cursor = Some(end);
            query.until = Some(until.min(end + SPAN));
        }
        Ok(false)
    }
}

/// The samples of a pattern after `at`, as far as one read may go.
pub fn query(pattern: &Pattern, at: u64, until: u64) -> SampleQuery {
    let Pattern::Predictions(endpoint, device) = pattern else {
        return SampleQuery::default();
    };
    let is_one = endpoint.is_some() && device.is_some();
    let end = if is_one { until } else { until.min(at + SPAN) };
    SampleQuery {
        endpoint: endpoint.as_ref().map(ToString::to_string),
        device: device.as_ref().map(ToString::to_string),
        cursor: Some(at),
        until: Some(end),
        live_only: true,
        ..SampleQuery::default()
    }
}
