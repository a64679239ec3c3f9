//! A version that is declared: stages, a network and a head, all from `model.toml`, chained into one [`Model`].
//!
//! The state is the calibration's count, the stages' buffers, the network's state and the head's, end to end. Rows between the
//! parts lie in scratch of the thread: a step allocates the numbers of its [`Output`] and nothing else. While the stream calibrates
//! the answer is [`Output::Calibrating`] and the calibrated parts learn; afterwards they never do, so a fault is not learned as
//! normal. [`Model::forget`] drops past rows and the network's memory, and keeps what was learned.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::manifest::{Mistake, check};
use crate::network::{MAX_WIDTH, Network};
use crate::postprocess::{Answer, Place, Seen};
use crate::preprocess::{Moment, Pipeline, Rows};
use crate::{EndpointManifest, Layout, Model, ModelManifest, Output};

/// Most floats in a stream's state: 256 KiB.
pub const MAX_STATE: usize = 65_536;

/// Fewest readings of a calibration.
pub const MIN_CALIBRATION: u32 = 16;

/// Rows of a batch that go through the network together.
const BLOCK: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Floats before the stages' buffers: the count of the calibration.
const COUNT: usize = 1;

/// The chain.
pub struct Declared {
    pipeline: Pipeline,
    network: Arc<dyn Network>,
    head: Box<dyn Answer>,
    layout: Layout,
    calibration: u32,
    stages: Range<usize>,
    memory: Range<usize>,
    judged: Range<usize>,
    /// Floats of the rows of one reading, and of the scratch behind those of all.
    room: [usize; 4],
    /// What is answered where a feature's value is missing and must not be.
    refusals: Vec<Arc<str>>,
    not_finite: Arc<str>,
}

/// The rows of one reading between the parts, in scratch.
struct Room<'r> {
    base: &'r mut [f32],
    row: &'r mut [f32],
    output: &'r mut [f32],
    scratch: &'r mut [f32],
}

impl Declared {
    /// Fits the declared parts of `manifest` to the endpoint; `network` builds the architecture for the rows that the stages make.
    pub fn new<E: From<Mistake>>(
        endpoint: &EndpointManifest,
        manifest: &ModelManifest,
        network: impl FnOnce(&Pipeline) -> Result<Arc<dyn Network>, E>,
    ) -> Result<Self, E> {
        let pipeline = Pipeline::new(manifest.preprocessing.stages(), &endpoint.features)?;
        let network = network(&pipeline)?;
        check(
            network.inputs() == pipeline.width(),
            "architecture",
            &format!(
                "takes rows of {} values, preprocessing makes {}",
                network.inputs(),
                pipeline.width()
            ),
        )?;
        check(
            network.outputs() <= MAX_WIDTH,
            "architecture",
            &format!(
                "gives rows of {} values, more than {MAX_WIDTH}",
                network.outputs()
            ),
        )?;
        let place = Place {
            task: endpoint.task,
            features: &endpoint.features,
            pipeline: &pipeline,
            ports: network.ports(),
            calibration: manifest.calibration,
        };
        let head = manifest.postprocessing.as_ref();
        let head = head.ok_or_else(|| Mistake::new("postprocessing", "is missing"))?;
        let head = head
            .fit(&place)
            .map_err(|mistake| mistake.inside("postprocessing"))?;
        check_lengths(manifest, &pipeline, &*network, &*head)?;
        let layout = layout(&pipeline, &*network, &*head);
        check(
            layout.len() <= MAX_STATE,
            "architecture",
            &format!(
                "a stream's state would be {} floats, more than {MAX_STATE}",
                layout.len()
            ),
        )?;
        let stages = COUNT..COUNT + pipeline.state_len();
        let memory = stages.end..stages.end + network.state_len();
        let refusal = |name: &str| format!("the value of \"{name}\" is missing").into();
        let features = endpoint.features.iter();
        Ok(Self {
            refusals: features.map(|feature| refusal(&feature.name)).collect(),
            not_finite: "the network's output is not finite".into(),
            judged: memory.end..layout.len(),
            room: [
                pipeline.base(),
                pipeline.width(),
                network.outputs(),
                pipeline.scratch_len().max(network.scratch_len()),
            ],
            calibration: manifest.calibration,
            pipeline,
            network,
            head,
            layout,
            stages,
            memory,
        })
    }

    /// The network between the stages.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// Counts the reading into the calibration.
    fn moment(&self, state: &mut [f32]) -> Moment {
        let learning = state[0] < self.calibration as f32;
        state[0] += f32::from(learning);
        Moment {
            seen: state[0] as u32,
            learning,
        }
    }

    /// What is made of the network's output.
    fn judge(
        &self,
        state: &mut [f32],
        now: Moment,
        base: &[f32],
        row: &[f32],
        output: &[f32],
    ) -> Output {
        let (before, judged) = state.split_at_mut(self.judged.start);
        let seen = Seen {
            base,
            row,
            output,
            now,
            pipeline: &self.pipeline,
            stages: &before[self.stages.clone()],
        };
        if !now.learning {
            return self.head.answer(judged, &seen);
        }
        if !output.iter().all(|value| value.is_finite()) {
            return Output::Failed {
                reason: self.not_finite.clone(),
            };
        }
        self.head.learn(judged, &seen);
        Output::Calibrating {
            seen: now.seen,
            needed: self.calibration,
        }
    }

    /// The one way of a reading; only the network's arithmetic differs between step and reference.
    fn fold<E>(
        &self,
        state: &mut [f32],
        values: &[f32],
        room: Room<'_>,
        network: impl FnOnce(&mut [f32], &[f32], &mut [f32], &mut [f32]) -> Result<(), E>,
    ) -> Result<Output, E> {
        assert_eq!(
            (state.len(), values.len()),
            (self.layout.len(), self.refusals.len()),
            "a step's state and reading"
        );
        if let Some(output) = self.refusal(values) {
            return Ok(output);
        }
        let now = self.moment(state);
        let (base, row) = (room.base, room.row);
        let rows = Rows {
            base: &mut *base,
            row: &mut *row,
        };
        let stages = &mut state[self.stages.clone()];
        self.pipeline.run(stages, values, now, rows, room.scratch);
        network(
            &mut state[self.memory.clone()],
            row,
            room.output,
            room.scratch,
        )?;
        Ok(self.judge(state, now, base, row, room.output))
    }

    fn refusal(&self, values: &[f32]) -> Option<Output> {
        let feature = self.pipeline.refuses(values)?;
        Some(Output::Failed {
            reason: self.refusals[feature].clone(),
        })
    }

    /// Scratch of the thread for `count` readings.
    fn with_room<T>(&self, count: usize, work: impl FnOnce(Room<'_>) -> T) -> T {
        let [base, row, output, scratch] = self.room;
        let [base, row, output] = [base, row, output].map(|floats| floats * count);
        SCRATCH.with_borrow_mut(|floats| {
            let needed = base + row + output + scratch;
            if floats.len() < needed {
                floats.resize(needed, 0.0);
            }
            let (base, rest) = floats.split_at_mut(base);
            let (row, rest) = rest.split_at_mut(row);
            let (output, rest) = rest.split_at_mut(output);
            work(Room {
                base,
                row,
                output,
                scratch: &mut rest[..scratch],
            })
        })
    }

    /// At most [`BLOCK`] readings, none of them refused.
    fn step_block(&self, states: &mut [&mut [f32]], values: &[&[f32]], outputs: &mut [Output]) {
        let [base, row, given, _] = self.room;
        let count = values.len();
        self.with_room(count, |room| {
            let mut moments = [Moment {
                seen: 0,
                learning: false,
            }; BLOCK];
            for (i, (state, values)) in states.iter_mut().zip(values).enumerate() {
                moments[i] = self.moment(state);
                let rows = Rows {
                    base: &mut room.base[i * base..][..base],
                    row: &mut room.row[i * row..][..row],
                };
                let stages = &mut state[self.stages.clone()];
                self.pipeline
                    .run(stages, values, moments[i], rows, room.scratch);
            }
            let mut memories: [&mut [f32]; BLOCK] = std::array::from_fn(|_| &mut [][..]);
            for (memory, state) in memories.iter_mut().zip(states.iter_mut()) {
                *memory = &mut state[self.memory.clone()];
            }
            let memories = &mut memories[..count];
            self.network
                .step_rows(memories, room.row, room.output, room.scratch);
            for (i, (state, output)) in states.iter_mut().zip(outputs).enumerate() {
                let given = &room.output[i * given..][..given];
                let (base, row) = (&room.base[i * base..][..base], &room.row[i * row..][..row]);
                *output = self.judge(state, moments[i], base, row, given);
            }
        });
    }
}

/// Memory and calibration must be what the parts need, and no calibration may be for nothing.
fn check_lengths(
    manifest: &ModelManifest,
    pipeline: &Pipeline,
    network: &dyn Network,
    head: &dyn Answer,
) -> Result<(), Mistake> {
    let back = pipeline.looks_back();
    check(
        manifest.memory as usize >= back,
        "memory",
        &format!(
            "is {}, the stages look {back} readings back",
            manifest.memory
        ),
    )?;
    check(
        network.state_len() == 0 || manifest.memory > 0,
        "memory",
        "is 0, and the network has one: how many readings determine it?",
    )?;
    let learns = pipeline.learns() || head.learns();
    check(
        !learns || manifest.calibration >= MIN_CALIBRATION,
        "calibration",
        &format!(
            "is {}, and something learns in it: at least {MIN_CALIBRATION}",
            manifest.calibration
        ),
    )?;
    check(
        learns || manifest.calibration == 0,
        "calibration",
        "is not 0, and nothing learns in it",
    )
}

fn layout(pipeline: &Pipeline, network: &dyn Network, head: &dyn Answer) -> Layout {
    let mut layout = Layout::new(format!("declared-1 {}", network.kind())).with("count", COUNT);
    for (name, len) in pipeline.buffers() {
        layout = layout.with(name, len);
    }
    if network.state_len() > 0 {
        layout = layout.with("network", network.state_len());
    }
    for (name, len) in head.buffers() {
        layout = layout.with(format!("head.{name}"), len);
    }
    layout
}

impl Model for Declared {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn init(&self, state: &mut [f32]) {
        state[0] = 0.0;
        self.pipeline.init(&mut state[self.stages.clone()]);
        self.network.init(&mut state[self.memory.clone()]);
        self.head.init(&mut state[self.judged.clone()]);
    }

    fn forget(&self, state: &mut [f32]) {
        self.pipeline.forget(&mut state[self.stages.clone()]);
        self.network.init(&mut state[self.memory.clone()]);
        self.head.forget(&mut state[self.judged.clone()]);
    }

    fn step(&self, state: &mut [f32], values: &[f32]) -> Output {
        self.with_room(1, |room| {
            let network =
                |memory: &mut [f32], row: &[f32], output: &mut [f32], scratch: &mut [f32]| {
                    self.network.step(memory, row, output, scratch);
                    Ok::<_, std::convert::Infallible>(())
                };
            self.fold(state, values, room, network)
                .unwrap_or_else(|never| match never {})
        })
    }

    fn step_batch(&self, states: &mut [&mut [f32]], values: &[&[f32]], outputs: &mut [Output]) {
        assert!(
            states.len() == values.len() && values.len() == outputs.len(),
            "a batch has one state, reading and output a row"
        );
        for ((states, values), outputs) in states
            .chunks_mut(BLOCK)
            .zip(values.chunks(BLOCK))
            .zip(outputs.chunks_mut(BLOCK))
        {
            if values
                .iter()
                .any(|values| self.pipeline.refuses(values).is_some())
            {
                for ((state, values), output) in states.iter_mut().zip(values).zip(outputs) {
                    *output = self.step(state, values);
                }
            } else {
                self.step_block(states, values, outputs);
            }
        }
    }

    fn template(&self) -> Option<Output> {
        self.head.template()
    }

    fn is_build_bound(&self) -> bool {
        self.network.is_build_bound()
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Output> {
        self.with_room(1, |room| {
            self.fold(state, values, room, |memory, row, output, _| {
                output.copy_from_slice(&self.network.reference(memory, row)?);
                Ok(())
            })
        })
    }
}
