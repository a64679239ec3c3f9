use super::super::report::Counts;
use super::*;
use crate::store::history::LoggedVersion;
use crate::stream::{StreamKey, StreamRef};
use tidegate_models::candle_core;
use tidegate_models::rig::Rig;
use tidegate_models::{Layout, Model, Output as Answer, Version, Zoo};
use tidegate_protocol::EndpointName;

const ENDPOINT: &str = "pump-health";
/// Row id of the version under test.
const VERSION: i64 = 7;
const HASH: [u8; 32] = [7; 32];
/// A pressure at which the version breaks.
const BREAKS: f32 = 99.0;
const PRESSURE: usize = 3;

/// The zoo's chart, which breaks at one pressure.
struct Brittle(Arc<dyn Model>);

impl Model for Brittle {
    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn init(&self, state: &mut [f32]) {
        self.0.init(state);
    }

    fn forget(&self, state: &mut [f32]) {
        self.0.forget(state);
    }

    fn step(&self, state: &mut [f32], values: &[f32]) -> Answer {
        match self.0.step(state, values) {
            Answer::Calibrating { .. } if values[PRESSURE] == BREAKS => Answer::Anomaly {
                score: f32::NAN,
                threshold: 1.0,
                anomaly: false,
            },
            answer => answer,
        }
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Answer> {
        self.0.reference(state, values)
    }
}

fn versions() -> Versions {
    let mut zoo = Zoo::embedded().unwrap();
    let endpoint = zoo.endpoints.get_mut(ENDPOINT).unwrap();
    let chart = Arc::clone(&endpoint.versions["mewma/1.0.0"]);
    let mut manifest = chart.manifest.clone();
    manifest.name = "brittle".into();
    let model = Arc::new(Brittle(Arc::clone(&chart.model)));
    let version = Version::new(ENDPOINT.into(), manifest, HASH, model);
    endpoint
        .versions
        .insert("brittle/1.0.0".into(), Arc::new(version));
    let recorded = LoggedVersion {
        id: VERSION,
        endpoint: ENDPOINT.into(),
        model: "brittle".into(),
        version: "1.0.0".into(),
        hash: HASH.into(),
    };
    Versions::of(&zoo, &EndpointName::new(ENDPOINT).unwrap(), &[recorded])
}

/// A stream's log, recorded by the fold that the server uses.
struct Recording {
    fold: Fold,
    rig: Rig,
    rows: Vec<LogRow>,
}

impl Recording {
    fn new(versions: &Versions) -> Self {
        let fold = Fold::new(Arc::clone(versions.recorded(VERSION).unwrap()));
        let mut recording = Self {
            fold,
            rig: Rig::new(5),
            rows: Vec::new(),
        };
        recording.push(Logged::Turn(Turned::Switch(VERSION)), true);
        recording
    }

    fn push(&mut self, what: Logged, with_snapshot: bool) {
        let pos = self.rows.len() as u64 + 1;
        let served = self.fold.served();
        let snapshot = with_snapshot.then(|| StoredSnapshot {
            place: Place {
                pos,
                sample_id: pos,
            },
            version_id: VERSION,
            layout: served.layout.to_string(),
            numerics_rev: served.version.numerics_rev(),
            last_ts: self.fold.last_ts(),
            state: self.fold.state().to_vec(),
        });
        self.rows.push(LogRow {
            pos,
            what,
            snapshot,
        });
    }

    /// Takes the rig's next reading as `change` leaves it.
    fn take(&mut self, change: impl FnOnce(&mut Vec<f32>), with_snapshot: bool) {
        let mut values = self.rig.next_reading().0.to_vec();
        change(&mut values);
        let pos = self.rows.len() as u64 + 1;
        let ts = 1_000 * pos.cast_signed();
        let mut output = Vec::new();
        encode_output(&self.fold.step(&values, ts), &mut output);
        let sample = LoggedSample {
            id: pos,
            stream_id: 1,
            pos,
            epoch: 0,
            seq: pos,
            ts,
            received_at: ts,
            values,
            output,
            version_id: VERSION,
            arm: None,
            latency_us: 1,
            flags: Flags::default(),
            numerics_rev: 1,
        };
        self.push(Logged::Sample(Box::new(sample)), with_snapshot);
    }

    fn sample(&mut self, at: usize) -> &mut LoggedSample {
        match &mut self.rows[at].what {
            Logged::Sample(sample) => sample,
            other => panic!("{other:?}"),
        }
    }

    fn replay(self, versions: &Versions) -> StreamVerified {
        let key = StreamKey::live(ENDPOINT.parse().unwrap(), "rig-1".parse().unwrap());
        let stream = LoggedStream {
            stream: StreamRef { id: 1, key },
            pos: self.rows.len() as u64,
            samples: self.rows.len() as u64,
        };
        let options = Options {
            listed: 10,
            ..Options::default()
        };
        let mut walk = Walk::new(versions, options, &stream);
        self.rows.into_iter().for_each(|row| walk.row(row));
        walk.report
    }
}

/// Twenty readings, a snapshot behind every fifth; the eighth breaks the version.
fn recorded(versions: &Versions) -> Recording {
    let mut recording = Recording::new(versions);
    for number in 1..=20 {
        let breaks = |values: &mut Vec<f32>| {
            if number == 8 {
                values[PRESSURE] = BREAKS;
            }
        };
        recording.take(breaks, number % 5 == 0);
    }
    recording
}

fn whole() -> Counts {
    Counts {
        readings: 20,
        equal: 20,
        snapshots_equal: 5,
        ..Counts::default()
    }
}

#[test]
fn a_step_that_failed_fails_again_and_leaves_the_state_as_it_was() {
    let versions = versions();
    let mut recording = recorded(&versions);
    let failed = recording.sample(8).output.clone();
    assert!(matches!(decode_output(&failed), Ok(Output::Failed(_))));
    assert_eq!(recording.replay(&versions).counts, whole());
}

#[test]
fn a_step_that_failed_once_only_is_a_difference_and_is_not_folded() {
    let versions = versions();
    let mut recording = recorded(&versions);
    // It broke then, for a reason that is gone: the same values do not break it now.
    recording.sample(8).values[PRESSURE] = 0.05;
    let report = recording.replay(&versions);
    let expected = Counts {
        equal: 19,
        different: 1,
        ..whole()
    };
    assert_eq!(report.counts, expected);
    let difference = &report.differences[0];
    assert_eq!((difference.what, difference.pos), ("output", 9));
    assert!(difference.recorded.contains("failed"), "{difference:?}");
}

#[test]
fn a_damaged_output_or_width_is_named_and_a_version_that_nobody_recorded_cannot_be_run() {
    let versions = versions();
    let mut recording = recorded(&versions);
    recording.sample(17).output = vec![250];
    recording.sample(18).version_id = 8;
    recording.sample(20).values.pop();
    let report = recording.replay(&versions);
    assert_eq!((report.counts.equal, report.counts.different), (17, 2));
    assert_eq!(report.counts.not_reproducible, 1);
    assert_eq!(report.unknown, [(Unknown::NotRecorded(8), 1)].into());
    let named: Vec<_> = report
        .differences
        .iter()
        .map(|d| (d.what, d.recorded.as_str()))
        .collect();
    let expected = [("output", "no output: 1 byte"), ("values", "7 values")];
    assert_eq!(named[..2], expected);
}

#[test]
fn arithmetic_of_another_revision_is_not_run_and_the_next_snapshot_of_ours_is_gone_on_with() {
    let versions = versions();
    let mut recording = recorded(&versions);
    for at in 6..=10 {
        recording.sample(at).numerics_rev = 2;
    }
    let report = recording.replay(&versions);
    assert_eq!(report.counts.not_reproducible, 5);
    assert_eq!(report.unknown, [(Unknown::Numerics(2), 5)].into());
    assert_eq!((report.counts.equal, report.counts.different), (15, 0));
}

#[test]
fn a_damaged_snapshot_changes_nothing_behind_it_and_damaged_readings_nothing_behind_two_snapshots()
{
    let versions = versions();
    let mut recording = recorded(&versions);
    recording.rows[10]
        .snapshot
        .as_mut()
        .unwrap()
        .state
        .fill(0.5);
    let report = recording.replay(&versions);
    let expected = Counts {
        snapshots_equal: 4,
        snapshots_different: 1,
        ..whole()
    };
    assert_eq!(report.counts, expected);

    // While it calibrates, no answer shows a changed reading; the snapshots do: the first differs, the second follows from it.
    let mut recording = recorded(&versions);
    recording.sample(7).values[0] += 1.0;
    let report = recording.replay(&versions);
    assert_eq!(report.counts, expected);
    assert_eq!(report.differences[0].pos, 11);
}

#[test]
fn a_switch_without_its_state_is_not_guessed_at() {
    let versions = versions();
    let mut recording = Recording::new(&versions);
    recording.take(|_| {}, false);
    recording.push(Logged::Turn(Turned::Switch(VERSION)), false);
    recording.take(|_| {}, false);
    let report = recording.replay(&versions);
    assert_eq!(report.unknown, [(Unknown::NoState, 1)].into());
}
