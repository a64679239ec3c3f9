//! Graphs of ONNX: a file is parsed once and compiled to a [`Plan`], a [`crate::Network`] of fused steps.
//!
//! In reading order: `proto` and `scan` (the wire), `read` (bytes to a graph, all limits), `graph`, `tensor`, `ops` (what each
//! operator means, twice: as a step and as a plain evaluation), `inputs`, `fold` and `compile` (a graph to a plan), `plan` (running it).
//! Knows no manifests, no features' meaning and no calibration. Promises: no protobuf compiler at build time, no byte sequence that
//! makes it panic, no weight touched again after [`compile()`], and a refusal that names node and operator. What is supported stands
//! in `docs/ONNX.md`, which [`supported_operators`] writes.

mod compile;
mod document;
mod finite;
mod fold;
mod graph;
mod inputs;
pub mod limits;
mod math;
mod ops;
mod plan;
mod proto;
mod read;
mod scan;
mod tensor;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;

use crate::load::Files;

pub use plan::Plan;

/// Why a file cannot be served. The text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct OnnxError {
    /// The file, or where in the graph: `node 3 (Gemm "/fc1/Gemm")`, `input "x"`, `initializer "w"`.
    pub place: String,
    /// What is wrong there, and what to do.
    pub reason: String,
}

impl OnnxError {
    fn new(place: &str, reason: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            reason: reason.into(),
        }
    }
}

/// How the dimensions of a window lie in a graph's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[1, window, features]`: as a row holds it.
    RowsFirst,
    /// `[1, features, window]`: as convolutions take it.
    ChannelsFirst,
}

/// What is known of a graph beside its file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Floats of a row; `None` takes what the graph says.
    pub inputs: Option<usize>,
    /// The names of one reading's columns, in order: they find inputs of one column, and tell how a window lies.
    pub features: Vec<String>,
    /// The outputs that become ports, in order; empty: every output that is no state.
    pub outputs: Vec<String>,
    /// State inputs, each with the output that is its next value; the state holds them in this order.
    pub states: Vec<(String, String)>,
    /// Sizes of named dimensions.
    pub dims: BTreeMap<String, usize>,
    /// How a window lies, where the dimensions do not tell.
    pub layout: Option<Layout>,
}

/// Compiles `file` of a version's `files`; the others may hold external data.
///
/// # Errors
/// Names the place in the graph and what is wrong with it.
pub fn compile(files: &Files, file: &str, options: &Options) -> Result<Plan, OnnxError> {
    compile::compile(read::read(files, file)?, options)
}

/// What a bare graph takes and gives, so that a manifest can be written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Inputs that are no constants: name, and dimensions where they are fixed.
    pub inputs: Vec<(String, Vec<Option<usize>>)>,
    /// The same of the outputs.
    pub outputs: Vec<(String, Vec<Option<usize>>)>,
}

/// Reads a graph without compiling it.
///
/// # Errors
/// As [`compile()`].
pub fn outline(files: &Files, file: &str) -> Result<Outline, OnnxError> {
    let graph = read::read(files, file)?;
    let declared = |list: &[graph::Declared]| {
        let dims = |declared: &graph::Declared| {
            let size = |dim: &graph::Dim| match dim {
                graph::Dim::Fixed(size) => Some(*size),
                _ => None,
            };
            compile::dims(declared).iter().map(size).collect()
        };
        list.iter()
            .map(|declared| (declared.name.clone(), dims(declared)))
            .collect()
    };
    Ok(Outline {
        inputs: declared(&graph.inputs),
        outputs: declared(&graph.outputs),
    })
}

/// The text of `docs/ONNX.md`.
pub fn supported_operators() -> String {
    document::page()
}
