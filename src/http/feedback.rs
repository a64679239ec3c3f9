//! Ground truth over HTTP: for one reading, for many, or for all readings of a device in a stretch of time ("it failed at T").
//!
//! A reading is named by the id of its sample, or by endpoint, device, epoch and seq. Answered when what is told as stored is durable.

use super::models::only_json;
use super::{Problem, Shared, Site};
use crate::experiment::outcome;
use crate::pipeline::{FeedbackError, Given, Truth};
use crate::store::SampleQuery;
use crate::stream::StreamKey;
use crate::telemetry::metric;
use axum::Json;
use axum::body::Bytes;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tidegate_protocol::message::Label;
use tidegate_protocol::{DeviceId, EndpointName, MAX_NUMBER};
use utoipa::ToSchema;

/// Items of one request.
const MOST: usize = 1_000;
/// Samples that one outcome labels at most.
const MOST_LABELLED: u32 = 10_000;
/// Samples read and labelled at once.
const SLICE: u32 = 500;
/// Bytes of a label.
const MAX_LABEL: usize = 128;

/// One item or many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Items {
    /// `{"feedback":[...]}`
    Many { feedback: Vec<Item> },
    /// The item itself.
    One(Item),
}

/// Ground truth and what it is about.
#[derive(Debug, Deserialize, ToSchema)]
struct Item {
    /// The id of a sample.
    sample: Option<u64>,
    /// Or: where the reading was taken,
    endpoint: Option<String>,
    /// by which device,
    device: Option<String>,
    /// in which epoch (0 where left out),
    epoch: Option<u64>,
    /// under which number.
    seq: Option<u64>,
    /// Or: when the outcome came about, Unix ms of measured time: all readings of the device in the time before are labelled.
    failed_at: Option<i64>,
    /// How much time before it, seconds.
    window_s: Option<f64>,
    /// What was true: a class, or a number.
    #[schema(value_type = Object)]
    label: serde_json::Value,
}

/// What became of the items.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct FeedbackBody {
    /// Labels that are durable.
    stored: u64,
    /// Items whose reading is not there yet: tried again for ten minutes, then counted as orphans.
    waiting: u64,
    /// Items that were not taken.
    refused: Vec<RefusedItem>,
}

/// An item that was not taken.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedItem {
    /// Its place, from 0.
    index: usize,
    detail: String,
}

impl FeedbackBody {
    fn refuse(&mut self, index: usize, detail: impl Into<String>) {
        metrics::counter!(metric::FEEDBACK, "outcome" => "refused").increment(1);
        self.refused.push(RefusedItem {
            index,
            detail: detail.into(),
        });
    }
}

/// Stores ground truth. Giving it again corrects it; what was said before stays on record.
#[utoipa::path(post, path = "/api/v1/feedback", request_body(content = Object, description = "one item, or `{\"feedback\":[...]}` with up to 1,000"),
    responses((status = 200, body = FeedbackBody), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn feedback(
    site: Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<FeedbackBody>, Problem> {
    only_json(&headers, "{\"feedback\": [...]}")?;
    let items = serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request(format!(
            "expected an item with `label`, or {{\"feedback\": [...]}}: {error}"
        ))
    })?;
    let items = match items {
        Items::Many { feedback } => feedback,
        Items::One(item) => vec![item],
    };
    if items.len() > MOST {
        let detail = format!(
            "feedback: {} items; at most {MOST} are taken at once",
            items.len()
        );
        return Err(Problem::bad_request(detail));
    }
    let mut told = FeedbackBody::default();
    let mut by_stream: HashMap<StreamKey, Vec<(usize, Truth)>> = HashMap::new();
    for (index, item) in items.into_iter().enumerate() {
        match resolve(&site, &item).await? {
            Ok(About::Reading(key, truth)) => {
                by_stream.entry(key).or_default().push((index, truth));
            }
            Ok(About::Stretch(stretch)) => label_all(&site, index, &stretch, &mut told).await?,
            Err(detail) => told.refuse(index, detail),
        }
    }
    for (key, truths) in by_stream {
        give(&site, &key, truths, &mut told).await?;
    }
    Ok(Json(told))
}

/// What an item is about.
enum About {
    Reading(StreamKey, Truth),
    Stretch(Stretch),
}

/// All readings of a device in a stretch of measured time, both ends included, Unix ms.
struct Stretch {
    key: StreamKey,
    from: i64,
    to: i64,
    label: Label,
}

/// Reads an item; or what is wrong with it.
async fn resolve(site: &Site, item: &Item) -> Result<Result<About, String>, Problem> {
    let label = match label(&item.label) {
        Ok(label) => label,
        Err(detail) => return Ok(Err(detail)),
    };
    if let Some(id) = item.sample {
        return by_id(site, id, label).await;
    }
    let key = match stream(site, item, &label) {
        Ok(key) => key,
        Err(detail) => return Ok(Err(detail)),
    };
    let about = match (item.seq, item.failed_at) {
        (Some(seq), None) => {
            let epoch = item.epoch.unwrap_or(0);
            if seq.max(epoch) > MAX_NUMBER {
                return Ok(Err(format!("seq and epoch are at most {MAX_NUMBER}")));
            }
            About::Reading(key, Truth { epoch, seq, label })
        }
        (None, Some(to)) => match item.window_s {
            Some(window) if window > 0.0 && window <= 1e8 => About::Stretch(Stretch {
                key,
                from: to.saturating_sub((window * 1e3) as i64),
                to,
                label,
            }),
            _ => {
                return Ok(Err(
                    "window_s: expected how many seconds before failed_at".into()
                ));
            }
        },
        _ => return Ok(Err("expected sample, seq, or failed_at".into())),
    };
    Ok(Ok(about))
}

async fn by_id(site: &Site, id: u64, label: Label) -> Result<Result<About, String>, Problem> {
    if id == 0 || id > MAX_NUMBER {
        return Ok(Err(format!("sample: {id} is no id")));
    }
    let query = SampleQuery {
        cursor: Some(id - 1),
        until: Some(id),
        limit: 1,
        ..SampleQuery::default()
    };
    let found = site.pipeline.store.samples(&query).await;
    let found = found.map_err(|error| Problem::later(error.to_string(), 2))?;
    let Some(sample) = found.into_iter().next() else {
        return Ok(Err(format!("sample: there is none with the id {id}")));
    };
    let names = (
        EndpointName::new(&sample.endpoint),
        DeviceId::new(&sample.device),
    );
    let (Ok(endpoint), Ok(device)) = names else {
        return Ok(Err(format!("sample: {id} belongs to no stream")));
    };
    let key = StreamKey::live(endpoint, device);
    if let Err(detail) = fits(site, &key.endpoint, &label) {
        return Ok(Err(detail));
    }
    let truth = Truth {
        epoch: sample.epoch,
        seq: sample.seq,
        label,
    };
    Ok(Ok(About::Reading(key, truth)))
}

fn stream(site: &Site, item: &Item, label: &Label) -> Result<StreamKey, String> {
    let (Some(endpoint), Some(device)) = (&item.endpoint, &item.device) else {
        return Err("expected sample, or endpoint and device".into());
    };
    let endpoint = EndpointName::new(endpoint).map_err(|error| error.to_string())?;
    let device = DeviceId::new(device).map_err(|error| error.to_string())?;
    fits(site, &endpoint, label)?;
    Ok(StreamKey::live(endpoint, device))
}

/// Whether a label is of the kind that the endpoint's task asks for.
fn fits(site: &Site, endpoint: &EndpointName, label: &Label) -> Result<(), String> {
    let engine = site.pipeline.engines.load();
    let served = engine.endpoint(endpoint.as_str());
    let served = served.ok_or_else(|| format!("no endpoint {:?}", endpoint.as_str()))?;
    let task = served.manifest.task.as_str();
    outcome::check(task, label)
        .map_err(|expected| format!("label: expected {expected}, for {endpoint} is a {task}"))
}

fn label(value: &serde_json::Value) -> Result<Label, String> {
    match value {
        serde_json::Value::String(text) if text.len() <= MAX_LABEL => Ok(Label::Text(text.clone())),
        serde_json::Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN) as f32;
            let finite = number.is_finite().then_some(Label::Number(number));
            finite.ok_or_else(|| "label: the number does not fit".into())
        }
        _ => Err(format!(
            "label: expected a text of at most {MAX_LABEL} bytes, or a number"
        )),
    }
}

/// Labels every reading of a stretch, at most [`MOST_LABELLED`].
async fn label_all(
    site: &Site,
    index: usize,
    stretch: &Stretch,
    told: &mut FeedbackBody,
) -> Result<(), Problem> {
    let mut query = SampleQuery {
        endpoint: Some(stretch.key.endpoint.to_string()),
        device: Some(stretch.key.device.to_string()),
        from: Some(stretch.from),
        to: Some(stretch.to.saturating_add(1)),
        live_only: true,
        limit: SLICE,
        ..SampleQuery::default()
    };
    let mut labelled = 0;
    loop {
        let samples = site.pipeline.store.samples(&query).await;
        let samples = samples.map_err(|error| Problem::later(error.to_string(), 2))?;
        let truths = samples.iter().map(|sample| Truth {
            epoch: sample.epoch,
            seq: sample.seq,
            label: stretch.label.clone(),
        });
        let truths = truths.map(|truth| (index, truth)).collect();
        give(site, &stretch.key, truths, told).await?;
        labelled += samples.len() as u32;
        let Some(last) = samples.last().filter(|_| samples.len() == SLICE as usize) else {
            break;
        };
        if labelled >= MOST_LABELLED {
            let detail = format!(
                "the first {labelled} readings are labelled: give the rest as shorter windows"
            );
            told.refuse(index, detail);
            break;
        }
        query.cursor = Some(last.id);
    }
    if labelled == 0 {
        told.refuse(
            index,
            format!("{} has no readings in that time", stretch.key),
        );
    }
    Ok(())
}

async fn give(
    site: &Site,
    key: &StreamKey,
    truths: Vec<(usize, Truth)>,
    told: &mut FeedbackBody,
) -> Result<(), Problem> {
    let (places, truths): (Vec<usize>, Vec<Truth>) = truths.into_iter().unzip();
    if truths.is_empty() {
        return Ok(());
    }
    let given = site.pipeline.give_feedback(key, &truths).await;
    let given = given.map_err(|error| problem(&error))?;
    for ((index, truth), given) in places.into_iter().zip(truths).zip(given) {
        match given {
            Given::Stored => {
                metrics::counter!(metric::FEEDBACK, "outcome" => "stored").increment(1);
                told.stored += 1;
            }
            Given::Refused(_, detail) => told.refuse(index, detail),
            Given::Unknown => {
                let seq = truth.seq;
                if site.pipeline.keep_feedback(key, truth) {
                    told.waiting += 1;
                } else {
                    told.refuse(
                        index,
                        format!("{key} has no reading {seq}, and too much feedback waits already"),
                    );
                }
            }
        }
    }
    Ok(())
}

fn problem(error: &FeedbackError) -> Problem {
    Problem::later(format!("{error}: give it again, that is harmless"), 2)
}
