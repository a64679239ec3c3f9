//! Weights must be finite: where they are not, training diverged, and the tensor or attribute is named.
//!
//! Only what is a weight by its place: a mask may hold infinities, and what stands for a missing value is NaN.

use super::OnnxError;
use super::graph::{Attribute, Node};
use super::tensor::Tensor;

/// The inputs of a node that are weights, biases included, and whether infinities are refused beside NaN.
fn weights(op: &str) -> (std::ops::Range<usize>, bool) {
    match op {
        "MatMul" | "Gemm" => (0..3, true),
        "Conv" => (1..3, true),
        // Behind the biases lie lengths, states and peepholes.
        "GRU" | "LSTM" | "RNN" => (1..8, true),
        "BatchNormalization" => (1..5, true),
        "GroupNormalization" | "InstanceNormalization" => (1..3, true),
        "LayerNormalization" | "RMSNormalization" => (1..3, true),
        "Einsum" => (0..2, true),
        "PRelu" => (1..2, true),
        // A bias, or a mask.
        "Add" | "Div" | "Mul" | "Sub" => (0..2, false),
        _ => (0..0, true),
    }
}

/// Lists of floats of a node that are weights, as a list or as a tensor. Thresholds of trees may be infinite; NaN among them is
/// refused where they are read.
const ATTRIBUTES: &[&str] = &[
    "base_values",
    "base_values_as_tensor",
    "class_weights",
    "class_weights_as_tensor",
    "coefficients",
    "intercepts",
    "kernel_params",
    "leaf_weights",
    "offset",
    "prob_a",
    "prob_b",
    "rho",
    "scale",
    "support_vectors",
    "target_weights",
    "target_weights_as_tensor",
];

/// Refuses a node whose weights are not finite; `known` gives those of its inputs that are constants, in their order.
pub(super) fn check(
    node: &Node,
    known: &[Option<&Tensor>],
    is_initializer: impl Fn(&str) -> bool,
) -> Result<(), OnnxError> {
    let (range, refuses_infinite) = weights(&node.op);
    let wrong = |value: f64| value.is_nan() || refuses_infinite && value.is_infinite();
    for index in range {
        let (Some(name), Some(Some(tensor))) = (node.inputs.get(index), known.get(index)) else {
            continue;
        };
        if let Some((at, value)) = first(tensor.values().unwrap_or(&[]), wrong) {
            let (shape, reason) = (&tensor.shape, format!("element {at} is {value}"));
            if is_initializer(name) {
                let place = format!("initializer {name:?} {shape:?}");
                return Err(OnnxError::new(&place, reason));
            }
            let reason = format!("input {name:?} {shape:?}: {reason}");
            return Err(OnnxError::new(&node.place(), reason));
        }
    }
    for name in ATTRIBUTES {
        let found = match node.attributes.get(*name) {
            Some(Attribute::Floats(values)) => {
                let values: Vec<f64> = values.iter().copied().map(f64::from).collect();
                first(&values, |value| !value.is_finite())
            }
            Some(Attribute::Tensor(tensor)) => {
                first(tensor.values().unwrap_or(&[]), |value| !value.is_finite())
            }
            _ => None,
        };
        if let Some((at, value)) = found {
            let reason = format!("attribute {name}: element {at} is {value}");
            return Err(OnnxError::new(&node.place(), reason));
        }
    }
    Ok(())
}

fn first(values: &[f64], wrong: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
    let at = values.iter().position(|value| wrong(*value))?;
    Some((at, values[at]))
}
