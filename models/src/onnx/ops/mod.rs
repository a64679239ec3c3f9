//! The operators: one row each in the tables of the families, one list of them all.
//!
//! A row names an operator, the lowest operator set whose meaning is followed, and the attributes that are understood; it has two
//! functions. `eval` computes any tensors on `f64`, plainly: it folds constants and is the reference. `build` adds steps to a
//! plan. The compiler and `docs/ONNX.md` both read this list; there is no other.

mod categories;
mod choose;
mod conv;
pub(super) mod dense;
mod einsum;
pub(super) mod elementwise;
mod ensemble;
mod joins;
mod labels;
mod linear;
mod moves;
mod normal;
mod pair;
mod recurrent;
mod reduce;
mod scale;
mod scores;
mod shapes;
mod svm;
mod tree_lists;
mod trees;

use super::graph::Node;
use super::tensor::Tensor;
use super::value::{Builder, Value};

/// Computes the outputs from tensors.
pub(super) type Eval = fn(&Node, &[Option<&Tensor>]) -> Result<Vec<Tensor>, String>;

/// Operations that evaluating a node takes, worked out before it begins.
pub(super) type Work = fn(&Node, &[Option<&Tensor>]) -> Result<usize, String>;

/// Adds steps for a node of which some input is computed by each row.
pub(super) type Build = fn(&mut Builder, &Node, &[Option<Value>]) -> Result<Vec<Value>, String>;

/// An operator that is supported.
pub(super) struct Op {
    pub name: &'static str,
    /// Lowest version of the domain's operator set whose form of the operator is understood.
    pub since: i64,
    pub attributes: &'static [&'static str],
    /// What is not supported of it, or how; for the documentation.
    pub note: &'static str,
    pub eval: Eval,
    pub build: Build,
    /// What `eval` costs.
    pub work: Work,
}

impl Op {
    /// The same row, for an operator that does more than go once over its inputs.
    const fn costing(self, work: Work) -> Self {
        Self { work, ..self }
    }
}

/// What going once over the inputs takes; that of the outputs is counted with them.
fn once(_: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let lens = inputs.iter().flatten().map(|tensor| tensor.len());
    Ok(lens.fold(1, usize::saturating_add))
}

/// Operators of one domain under one heading.
pub(super) struct Family {
    pub domain: &'static str,
    pub heading: &'static str,
    pub ops: &'static [Op],
}

/// Every operator that is supported.
pub(super) const FAMILIES: &[Family] = &[
    family("", "Functions of one tensor", elementwise::OPS),
    family("", "Functions of several tensors", pair::OPS),
    family("", "Shape and order", moves::OPS),
    family("", "Joining, picking, padding", joins::OPS),
    family("", "Shapes and constants", shapes::OPS),
    family("", "Sums and extremes", reduce::OPS),
    family("", "Choices and running sums", choose::OPS),
    family("", "Matrices and convolutions", dense::OPS),
    family("", "Sums of products", einsum::OPS),
    family("", "Pooling", conv::OPS),
    family("", "Softmax and normalisation", normal::OPS),
    family("", "Recurrent layers", recurrent::OPS),
    family("ai.onnx.ml", "Scalers", scale::OPS),
    family("ai.onnx.ml", "Columns", joins::ML_OPS),
    family("ai.onnx.ml", "Linear models", linear::OPS),
    family("ai.onnx.ml", "Tree ensembles", trees::OPS),
    family("ai.onnx.ml", "Support vector machines", svm::OPS),
    family("ai.onnx.ml", "Labels", labels::OPS),
    family("ai.onnx.ml", "Categories", categories::OPS),
];

const fn family(domain: &'static str, heading: &'static str, ops: &'static [Op]) -> Family {
    Family {
        domain,
        heading,
        ops,
    }
}

/// The operator of a name in a domain.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static Op> {
    let families = FAMILIES.iter().filter(|family| family.domain == domain);
    families
        .flat_map(|family| family.ops)
        .find(|op| op.name == name)
}

/// Shorthand for a row without remarks.
pub(super) const fn op(
    name: &'static str,
    since: i64,
    attributes: &'static [&'static str],
    eval: Eval,
    build: Build,
) -> Op {
    Op {
        name,
        since,
        attributes,
        note: "",
        eval,
        build,
        work: once,
    }
}

/// Shorthand for a row with a remark.
pub(super) const fn noted(
    name: &'static str,
    since: i64,
    attributes: &'static [&'static str],
    note: &'static str,
    eval: Eval,
    build: Build,
) -> Op {
    Op {
        name,
        since,
        attributes,
        note,
        eval,
        build,
        work: once,
    }
}
