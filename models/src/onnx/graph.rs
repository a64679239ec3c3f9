//! A graph as it stands in the file: nodes in an order that can be run, constants, what goes in and comes out.
//!
//! Owns the typed access to attributes. Promises that every input of a node is a constant, an input of the graph or the output of
//! an earlier node. What an operator means is for `ops`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::tensor::Tensor;

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    /// A graph, a sparse tensor, a type: nothing that is supported; the word says which.
    Other(&'static str),
}

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// As the file counts them, from 0.
    pub index: usize,
    pub name: String,
    pub op: String,
    /// `""` for `ai.onnx`.
    pub domain: String,
    /// Version of its domain's operator set.
    pub opset: i64,
    /// `""` for one left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// For messages: `node 3 (Gemm "/fc1/Gemm")`.
    pub(super) fn place(&self) -> String {
        let op = if self.domain.is_empty() {
            self.op.clone()
        } else {
            format!("{}.{}", self.domain, self.op)
        };
        match self.name.as_str() {
            "" => format!("node {} ({op})", self.index),
            name => format!("node {} ({op} {name:?})", self.index),
        }
    }

    pub(super) fn int(&self, name: &str, otherwise: i64) -> Result<i64, String> {
        match self.attributes.get(name) {
            None => Ok(otherwise),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("attribute {name} is not a whole number")),
        }
    }

    pub(super) fn flag(&self, name: &str, otherwise: bool) -> Result<bool, String> {
        Ok(self.int(name, i64::from(otherwise))? != 0)
    }

    pub(super) fn float(&self, name: &str, otherwise: f32) -> Result<f32, String> {
        match self.attributes.get(name) {
            None => Ok(otherwise),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => Err(format!("attribute {name} is not a float")),
        }
    }

    pub(super) fn text<'a>(&'a self, name: &str, otherwise: &'a str) -> Result<&'a str, String> {
        match self.attributes.get(name) {
            None => Ok(otherwise),
            Some(Attribute::Text(value)) => Ok(value),
            Some(_) => Err(format!("attribute {name} is not a string")),
        }
    }

    /// Empty when it is missing.
    pub(super) fn ints(&self, name: &str) -> Result<&[i64], String> {
        match self.attributes.get(name) {
            None => Ok(&[]),
            Some(Attribute::Ints(values)) => Ok(values),
            Some(_) => Err(format!("attribute {name} is not a list of whole numbers")),
        }
    }

    /// Empty when it is missing.
    pub(super) fn floats(&self, name: &str) -> Result<&[f32], String> {
        match self.attributes.get(name) {
            None => Ok(&[]),
            Some(Attribute::Floats(values)) => Ok(values),
            Some(_) => Err(format!("attribute {name} is not a list of floats")),
        }
    }

    /// Empty when it is missing.
    pub(super) fn texts(&self, name: &str) -> Result<&[String], String> {
        match self.attributes.get(name) {
            None => Ok(&[]),
            Some(Attribute::Texts(values)) => Ok(values),
            Some(_) => Err(format!("attribute {name} is not a list of strings")),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&Tensor>, String> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is not a tensor")),
        }
    }

    /// A list of whole numbers that must not be negative.
    pub(super) fn sizes(&self, name: &str) -> Result<Vec<usize>, String> {
        let size = |value: &i64| {
            usize::try_from(*value)
                .ok()
                .filter(|value| *value <= super::limits::MAX_ELEMENTS)
                .ok_or_else(|| format!("attribute {name} holds {value}"))
        };
        self.ints(name)?.iter().map(size).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    /// Whether output `index` is wanted by anyone.
    pub(super) fn wants(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(|name| !name.is_empty())
    }
}

/// One dimension of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dim {
    Fixed(usize),
    Named(String),
    Unknown,
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Named(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// What a graph declares of an input or output.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub name: String,
    /// `TensorProto.DataType`; 0 where the type is no tensor.
    pub code: i32,
    /// `None` where not even the rank is said.
    pub shape: Option<Vec<Dim>>,
}

/// The whole graph.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    pub constants: HashMap<String, Tensor>,
    /// Without the constants that old files list among the inputs.
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
}

impl Graph {
    /// Puts the nodes into an order in which each comes after those it reads from; the file's order where that is one.
    ///
    /// # Errors
    /// Place and reason for a name that nothing makes, one made twice, and a cycle.
    pub(super) fn sort(mut self) -> Result<Self, (String, String)> {
        let given = self.given();
        let mut maker: HashMap<&str, usize> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            for name in node.outputs.iter().filter(|name| !name.is_empty()) {
                if given.contains(name.as_str()) || maker.insert(name, at).is_some() {
                    return Err((node.place(), format!("output {name:?} is made twice")));
                }
            }
        }
        let order = self.order(&maker)?;
        let mut nodes: Vec<Option<Node>> = self.nodes.into_iter().map(Some).collect();
        self.nodes = order.iter().filter_map(|at| nodes[*at].take()).collect();
        Ok(self)
    }

    /// Kahn (1962), the earliest node of the file first.
    fn order(&self, maker: &HashMap<&str, usize>) -> Result<Vec<usize>, (String, String)> {
        let given = self.given();
        let mut waits = vec![0_usize; self.nodes.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for name in node.inputs.iter().filter(|name| !name.is_empty()) {
                match maker.get(name.as_str()) {
                    Some(from) => {
                        readers[*from].push(at);
                        waits[at] += 1;
                    }
                    None if given.contains(name.as_str()) => {}
                    None => {
                        return Err((node.place(), format!("nothing makes its input {name:?}")));
                    }
                }
            }
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..waits.len()).filter(|at| waits[*at] == 0).collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some(at) = ready.pop_first() {
            order.push(at);
            for reader in &readers[at] {
                waits[*reader] -= 1;
                if waits[*reader] == 0 {
                    ready.insert(*reader);
                }
            }
        }
        match waits.iter().position(|left| *left > 0) {
            None => Ok(order),
            Some(at) => Err((
                self.nodes[at].place(),
                "the graph is cyclic: the node waits for its own output".to_owned(),
            )),
        }
    }

    /// Names that stand before the first node.
    fn given(&self) -> HashSet<&str> {
        let inputs = self.inputs.iter().map(|input| input.name.as_str());
        let constants = self.constants.keys().map(String::as_str);
        inputs.chain(constants).collect()
    }
}
