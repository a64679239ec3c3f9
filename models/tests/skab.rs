//! `mewma` on real pump data: the `valve1` files of the Skoltech Anomaly Benchmark, scored as its leaderboard does.
//!
//! The files are not part of the repository. `TIDEGATE_SKAB_DIR` names their folder (default `../shared/data/skab` beside the
//! workspace); where it is missing the test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tidegate_models::{Output, Version, Zoo};

#[derive(Default)]
struct Score {
    hits: f64,
    false_alarms: f64,
    missed: f64,
    quiet: f64,
}

impl Score {
    fn add(&mut self, alarm: bool, truth: bool) {
        match (alarm, truth) {
            (true, true) => self.hits += 1.0,
            (true, false) => self.false_alarms += 1.0,
            (false, true) => self.missed += 1.0,
            (false, false) => self.quiet += 1.0,
        }
    }

    fn f1(&self) -> f64 {
        2.0 * self.hits / (2.0 * self.hits + self.false_alarms + self.missed)
    }

    fn false_alarm_rate(&self) -> f64 {
        self.false_alarms / (self.false_alarms + self.quiet)
    }

    fn missed_alarm_rate(&self) -> f64 {
        self.missed / (self.missed + self.hits)
    }
}

fn skab_dir() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/skab");
    let dir = std::env::var_os("TIDEGATE_SKAB_DIR").map_or(default, PathBuf::from);
    if !dir.is_dir() {
        println!(
            "skipped: no SKAB files at {} (set TIDEGATE_SKAB_DIR)",
            dir.display()
        );
        return None;
    }
    Some(dir)
}

/// Eight values and the label of each row, 0 where the file has none.
fn rows(path: &Path) -> Vec<(Vec<f32>, bool)> {
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let cells: Vec<f32> = line
            .split(';')
            .skip(1)
            .map(|cell| cell.parse().unwrap())
            .collect();
        (
            cells[..8].to_vec(),
            cells.get(8).is_some_and(|label| *label > 0.5),
        )
    };
    text.lines().skip(1).map(row).collect()
}

/// Whether each row raised an alarm; the file is a fresh stream.
fn alarms(version: &Version, rows: &[(Vec<f32>, bool)]) -> Vec<bool> {
    let mut state = version.new_state();
    let alarm = |(values, _): &(Vec<f32>, bool)| {
        let output = version.step(&mut state, values, 1.0);
        assert!(output.is_finite());
        matches!(output, Output::Anomaly { anomaly: true, .. })
    };
    rows.iter().map(alarm).collect()
}

#[test]
fn mewma_finds_the_closing_valve_without_labels() {
    let Some(dir) = skab_dir() else { return };
    let zoo = Zoo::embedded().unwrap();
    let version = &zoo.endpoints["pump-health"].versions["mewma/1.0.0"];
    let mut total = Score::default();
    for file in 0..8 {
        let rows = rows(&dir.join(format!("valve1-{file}.csv")));
        let alarms = alarms(version, &rows);
        assert!(
            alarms[..400].iter().all(|alarm| !alarm),
            "no alarm while calibrating"
        );
        for (alarm, (_, truth)) in alarms.iter().zip(&rows).skip(400) {
            total.add(*alarm, *truth);
        }
    }
    let (f1, far, mar) = (
        total.f1(),
        total.false_alarm_rate(),
        total.missed_alarm_rate(),
    );
    println!("mewma on valve1: F1 {f1:.3}, false alarms {far:.3}, missed {mar:.3}");
    assert!(f1 >= 0.80, "F1 is {f1:.3}");
    assert!(far <= 0.30, "the false-alarm rate is {far:.3}");
}

/// Printed, never asserted: the long run has real changes of regime which nobody labelled.
#[test]
fn the_share_of_alarms_on_the_long_run_is_printed() {
    let Some(dir) = skab_dir() else { return };
    let zoo = Zoo::embedded().unwrap();
    let version = &zoo.endpoints["pump-health"].versions["mewma/1.0.0"];
    let rows = rows(&dir.join("anomaly-free.csv"));
    let start = Instant::now();
    let alarms = alarms(version, &rows);
    let each = start.elapsed().as_nanos() / rows.len() as u128;
    let share =
        alarms[400..].iter().filter(|alarm| **alarm).count() as f64 / (rows.len() - 400) as f64;
    println!(
        "mewma on anomaly-free: alarms on {:.1}% of the readings, {each} ns a step",
        share * 100.0
    );
}
