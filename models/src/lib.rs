//! The streaming models of Tidegate: algorithms on plain f32 state, and the artifacts they are loaded from.
//!
//! One family only: `(state, reading) -> (state, output)`. A model is immutable and shared; the state belongs to the caller, one
//! flat `&[f32]` per stream and version, described by a [`Layout`]. The crate knows no sockets, no clocks, no database and no
//! threads: what it is given decides what it answers, bit for bit, today and in a replay years later ([`NUMERICS_REV`]).
//!
//! A tour, in reading order: [`layout`] (what a state is made of), [`output`] (what a model answers), [`manifest`] (what is
//! written beside an artifact), [`load`] (a folder becomes a [`Zoo`] of [`Version`]s, checked and hashed), [`shelf`] (one version alone, with
//! all its mistakes), [`golden`] (the recorded runs a version must reproduce), [`numerics`] (the only arithmetic a step may use),
//! [`kernels`] (the fused steps made of it), [`network`] (rows in, rows out), [`mewma`] (the first detector),
//! [`autoencoder`] (the neural one), [`rig`] (the simulated rig it is trained on).

pub mod autoencoder;
pub mod declared;
mod dispatch;
pub mod golden;
pub mod kernels;
pub mod layout;
pub mod load;
pub mod manifest;
pub mod mewma;
pub mod network;
pub mod numerics;
pub mod onnx;
pub mod output;
pub mod postprocess;
pub mod preprocess;
pub mod rig;
pub mod shelf;
pub mod version;
pub mod weights;

pub use candle_core;
pub use layout::Layout;
pub use load::{Endpoint, LoadError, Zoo};
pub use manifest::{
    Architecture, EndpointManifest, Feature, ModelManifest, Preprocessing, Task, Training,
};
pub use network::{Network, Port, PortKind};
pub use output::Output;
pub use version::Version;

/// The revision of the arithmetic reachable from a step. It rises whenever any bit of any output or state could change, and is
/// stored with each sample; the code of an old revision stays runnable.
pub const NUMERICS_REV: u32 = 1;

/// An architecture with its weights: immutable, shared as `Arc<dyn Model>` by every stream it serves.
///
/// `state` is always `layout().len()` long and `values` as long as the endpoint has features, in its order; a missing value is
/// NaN. Other lengths are a mistake of the caller and panic.
pub trait Model: Send + Sync + 'static {
    /// What the state is made of.
    fn layout(&self) -> &Layout;

    /// Writes the state of a new stream.
    fn init(&self, state: &mut [f32]);

    /// Called after a silence longer than the manifest's `max_gap_s`: drops the short memory (EWMA vector, window) and keeps what
    /// the calibration learned.
    fn forget(&self, state: &mut [f32]);

    /// Folds one reading: no allocation besides the numbers of the answer, fixed order of operations. Any finite or missing values
    /// leave a finite state, unless the answer is [`Output::Failed`] or not finite: then the state is not to be gone on with.
    fn step(&self, state: &mut [f32], values: &[f32]) -> Output;

    /// Folds one reading into each of many streams; row `i` uses `states[i]`, `values[i]` and `outputs[i]`. The bits of a row are
    /// those of [`Model::step`] alone, whatever stands beside it. The three lists have one length.
    fn step_batch(&self, states: &mut [&mut [f32]], values: &[&[f32]], outputs: &mut [Output]) {
        assert!(
            states.len() == values.len() && values.len() == outputs.len(),
            "a batch has one state, reading and output a row"
        );
        for ((state, values), output) in states.iter_mut().zip(values).zip(outputs) {
            *output = self.step(state, values);
        }
    }

    /// What an answer is made of, its numbers all 0; `None` where the task alone says it.
    fn template(&self) -> Option<Output> {
        None
    }

    /// Whether the bits hold for this build only, because some operation is candle's own.
    fn is_build_bound(&self) -> bool {
        false
    }

    /// The same arithmetic as a plain candle graph, slow and easy to read; agrees with [`Model::step`] within 1e-5 relative.
    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Output>;
}
