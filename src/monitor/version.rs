//! What Prometheus hears of each version: how much, how fast, how often wrong, and how its scores lie.
//!
//! Labels are `endpoint` and `version` of versions that people have added; past [`MOST_VERSIONS`] all further ones count as `other`.

use crate::telemetry::metric;
use metrics::{Counter, Histogram};
use std::collections::HashMap;
use tidegate_protocol::Output;

/// Most versions with metrics of their own.
pub const MOST_VERSIONS: usize = 256;

/// Metrics of every version that has answered.
#[derive(Default)]
pub struct Versions(HashMap<i64, OfVersion>);

struct OfVersion {
    predictions: Counter,
    anomalies: Counter,
    failed: Counter,
    step: Histogram,
    commit: Histogram,
    score: Histogram,
}

/// An answer of a version.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Row id of the version.
    pub id: i64,
    /// The endpoint.
    pub endpoint: &'a str,
    /// The model.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What it said.
    pub output: &'a Output,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
    /// From arrival to the commit, ms; `None` where that is not known.
    pub commit_ms: Option<i64>,
}

impl Versions {
    /// Counts an answer.
    pub fn take(&mut self, answer: &Answer<'_>) {
        let is_full = self.0.len() >= MOST_VERSIONS;
        let id = if is_full && !self.0.contains_key(&answer.id) {
            0
        } else {
            answer.id
        };
        let of = self.0.entry(id).or_insert_with(|| match id {
            0 => OfVersion::new("other", "other"),
            _ => OfVersion::new(
                answer.endpoint,
                &format!("{}/{}", answer.model, answer.version),
            ),
        });
        of.take(answer);
    }
}

impl OfVersion {
    fn new(endpoint: &str, version: &str) -> Self {
        let labels = [
            ("endpoint", endpoint.to_owned()),
            ("version", version.to_owned()),
        ];
        let stage = |stage: &str| {
            let mut labels = labels.to_vec();
            labels.push(("stage", stage.to_owned()));
            metrics::histogram!(metric::VERSION_SECONDS, &labels)
        };
        Self {
            predictions: metrics::counter!(metric::VERSION_PREDICTIONS, &labels),
            anomalies: metrics::counter!(metric::VERSION_ANOMALIES, &labels),
            failed: metrics::counter!(metric::VERSION_FAILED, &labels),
            step: stage("step"),
            commit: stage("commit"),
            score: metrics::histogram!(metric::VERSION_SCORE, &labels),
        }
    }

    fn take(&self, answer: &Answer<'_>) {
        self.predictions.increment(1);
        self.step.record(f64::from(answer.latency_us) / 1e6);
        if let Some(ms) = answer.commit_ms {
            self.commit.record(ms.max(0) as f64 / 1e3);
        }
        match answer.output {
            Output::Failed(_) => self.failed.increment(1),
            Output::Anomaly {
                score,
                threshold,
                anomaly,
            } => {
                self.anomalies.increment(u64::from(*anomaly));
                if *threshold > 0.0 {
                    self.score.record(f64::from(score / threshold));
                }
            }
            Output::Classification { probabilities, .. } => {
                let best = probabilities.iter().map(|(_, p)| *p).fold(0.0, f32::max);
                self.score.record(f64::from(best));
            }
            _ => {}
        }
    }
}
