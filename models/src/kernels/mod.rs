//! Fused steps: the arithmetic of one row of a network, in one fixed order and without allocation.
//!
//! Each kernel holds its weights as the row wants them (input-major, so that a sum runs along the inputs and vectors lie across
//! the outputs) and knows nothing of manifests, files or streams. `run` (or `step`) dispatches once to the copy compiled for AVX2
//! and FMA where the machine has both; `body` is the same code for a caller that dispatches itself. The bits are the same.

pub mod activation;
pub mod conv;
pub mod dense;
pub mod gru;
pub mod lstm;
pub mod trees;

pub use activation::Activation;
pub use conv::Conv;
pub use dense::Dense;
pub use gru::Gru;
pub use lstm::Lstm;
pub use trees::Forest;

/// `[outputs][inputs]` of PyTorch and safetensors to `[inputs][outputs]`.
pub(crate) fn transposed(weight: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    assert_eq!(
        weight.len(),
        inputs * outputs,
        "a weight is outputs x inputs"
    );
    (0..inputs)
        .flat_map(|i| (0..outputs).map(move |o| weight[o * inputs + i]))
        .collect()
}
