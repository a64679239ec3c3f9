//! Which experiment a device takes part in, and in which arm: what the road asks when a stream opens or is looked at.
//!
//! Owns the list of running experiments, replaced as a whole at every change; whoever looks takes a copy of an `Arc`. Promises that the same
//! device gets the same arm for as long as the split stays, without a look-up, and that a device is in one experiment of an endpoint at most: the
//! one that began first where independent ones both want it. Loads nothing: whether an arm's version can serve is the caller's to see.

use super::definition::{Definition, Kind};
use crate::store::ExperimentRow;
use crate::stream::{ArmRef, now_ms};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use tidegate_experiments::assignment::{Split, bucket};
use tidegate_experiments::bandit::Bandit;
use tokio::sync::watch;

/// An experiment that devices may be in.
#[derive(Debug)]
pub struct Live {
    /// Row id.
    pub id: i64,
    /// As declared.
    pub definition: Arc<Definition>,
    /// The buckets of its arms now.
    pub split: Split,
    /// Of the layer, where it has one.
    slice: Option<Range<u16>>,
    /// Whether devices come in; else it keeps those it has.
    enrols: bool,
    labels: Vec<Arc<str>>,
    /// What it has learned, if it learns.
    bandit: Option<Arc<Bandit>>,
}

/// A device's place.
#[derive(Debug, Clone)]
pub struct Placement {
    /// `model/version` of its arm.
    pub version: String,
    /// Which arm.
    pub arm: Arc<ArmRef>,
}

impl Live {
    /// From its row, and what it has learned so far; `None` when its declaration makes no split.
    pub fn new(
        row: &ExperimentRow,
        definition: &Arc<Definition>,
        learned: Option<&Arc<Bandit>>,
    ) -> Option<Self> {
        let arms = 0..definition.arms.len();
        let bandit = match (definition.kind, learned) {
            (Kind::Bandit, Some(learned)) => Some(Arc::clone(learned)),
            (Kind::Bandit, None) => Some(Arc::new(definition.bandit().ok()?)),
            _ => None,
        };
        Some(Self {
            bandit,
            id: row.id,
            split: definition.split(row.step).ok()?,
            slice: match definition.independent {
                true => None,
                false => Some(definition.slice_of().ok()?),
            },
            enrols: row.state == super::state::RUNNING,
            labels: arms.map(|arm| definition.label(arm).into()).collect(),
            definition: Arc::clone(definition),
        })
    }

    /// The place of a device that is in `current` now.
    fn place(&self, device: &str, current: Option<&str>) -> Option<Placement> {
        let name = &self.definition.name;
        let mine = self
            .labels
            .iter()
            .position(|label| Some(&**label) == current);
        if let (Some(bandit), Some(mine)) = (&self.bandit, mine) {
            // Drawn once, whatever was learned since.
            let share = bandit.shares()[mine];
            return Some(self.placement(mine, bucket(name, device), share));
        }
        if !self.enrols {
            let mine = mine?;
            return Some(self.placement(mine, bucket(name, device), self.split.shares()[mine]));
        }
        if let Some(slice) = &self.slice
            && !slice.contains(&bucket(&self.definition.layer, device))
        {
            return None;
        }
        if let Some(bandit) = &self.bandit {
            let (arm, propensity) = bandit.draw(name, device);
            return Some(self.placement(arm, bucket(name, device), propensity));
        }
        let drawn = self.split.assign(name, device)?;
        Some(self.placement(drawn.arm, drawn.bucket, drawn.propensity))
    }

    fn placement(&self, arm: usize, bucket: u16, propensity: f64) -> Placement {
        Placement {
            version: self.definition.arms[arm].version.clone(),
            arm: Arc::new(ArmRef {
                experiment: self.id,
                label: Arc::clone(&self.labels[arm]),
                arm: arm as u8,
                bucket,
                propensity,
                at: now_ms(),
            }),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    running: RwLock<Arc<HashMap<String, Vec<Arc<Live>>>>>,
    changes: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            running: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Board {
    /// The place of a device at an endpoint; `current` is the label of the arm that it is in now.
    pub fn place(&self, endpoint: &str, device: &str, current: Option<&str>) -> Option<Placement> {
        let running = Arc::clone(&self.running.read());
        let here = running.get(endpoint)?;
        here.iter().find_map(|live| live.place(device, current))
    }

    /// Puts these in the place of what was there, oldest first.
    pub fn replace(&self, all: impl IntoIterator<Item = Live>) {
        let mut running: HashMap<String, Vec<Arc<Live>>> = HashMap::new();
        for live in all {
            let here = running.entry(live.definition.endpoint.clone()).or_default();
            here.push(Arc::new(live));
        }
        *self.running.write() = Arc::new(running);
        self.changes.send_modify(|change| *change += 1);
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::definition::tests::{ab, bandit, canary};
    use super::*;
    use crate::store::NewExperiment;

    fn row(id: i64, definition: &Definition, state: &str, step: u32) -> ExperimentRow {
        ExperimentRow {
            id,
            declared: NewExperiment {
                name: definition.name.clone(),
                endpoint: definition.endpoint.clone(),
                definition: String::new(),
            },
            state: state.into(),
            step,
            first_sample: 0,
            first_feedback: 0,
            first_refusal: 0,
            created: 0,
        }
    }

    fn live(id: i64, definition: &Definition, state: &str, step: u32) -> Live {
        let row = row(id, definition, state, step);
        Live::new(&row, &Arc::new(definition.clone()), None).unwrap()
    }

    fn arm(board: &Board, device: &str, current: Option<&str>) -> Option<String> {
        let placement = board.place("pump-health", device, current)?;
        Some(placement.arm.label.to_string())
    }

    #[test]
    fn a_device_keeps_its_arm_and_weights_are_kept() {
        let board = Board::default();
        assert_eq!(arm(&board, "rig-1", None), None);
        board.replace([live(1, &ab("one"), "running", 0)]);
        let mut control = 0;
        for index in 0..2_000 {
            let device = format!("rig-{index}");
            let first = arm(&board, &device, None);
            assert_eq!(first, arm(&board, &device, first.as_deref()));
            control += usize::from(first.as_deref() == Some("one/control"));
        }
        assert!((900..1_100).contains(&control), "{control}");
        assert!(board.place("rig-state", "rig-1", None).is_none());
    }

    #[test]
    fn a_paused_experiment_keeps_its_devices_and_takes_no_others() {
        let board = Board::default();
        board.replace([live(1, &ab("one"), "paused", 0)]);
        assert_eq!(arm(&board, "rig-1", None), None);
        let kept = arm(&board, "rig-1", Some("one/challenger"));
        assert_eq!(kept.as_deref(), Some("one/challenger"));
        assert_eq!(arm(&board, "rig-1", Some("other/control")), None);
    }

    #[test]
    fn two_slices_of_a_layer_share_no_device_and_an_independent_one_gets_the_rest() {
        let (mut first, mut second) = (ab("one"), ab("two"));
        first.slice = [0.0, 0.3];
        second.slice = [0.3, 1.0];
        first.check_layer([&second].into_iter()).unwrap();
        let board = Board::default();
        board.replace([
            live(1, &first, "running", 0),
            live(2, &second, "running", 0),
        ]);
        let mut in_first = 0;
        for index in 0..1_000 {
            let label = arm(&board, &format!("rig-{index}"), None).unwrap();
            in_first += usize::from(label.starts_with("one/"));
        }
        assert!((240..360).contains(&in_first), "{in_first}");
        let mut third = ab("three");
        third.independent = true;
        board.replace([live(1, &first, "running", 0), live(3, &third, "running", 0)]);
        let label = |index| arm(&board, &format!("rig-{index}"), None).unwrap();
        let in_third = (0..1_000).filter(|index| label(*index).starts_with("three/"));
        assert_eq!(in_third.count(), 1_000 - in_first);
    }

    #[test]
    fn a_bandit_draws_a_device_once_and_new_ones_by_what_it_has_learned() {
        let definition = bandit("learns");
        let board = Board::default();
        board.replace([live(1, &definition, "running", 0)]);
        let first: Vec<_> = (0..400)
            .map(|index| arm(&board, &format!("rig-{index}"), None))
            .collect();
        let challenged = |arms: &[Option<String>]| {
            arms.iter()
                .flatten()
                .filter(|arm| *arm == "learns/challenger")
                .count()
        };
        assert!((150..250).contains(&challenged(&first)));
        let mut learned = definition.bandit().unwrap();
        let moments = |y: f64| {
            let mut moments = tidegate_experiments::metric::Moments::default();
            (0..50).for_each(|index| moments.push(y + f64::from(index % 2) * 0.01, 1.0));
            moments
        };
        // Lower is better: the challenger is.
        learned.learn(&[moments(0.5), moments(0.1)]);
        let row = row(1, &definition, "running", 0);
        let known = Live::new(&row, &Arc::new(definition), Some(&Arc::new(learned))).unwrap();
        board.replace([known]);
        for (index, before) in first.iter().enumerate() {
            assert_eq!(
                arm(&board, &format!("rig-{index}"), before.as_deref()),
                *before
            );
        }
        let later: Vec<_> = (400..800)
            .map(|index| arm(&board, &format!("rig-{index}"), None))
            .collect();
        assert!(challenged(&later) > 350, "{}", challenged(&later));
    }

    #[test]
    fn a_ramp_moves_devices_from_the_control_to_the_challenger_only() {
        let board = Board::default();
        let definition = canary("ramp");
        let mut before: Vec<Option<String>> = vec![None; 500];
        for step in 0..3 {
            board.replace([live(1, &definition, "running", step)]);
            for (index, before) in before.iter_mut().enumerate() {
                let now = arm(&board, &format!("rig-{index}"), before.as_deref());
                if before.as_deref() == Some("ramp/challenger") {
                    assert_eq!(now, *before);
                }
                *before = now;
            }
        }
        let challenged = before
            .iter()
            .flatten()
            .filter(|arm| *arm == "ramp/challenger");
        assert_eq!(challenged.count(), 500, "the last step is the whole fleet");
    }
}
