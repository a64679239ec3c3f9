//! Stages do what their names say over any stream, learn in the calibration alone, and mistakes in them are named.

use proptest::prelude::*;

use super::{Moment, Pipeline, Rows, Stage};
use crate::Feature;

pub(crate) fn features(count: usize) -> Vec<Feature> {
    (0..count)
        .map(|k| Feature {
            name: format!("f{k}"),
            unit: String::new(),
            range: None,
            hard_range: None,
        })
        .collect()
}

/// `[[preprocessing]]` tables without that line, separated by `--`.
fn stages(text: &str) -> Vec<Stage> {
    text.split("--")
        .map(|table| {
            let mut table: toml::Table = table.parse().expect("the test's TOML is well formed");
            let kind = table.remove("kind").expect("a stage has a kind");
            Stage::parse(kind.as_str().expect("a word"), table, "preprocessing[0]")
                .expect("the stage has no mistake")
        })
        .collect()
}

struct Stream {
    pipeline: Pipeline,
    state: Vec<f32>,
    seen: u32,
    calibration: u32,
    base: Vec<f32>,
}

impl Stream {
    fn new(count: usize, calibration: u32, text: &str) -> Self {
        let pipeline = Pipeline::new(&stages(text), &features(count)).unwrap();
        let mut state = vec![9.0; pipeline.state_len()];
        pipeline.init(&mut state);
        let base = vec![0.0; pipeline.base()];
        Self {
            pipeline,
            state,
            seen: 0,
            calibration,
            base,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            seen: self.seen,
            learning: self.seen < self.calibration,
        }
    }

    fn take(&mut self, values: &[f32]) -> Vec<f32> {
        let learning = self.seen < self.calibration;
        self.seen += u32::from(learning);
        let now = Moment {
            seen: self.seen,
            learning,
        };
        let mut row = vec![f32::NAN; self.pipeline.width()];
        // What lies in scratch before must not matter.
        let mut scratch = vec![f32::NAN; self.pipeline.scratch_len()];
        let rows = Rows {
            base: &mut self.base,
            row: &mut row,
        };
        self.pipeline
            .run(&mut self.state, values, now, rows, &mut scratch);
        row
    }
}

fn mistake(count: usize, text: &str) -> String {
    let refused = Pipeline::new(&stages(text), &features(count));
    refused.err().expect("it is refused").to_string()
}

#[test]
fn missing_values_are_held_filled_refused_or_kept() {
    let gone = f32::NAN;
    let mut held = Stream::new(
        2,
        0,
        "kind = \"missing\"\npolicy = \"hold\"\nvalues = [7.0, 8.0]",
    );
    assert_eq!(held.take(&[gone, 1.0]), [7.0, 1.0]);
    assert_eq!(held.take(&[2.0, f32::INFINITY]), [2.0, 1.0]);
    held.pipeline.forget(&mut held.state);
    assert_eq!(held.take(&[gone, gone]), [2.0, 1.0]);
    let mut silent = Stream::new(1, 0, "kind = \"clip\"\nlow = -5.0\nhigh = 5.0");
    assert_eq!(silent.take(&[gone]), [0.0]);
    assert_eq!(silent.take(&[9.0]), [5.0]);
    assert_eq!(silent.take(&[gone]), [5.0]);
    let mut mean = Stream::new(
        2,
        0,
        "kind = \"missing\"\npolicy = \"mean\"\nvalues = [7.0, 8.0]",
    );
    assert_eq!(mean.take(&[1.0, gone]), [1.0, 8.0]);
    assert_eq!(mean.take(&[gone, 2.0]), [7.0, 2.0]);
    let refuse = Stream::new(2, 0, "kind = \"missing\"\npolicy = \"refuse\"");
    assert_eq!(refuse.pipeline.refuses(&[1.0, gone]), Some(1));
    assert_eq!(refuse.pipeline.refuses(&[1.0, 2.0]), None);
    let mut keep = Stream::new(2, 0, "kind = \"missing\"\npolicy = \"keep\"");
    let row = keep.take(&[f32::NEG_INFINITY, 2.0]);
    assert_eq!((row[0].to_bits(), row[1]), (f32::NAN.to_bits(), 2.0));
}

#[test]
fn calibrated_mean_and_scale_are_the_stream_s_own_and_stay() {
    let calibrated = "kind = \"standardise\"\ncalibrated = true";
    let mut stream = Stream::new(2, 100, calibrated);
    let value = |t: usize| {
        [
            20.0 + (t as f32 * 0.7).sin(),
            -1000.0 + 3.0 * (t as f32 * 1.3).cos(),
        ]
    };
    (0..100).for_each(|t| {
        stream.take(&value(t));
    });
    let over = |k: usize| (0..100).map(move |t| f64::from(value(t)[k]));
    for k in 0..2 {
        let mean = over(k).sum::<f64>() / 100.0;
        let scale = (over(k).map(|x| (x - mean).powi(2)).sum::<f64>() / 100.0).sqrt();
        let level = stream.pipeline.restore(&stream.state, k, 0.0, stream.now());
        assert!(
            (f64::from(level) - mean).abs() < 1e-4 * mean.abs(),
            "{level} {mean}"
        );
        let one = stream.pipeline.restore(&stream.state, k, 1.0, stream.now());
        assert!(
            (f64::from(one - level) - scale).abs() < 1e-3,
            "{one} {level} {scale}"
        );
    }
    let learned = stream.state.clone();
    let row = stream.take(&[25.0, -990.0]);
    assert!(
        row[0] > 5.0,
        "a fault behind the calibration shows: {row:?}"
    );
    (0..5_000).for_each(|_| {
        stream.take(&[25.0, -990.0]);
    });
    let behind_the_held_values = 2;
    assert_eq!(
        stream.state[behind_the_held_values..],
        learned[behind_the_held_values..],
        "and teaches nothing"
    );
    stream.pipeline.forget(&mut stream.state);
    assert_eq!(
        stream.state[behind_the_held_values..],
        learned[behind_the_held_values..]
    );
}

#[test]
fn a_spike_in_the_calibration_does_not_blind_the_stream() {
    let mut stream = Stream::new(1, 200, "kind = \"standardise\"\ncalibrated = true");
    for t in 0..200 {
        stream.take(&[if t == 100 {
            1e6
        } else {
            (t as f32 * 0.7).sin()
        }]);
    }
    assert!(stream.take(&[5.0])[0] > 3.0);
}

#[test]
fn a_feature_hardly_ever_there_is_silent() {
    let mut stream = Stream::new(2, 100, "kind = \"standardise\"\ncalibrated = true");
    for t in 0..100 {
        let rare = if t % 4 == 0 { t as f32 } else { f32::NAN };
        let row = stream.take(&[rare, t as f32]);
        assert!(row.iter().all(|z| z.is_finite()));
    }
    let row = stream.take(&[1e6, 1e6]);
    assert_eq!(row[0], 0.0);
    assert!(row[1] > 100.0);
}

#[test]
fn fixed_numbers_keep_the_digits_of_a_large_level() {
    let text = "kind = \"standardise\"\nmean = [100000.0]\nscale = [0.25]";
    let mut stream = Stream::new(1, 0, text);
    assert_eq!(stream.take(&[100_000.5]), [2.0]);
    assert_eq!(
        stream.pipeline.restore(&stream.state, 0, 2.0, stream.now()),
        100_000.5
    );
}

#[test]
fn a_target_is_restored_through_selection_scale_and_bounds() {
    let text = "kind = \"select\"\nfeatures = [\"f2\", \"f0\"]\n--\nkind = \"standardise\"\nmean = [10.0, 20.0]\n\
                scale = [2.0, 4.0]\n--\nkind = \"clip\"\nlow = -9.0\nhigh = 9.0\n--\nkind = \"window\"\nlength = 3";
    let mut stream = Stream::new(3, 0, text);
    assert_eq!((stream.pipeline.base(), stream.pipeline.width()), (2, 6));
    assert_eq!(stream.pipeline.column_of(2), Some(0));
    assert_eq!(stream.pipeline.column_of(1), None);
    stream.take(&[28.0, 0.0, 16.0]);
    assert_eq!(stream.base, [3.0, 2.0]);
    assert_eq!(
        stream.pipeline.restore(&stream.state, 0, 3.0, stream.now()),
        16.0
    );
    assert!(stream.pipeline.restores());
    let change = Stream::new(1, 0, "kind = \"difference\"");
    assert!(!change.pipeline.restores());
}

/// Row `t` as a plain list has it; before the first one, the first one.
fn back(rows: &[Vec<f32>], t: usize, age: usize, since: usize) -> &[f32] {
    &rows[t.saturating_sub(age).max(since)]
}

fn rolled(rows: &[Vec<f32>], k: usize) -> [f64; 4] {
    let values: Vec<_> = rows.iter().map(|row| f64::from(row[k])).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let std = (squares / values.len() as f64).sqrt();
    let min = values.iter().copied().fold(f64::MAX, f64::min);
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    [mean, std, min, max]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn stages_that_look_back_agree_with_a_plain_list_and_start_anew_after_a_silence(
        rows in proptest::collection::vec(proptest::collection::vec(-1e3_f32..1e3, 3), 2..60),
        lag in 1..7_usize,
        length in 1..9_usize,
        silence in 0..60_usize,
    ) {
        let mut change = Stream::new(3, 0, &format!("kind = \"difference\"\nlag = {lag}\nkeep = true"));
        let mut lags = Stream::new(3, 0, &format!("kind = \"lags\"\nlags = [{lag}, {}]", lag + 3));
        let mut window = Stream::new(3, 0, &format!("kind = \"window\"\nlength = {length}"));
        let every = "[\"mean\", \"std\", \"min\", \"max\"]";
        let mut rolling = Stream::new(3, 0, &format!("kind = \"rolling\"\nwindow = {length}\nof = {every}"));
        let mut since = 0;
        for (t, row) in rows.iter().enumerate() {
            if t == silence {
                since = t;
                for stream in [&mut change, &mut lags, &mut window, &mut rolling] {
                    stream.pipeline.forget(&mut stream.state);
                }
            }
            let changed: Vec<_> = row.iter().zip(back(&rows, t, lag, since)).map(|(x, y)| x - y).collect();
            prop_assert_eq!(change.take(row), [row.clone(), changed].concat());
            let earlier = [row, back(&rows, t, lag, since), back(&rows, t, lag + 3, since)].concat();
            prop_assert_eq!(lags.take(row), earlier);
            let last: Vec<_> = (0..length).rev().flat_map(|age| back(&rows, t, age, since).to_vec()).collect();
            prop_assert_eq!(window.take(row), last);
            let got = rolling.take(row);
            let first = since.max((t + 1).saturating_sub(length));
            for k in 0..3 {
                for (of, exact) in rolled(&rows[first..=t], k).into_iter().enumerate() {
                    prop_assert!((f64::from(got[3 * of + k]) - exact).abs() <= 1e-3, "{} {exact}", got[3 * of + k]);
                }
            }
        }
    }

    #[test]
    fn any_finite_or_missing_values_leave_a_finite_state(
        rows in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![any::<f32>(), -10.0_f32..10.0], 2), 1..80),
    ) {
        let text = "kind = \"standardise\"\ncalibrated = true\n--\nkind = \"clip\"\nlow = -8.0\nhigh = 8.0\n--\n\
                    kind = \"difference\"\nkeep = true\n--\nkind = \"rolling\"\nwindow = 4\nof = [\"std\"]\nkeep = true";
        let mut stream = Stream::new(2, 40, text);
        for row in &rows {
            let made = stream.take(row);
            prop_assert!(made.iter().all(|x| x.is_finite()), "{row:?} {made:?}");
            prop_assert!(stream.state.iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn the_buffers_named_are_the_state_and_what_stages_look_back_adds_up() {
    let text = "kind = \"missing\"\npolicy = \"hold\"\n--\nkind = \"standardise\"\ncalibrated = true\n--\n\
                kind = \"difference\"\nlag = 2\n--\nkind = \"lags\"\nlags = [1, 4]";
    let pipeline = Pipeline::new(&stages(text), &features(2)).unwrap();
    let buffers = pipeline.buffers();
    let names: Vec<_> = buffers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "missing.last",
            "1.standardise.seen",
            "1.standardise.origin",
            "1.standardise.mean",
            "1.standardise.squares",
            "2.difference.rows",
            "3.lags.rows"
        ]
    );
    assert_eq!(
        buffers.iter().map(|(_, len)| len).sum::<usize>(),
        pipeline.state_len()
    );
    assert_eq!((pipeline.looks_back(), pipeline.width()), (6, 6));
}

#[test]
fn stages_that_do_not_fit_the_features_are_named() {
    let fixed = "kind = \"standardise\"\nmean = [1.0, 2.0]\nscale = [1.0, 1.0]";
    assert_eq!(
        mistake(3, fixed),
        "preprocessing[0].mean: expected 3 values, one a column of the row, got 2"
    );
    let late = "kind = \"clip\"\nlow = 0.0\nhigh = 1.0\n--\nkind = \"missing\"\npolicy = \"hold\"";
    assert_eq!(
        mistake(1, late),
        "preprocessing[1].kind: \"missing\" is the first stage or none"
    );
    let unknown = "kind = \"select\"\nfeatures = [\"f0\", \"speed\"]";
    assert_eq!(
        mistake(1, unknown),
        "preprocessing[0].features[1]: \"speed\" is not in the row here"
    );
    let wide = "kind = \"window\"\nlength = 4\n--\nkind = \"standardise\"\ncalibrated = true";
    assert!(
        mistake(1, wide)
            .starts_with("preprocessing[1].kind: \"standardise, calibrated\" stands before")
    );
    let endless = "kind = \"window\"\nlength = 1024\n--\nkind = \"window\"\nlength = 1024";
    assert_eq!(
        mistake(1, endless),
        "preprocessing[1]: makes rows of 1048576 values, more than 8192"
    );
    let no_values = "kind = \"missing\"\npolicy = \"mean\"";
    assert!(mistake(1, no_values).starts_with("preprocessing[0].values: is missing"));
}
