//! What subscribers of an experiment hear: its state and its verdicts, when they change, and every now and then.

use super::definition::Definition;
use super::watch::Results;
use crate::push::Hub;
use tidegate_protocol::live::{ArmVerdict, ExperimentEvent};

/// Between two events that say the same, ms.
const AGAIN_MS: i64 = 10_000;

/// What was told last.
#[derive(Debug, Default)]
pub struct Told(Option<ExperimentEvent>);

impl Told {
    /// Tells what has changed.
    pub fn tell(&mut self, hub: &Hub, definition: &Definition, state: &str, results: &Results) {
        let verdicts = results.report.comparisons.iter().map(|one| ArmVerdict {
            arm: one.name.clone(),
            verdict: one.verdict.to_string(),
            words: one.words.clone(),
        });
        let event = ExperimentEvent {
            experiment: definition.name.clone(),
            endpoint: definition.endpoint.clone(),
            state: state.to_owned(),
            verdicts: verdicts.collect(),
            at: results.at,
        };
        if self.0.as_ref().is_none_or(|told| is_news(told, &event)) {
            hub.experiment(event.clone());
            self.0 = Some(event);
        }
    }
}

fn is_news(told: &ExperimentEvent, event: &ExperimentEvent) -> bool {
    fn verdicts(event: &ExperimentEvent) -> impl Iterator<Item = &str> {
        event.verdicts.iter().map(|one| one.verdict.as_str())
    }
    told.state != event.state
        || !verdicts(told).eq(verdicts(event))
        || event.at - told.at >= AGAIN_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_told_every_ten_seconds() {
        let event = |state: &str, verdict: &str, at: i64| ExperimentEvent {
            experiment: "one".into(),
            endpoint: "pump-health".into(),
            state: state.into(),
            verdicts: vec![ArmVerdict {
                arm: "challenger".into(),
                verdict: verdict.into(),
                words: at.to_string(),
            }],
            at,
        };
        let told = event("running", "collecting", 0);
        assert!(!is_news(&told, &event("running", "collecting", 9_999)));
        assert!(is_news(&told, &event("running", "collecting", 10_000)));
        assert!(is_news(&told, &event("running", "better", 1)));
        assert!(is_news(&told, &event("stopped", "collecting", 1)));
    }
}
