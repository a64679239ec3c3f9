//! One stream's model state, folded reading by reading.
//!
//! Owns the state's buffers and the measured time of the newest folded reading. A step works on a copy (one memcpy of the state,
//! 1-4 KiB) and takes its place only when the answer is finite. The same code folds live readings and the log.

use super::Served;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};
use tidegate_models as models;
use tidegate_protocol::Output;

thread_local! {
    /// Where a step works before its state is taken over.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread is in a step.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics of steps away from standard error: each is an answer (`failed`) and counted, and may come with every reading.
pub fn quiet_steps() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if STEPPING.get() {
                tracing::debug!(%panic, "a step panicked");
            } else {
                others(panic);
            }
        }));
    });
}

/// A stream's state under one version.
#[derive(Debug, Clone)]
pub struct Fold {
    served: Arc<Served>,
    state: Vec<f32>,
    last_ts: Option<i64>,
}

/// Why a stored state cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Another layout than the loaded version has.
    #[error("stored state {stored:?} does not fit layout {loaded:?}")]
    Layout {
        /// What the snapshot says.
        stored: String,
        /// What the version says.
        loaded: String,
    },
    /// Arithmetic that this build does not have.
    #[error("numerics revision {0} is not part of this build")]
    Numerics(u32),
}

impl Fold {
    /// A stream that has seen nothing.
    pub fn new(served: Arc<Served>) -> Self {
        let state = served.version.new_state();
        Self {
            served,
            state,
            last_ts: None,
        }
    }

    /// A stream at a stored state.
    ///
    /// # Errors
    /// A layout or a revision that the loaded version does not have.
    pub fn resume(
        served: Arc<Served>,
        layout: &str,
        numerics_rev: u32,
        state: Vec<f32>,
        last_ts: Option<i64>,
    ) -> Result<Self, ResumeError> {
        if layout != &*served.layout || state.len() != served.version.state_len() {
            return Err(ResumeError::Layout {
                stored: layout.to_owned(),
                loaded: served.layout.to_string(),
            });
        }
        if numerics_rev != served.version.numerics_rev() {
            return Err(ResumeError::Numerics(numerics_rev));
        }
        Ok(Self {
            served,
            state,
            last_ts,
        })
    }

    /// Who answers.
    pub fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// The state's buffers.
    pub fn state(&self) -> &[f32] {
        &self.state
    }

    /// Measured time of the newest folded reading, Unix ms.
    pub fn last_ts(&self) -> Option<i64> {
        self.last_ts
    }

    /// Back to a stream that has seen nothing.
    pub fn reset(&mut self) {
        self.state = self.served.version.new_state();
        self.last_ts = None;
    }

    /// Folds one reading measured at `ts` (Unix ms). A failed step leaves the state as it was.
    pub fn step(&mut self, values: &[f32], ts: i64) -> Output {
        let silence_s = self
            .last_ts
            .map_or(0.0, |last| ts.saturating_sub(last) as f64 / 1000.0);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.extend_from_slice(&self.state);
            let version = &self.served.version;
            STEPPING.set(true);
            let step = catch_unwind(AssertUnwindSafe(|| {
                version.step(scratch, values, silence_s)
            }));
            STEPPING.set(false);
            match step {
                Err(_) => Output::Failed("the step panicked".into()),
                Ok(models::Output::Failed { reason }) => Output::Failed(reason.to_string()),
                Ok(output) if !output.is_finite() => {
                    Output::Failed("the answer is not finite".into())
                }
                Ok(output) => {
                    self.state.copy_from_slice(scratch);
                    self.last_ts = Some(ts);
                    to_wire(output)
                }
            }
        })
    }
}

/// An answer as messages and rows carry it.
pub(super) fn to_wire(output: models::Output) -> Output {
    match output {
        models::Output::Calibrating { seen, needed } => Output::Calibrating { seen, needed },
        models::Output::Anomaly {
            score,
            threshold,
            anomaly,
        } => Output::Anomaly {
            score,
            threshold,
            anomaly,
        },
        models::Output::Classification {
            labels,
            probabilities,
            label,
        } => Output::Classification {
            label: labels.get(label).cloned().unwrap_or_default(),
            probabilities: labels.iter().cloned().zip(probabilities).collect(),
        },
        models::Output::Regression { names, values } => Output::Regression {
            values: names.iter().cloned().zip(values).collect(),
        },
        models::Output::Forecast {
            horizon,
            values,
            quantiles,
        } => Output::Forecast {
            horizon: horizon.iter().map(|steps| *steps as f32).collect(),
            values,
            quantiles: quantiles
                .into_iter()
                .map(|(p, values)| (p.to_string(), values))
                .collect(),
        },
        // Answered before; the state is kept.
        models::Output::Failed { reason } => Output::Failed(reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_told_is_the_one_the_model_chose() {
        let output = models::Output::Classification {
            labels: ["ok".to_owned(), "worn".to_owned()].into(),
            probabilities: vec![0.6, 0.4],
            label: 1,
        };
        let expected = Output::Classification {
            label: "worn".to_owned(),
            probabilities: vec![("ok".to_owned(), 0.6), ("worn".to_owned(), 0.4)],
        };
        assert_eq!(to_wire(output), expected);
    }

    #[test]
    fn a_model_that_cannot_answer_says_why() {
        let reason = "the value of \"pressure\" is missing";
        let output = models::Output::Failed {
            reason: reason.into(),
        };
        assert_eq!(to_wire(output), Output::Failed(reason.to_owned()));
    }
}
