//! The columns of an export and what stands in them: the reading, its features by name, the answer laid flat and as JSON, who gave it.

use super::json_of;
use crate::store::history::{LoggedSample, LoggedVersion};
use crate::stream::StreamKey;
use std::borrow::Cow;
use tidegate_protocol::Output;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Int,
    /// Unix ms.
    Time,
    /// A 32-bit float.
    Float,
    /// Yes or no.
    Bool,
    /// Text.
    Text,
    /// JSON as text.
    Json,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// What stands in one place.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    None,
    /// An integer or a time.
    Int(i64),
    /// A float.
    Float(f32),
    /// Yes or no.
    Bool(bool),
    /// Text or JSON.
    Text(Cow<'a, str>),
}

/// Before the features.
const FIRST: [(&str, Kind); 7] = [
    ("id", Kind::Int),
    ("endpoint", Kind::Text),
    ("device", Kind::Text),
    ("epoch", Kind::Int),
    ("seq", Kind::Int),
    ("ts", Kind::Time),
    ("received_at", Kind::Time),
];

/// Behind the features.
const LAST: [(&str, Kind); 15] = [
    ("score", Kind::Float),
    ("threshold", Kind::Float),
    ("anomaly", Kind::Bool),
    ("label", Kind::Text),
    ("value", Kind::Float),
    ("calibrating_seen", Kind::Int),
    ("calibrating_needed", Kind::Int),
    ("failed", Kind::Text),
    ("skipped", Kind::Text),
    ("output", Kind::Json),
    ("model", Kind::Text),
    ("version", Kind::Text),
    ("arm", Kind::Text),
    ("latency_us", Kind::Int),
    ("flags", Kind::Text),
];

/// The columns for an endpoint with these features, in order. A feature that has the name of another column is called `feature_NAME`.
pub fn columns(features: &[String]) -> Vec<Column> {
    let column = |name: &str, kind| Column {
        name: name.to_owned(),
        kind,
    };
    let own = |(name, kind): &(&str, Kind)| column(name, *kind);
    let is_taken = |name: &str| FIRST.iter().chain(&LAST).any(|(own, _)| *own == name);
    let feature = |name: &String| {
        let name = if is_taken(name) {
            format!("feature_{name}")
        } else {
            name.clone()
        };
        column(&name, Kind::Float)
    };
    let first = FIRST.iter().map(own);
    first
        .chain(features.iter().map(feature))
        .chain(LAST.iter().map(own))
        .collect()
}

/// A sample's row; `output` is `None` where the stored bytes are none.
pub fn fill<'a>(
    sample: &'a LoggedSample,
    key: &'a StreamKey,
    version: &'a LoggedVersion,
    output: Option<&'a Output>,
) -> Vec<Cell<'a>> {
    let mut row = Vec::with_capacity(FIRST.len() + sample.values.len() + LAST.len());
    row.extend([
        int(sample.id),
        text(key.endpoint.as_str()),
        text(key.device.as_str()),
        int(sample.epoch),
        int(sample.seq),
        Cell::Int(sample.ts),
        Cell::Int(sample.received_at),
    ]);
    // The one NaN that is stored stands for a missing value.
    row.extend(sample.values.iter().map(|value| match value.is_nan() {
        true => Cell::None,
        false => Cell::Float(*value),
    }));
    row.extend(answer(output));
    row.extend([
        output.map_or(Cell::None, |output| Cell::Text(json_of(output).into())),
        text(&version.model),
        text(&version.version),
        sample.arm.as_deref().map_or(Cell::None, text),
        Cell::Int(sample.latency_us.into()),
        Cell::Text(sample.flags.names().join("|").into()),
    ]);
    row
}

/// The answer laid flat: the columns from `score` to `skipped`.
fn answer(output: Option<&Output>) -> [Cell<'_>; 9] {
    let mut cells = [const { Cell::None }; 9];
    let [
        score,
        threshold,
        anomaly,
        label,
        value,
        seen,
        needed,
        failed,
        skipped,
    ] = &mut cells;
    match output {
        None => {}
        Some(Output::Calibrating {
            seen: taken,
            needed: all,
        }) => {
            *seen = Cell::Int((*taken).into());
            *needed = Cell::Int((*all).into());
        }
        Some(Output::Anomaly {
            score: distance,
            threshold: limit,
            anomaly: called,
        }) => {
            *score = Cell::Float(*distance);
            *threshold = Cell::Float(*limit);
            *anomaly = Cell::Bool(*called);
        }
        Some(Output::Classification { label: class, .. }) => *label = text(class),
        Some(Output::Regression { values }) => {
            *value = values.first().map_or(Cell::None, |(_, v)| Cell::Float(*v));
        }
        Some(Output::Forecast { values, .. }) => {
            *value = values.first().map_or(Cell::None, |v| Cell::Float(*v));
        }
        Some(Output::Failed(reason)) => *failed = text(reason),
        Some(Output::Skipped(reason)) => *skipped = text(reason),
    }
    cells
}

fn text(text: &str) -> Cell<'_> {
    Cell::Text(text.into())
}

fn int(number: u64) -> Cell<'static> {
    Cell::Int(number.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let features = ["flow", "score", "id"].map(str::to_owned);
        let mut names: Vec<String> = columns(&features).into_iter().map(|c| c.name).collect();
        for name in ["flow", "feature_score", "feature_id", "score", "id"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn an_answer_is_laid_flat_by_its_kind() {
        let anomaly = Output::Anomaly {
            score: 1.5,
            threshold: 1.0,
            anomaly: true,
        };
        let cells = answer(Some(&anomaly));
        assert_eq!(
            cells[..3],
            [Cell::Float(1.5), Cell::Float(1.0), Cell::Bool(true)]
        );
        assert!(cells[3..].iter().all(|cell| *cell == Cell::None));
        let late = Output::Skipped("late".into());
        assert_eq!(answer(Some(&late))[8], text("late"));
        assert!(answer(None).iter().all(|cell| *cell == Cell::None));
    }
}
