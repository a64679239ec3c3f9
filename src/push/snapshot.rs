//! The latest of each topic, for a subscription that starts anew: the newest sample of each stream, or who is online.
//!
//! Read page by page, so that a fleet of any size costs one page of memory. A stream whose newest sample lies beyond the snapshot's place is left out:
//! that sample follows from the log.

use super::hub::device_data;
use super::{Event, Hub, Pattern, topics};
use crate::store::{SampleQuery, StoreError, StoredSample};
use crate::stream::StreamKey;
use std::ops::Bound;
use std::sync::Arc;
use tidegate_protocol::live::DeviceState;
use tidegate_protocol::{DeviceId, EndpointName};

/// Most streams of a page from the store: each is a look-up of its own.
const PAGE: u32 = 100;

/// The streams that a pattern matches, as far as they are still to come.
#[derive(Debug)]
pub enum Streams {
    /// A device at each of these endpoints.
    OneDevice(DeviceId, Vec<EndpointName>),
    /// All after this one.
    After(Option<StreamKey>),
    /// None.
    Done,
}

impl Streams {
    /// Whether none is left.
    pub fn are_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

impl Hub {
    /// Every stream that a pattern matches.
    pub(super) fn streams(&self, pattern: &Pattern) -> Streams {
        let Pattern::Predictions(endpoint, Some(device)) = pattern else {
            return Streams::After(None);
        };
        let endpoints = match endpoint {
            Some(endpoint) => vec![endpoint.clone()],
            None => self.endpoints.read().clone(),
        };
        Streams::OneDevice(device.clone(), endpoints)
    }

    /// The newest sample of at most `rows` further streams, up to `until`.
    pub(super) async fn latest(
        &self,
        pattern: &Pattern,
        streams: &mut Streams,
        until: u64,
        rows: u32,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let _turn = self.reads.acquire().await;
        let mut newest = match streams {
            Streams::OneDevice(device, endpoints) => {
                let newest = self.newest(device, endpoints.pop(), until).await?;
                if endpoints.is_empty() {
                    *streams = Streams::Done;
                }
                newest
            }
            Streams::After(after) => {
                let (newest, last) = self.page(pattern, after.as_ref(), rows.min(PAGE)).await?;
                *streams = last.map_or(Streams::Done, |last| Streams::After(Some(last)));
                newest
            }
            Streams::Done => Vec::new(),
        };
        newest.retain(|sample| sample.id <= until);
        newest.sort_by_key(|sample| sample.id);
        Ok(newest
            .into_iter()
            .map(Event::stored)
            .map(Arc::new)
            .collect())
    }

    /// The newest sample of one stream, up to `until`.
    async fn newest(
        &self,
        device: &DeviceId,
        endpoint: Option<EndpointName>,
        until: u64,
    ) -> Result<Vec<StoredSample>, StoreError> {
        let Some(endpoint) = endpoint else {
            return Ok(Vec::new());
        };
        let query = SampleQuery {
            endpoint: Some(endpoint.to_string()),
            device: Some(device.to_string()),
            until: Some(until),
            live_only: true,
            newest_first: true,
            limit: 1,
            ..SampleQuery::default()
        };
        self.store.samples(&query).await
    }

    /// The newest samples of a page of streams, and the last stream if there may be more.
    async fn page(
        &self,
        pattern: &Pattern,
        after: Option<&StreamKey>,
        most: u32,
    ) -> Result<(Vec<StoredSample>, Option<StreamKey>), StoreError> {
        let endpoint = match pattern {
            Pattern::Predictions(endpoint, _) => endpoint.as_ref().map(EndpointName::as_str),
            _ => None,
        };
        let rows = self.store.devices(endpoint, after, most).await?;
        let last = rows.last().filter(|_| rows.len() == most as usize);
        let last = last.map(|row| row.key.clone());
        Ok((rows.into_iter().filter_map(|row| row.last).collect(), last))
    }

    /// Who is online, at most `most` streams after one, which moves to the last of them, or away with the last page.
    pub(super) fn presence(
        &self,
        pattern: &Pattern,
        after: &mut Option<StreamKey>,
        most: usize,
    ) -> Vec<Arc<Event>> {
        let Pattern::Devices(wanted) = pattern else {
            *after = None;
            return Vec::new();
        };
        let offset = self.flow.lock().offset();
        let start = after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let page: Vec<(StreamKey, i64)> = {
            let online = self.online.lock();
            let rest = online.range((start, Bound::Unbounded)).take(most);
            rest.map(|(key, at)| (key.clone(), *at)).collect()
        };
        if page.len() == most {
            *after = page.last().map(|(key, _)| key.clone());
        }
        let matching = page
            .iter()
            .filter(|(key, _)| wanted.as_ref().is_none_or(|id| *id == key.device));
        let events = matching.map(|(key, at)| {
            let data = device_data(key, DeviceState::Online, *at, None);
            Event::new(offset, topics::device(key), data)
        });
        events.map(Arc::new).collect()
    }
}
