//! A compiled graph: an arena, steps over it, and what goes in and out.
//!
//! Immutable and shared. The arena is the caller's scratch, whatever it holds before: each row writes every place it reads. All
//! steps are arithmetic of this crate in one fixed order, so the bits of a row depend on neither the batch nor the build.

use std::collections::HashMap;

use super::compile::supported;
use super::graph::Graph;
use super::inputs::{Source, tensor};
use super::tensor::{Data, Tensor, Type};
use super::value::{Builder, Stage};
use crate::network::{Network, Port, PortKind};

/// Floats that leave the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Give {
    pub from: usize,
    pub len: usize,
}

/// A graph of ONNX, compiled for one row; [`super::compile()`] makes it.
pub struct Plan {
    graph: Graph,
    sources: Vec<Take>,
    stages: Vec<Stage>,
    arena: usize,
    ports: Vec<Port>,
    gives: Vec<Give>,
    states: Vec<Give>,
    inputs: usize,
    state_outputs: Vec<String>,
}

/// Floats that enter the arena.
struct Take {
    source: Source,
    /// Whole numbers are cut off from the floats of a row.
    whole: bool,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("inputs", &self.inputs)
            .field("ports", &self.ports)
            .field("steps", &self.stages.len())
            .field("arena", &self.arena)
            .finish_non_exhaustive()
    }
}

impl Plan {
    pub(super) fn new(
        graph: Graph,
        builder: Builder,
        sources: Vec<Source>,
        ports: Vec<Port>,
        (gives, states): (Vec<Give>, Vec<Give>),
        state_outputs: Vec<String>,
    ) -> Self {
        let data = sources.iter().filter(|source| !source.is_state);
        let inputs = data.map(|source| source.value.len()).sum();
        let take = |source: Source| Take {
            whole: matches!(source.value.ty, Type::Int | Type::Bool),
            source,
        };
        Self {
            inputs,
            graph,
            sources: sources.into_iter().map(take).collect(),
            stages: builder.stages,
            arena: builder.arena,
            ports,
            gives,
            states,
            state_outputs,
        }
    }

    /// Steps of the plan; for tests and reports.
    pub fn steps(&self) -> usize {
        self.stages.len()
    }

    /// Every tensor of the graph computed on `f64`, each rounded to its type; the outputs in the order of the ports, then the
    /// states.
    fn evaluate(&self, state: &[f32], input: &[f32]) -> Result<Vec<Tensor>, String> {
        let mut values: HashMap<&str, Tensor> = HashMap::new();
        for Take { source, .. } in &self.sources {
            let numbers = if source.is_state { state } else { input };
            values.insert(&source.name, tensor(source, numbers));
        }
        for node in &self.graph.nodes {
            let op = supported(node)?;
            let find = |name: &String| {
                values
                    .get(name.as_str())
                    .or_else(|| self.graph.constants.get(name))
            };
            let mut inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(find).collect();
            while inputs.last().is_some_and(Option::is_none) {
                inputs.pop();
            }
            let outputs = (op.eval)(node, &inputs)?;
            let named = node.outputs.iter().zip(outputs);
            for (name, value) in named.filter(|(name, _)| !name.is_empty()) {
                values.insert(name, value);
            }
        }
        let names = self.ports.iter().map(|port| port.name.as_str());
        let names = names.chain(self.state_outputs.iter().map(String::as_str));
        let take = |name: &str| {
            let found = values.get(name).or_else(|| self.graph.constants.get(name));
            found
                .cloned()
                .ok_or_else(|| format!("nothing makes {name:?}"))
        };
        names.map(take).collect()
    }
}

impl Network for Plan {
    fn kind(&self) -> &str {
        "onnx-1"
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn state_len(&self) -> usize {
        self.states.iter().map(|give| give.len).sum()
    }

    fn scratch_len(&self) -> usize {
        self.arena
    }

    fn step(&self, state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        assert_eq!(input.len(), self.inputs, "a plan's row");
        let arena = &mut scratch[..self.arena];
        for take in &self.sources {
            let source = &take.source;
            let len = source.value.len();
            let from = if source.is_state { &*state } else { input };
            let from = &from[source.start..source.start + len];
            let place = &mut arena[source.value.at..source.value.at + len];
            match &source.order {
                None => place.copy_from_slice(from),
                Some(order) => {
                    for (place, at) in place.iter_mut().zip(order) {
                        *place = from[*at as usize];
                    }
                }
            }
            if take.whole {
                place.iter_mut().for_each(|value| *value = value.trunc());
            }
        }
        for stage in &self.stages {
            stage.run(arena);
        }
        copy_out(arena, &self.gives, output);
        copy_out(arena, &self.states, state);
    }

    /// Not a candle graph: candle has no operator for most of what a graph may hold (trees, recurrent cells, labels). Instead
    /// every node is evaluated by the plain `f64` form of its operator, which shares no code with the steps but the reading of
    /// attributes and the few rules of classifiers that the specification leaves open.
    fn reference(&self, state: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let outputs = self
            .evaluate(state, input)
            .map_err(candle_core::Error::Msg)?;
        let (ports, states) = outputs.split_at(self.ports.len());
        let mut row = Vec::with_capacity(self.outputs());
        for (port, tensor) in self.ports.iter().zip(ports) {
            row.extend(port_numbers(port, tensor));
        }
        let next = states
            .iter()
            .flat_map(|tensor| tensor.to_floats().unwrap_or_default());
        state
            .iter_mut()
            .zip(next)
            .for_each(|(state, next)| *state = next);
        Ok(row)
    }
}

fn copy_out(arena: &[f32], gives: &[Give], into: &mut [f32]) {
    let mut at = 0;
    for give in gives {
        into[at..at + give.len].copy_from_slice(&arena[give.from..give.from + give.len]);
        at += give.len;
    }
}

/// A port's numbers; of a label the index of its class.
fn port_numbers(port: &Port, tensor: &Tensor) -> Vec<f32> {
    let (PortKind::Class, Some(classes)) = (port.kind, &port.classes) else {
        return tensor.to_floats().unwrap_or_default();
    };
    let index = |name: &str| {
        let found = classes.iter().position(|class| class == name);
        found.map_or(f32::NAN, |at| at as f32)
    };
    match &tensor.data {
        Data::Texts(texts) => texts.iter().map(|text| index(text)).collect(),
        Data::Numbers(numbers) => numbers
            .iter()
            .map(|number| index(&(*number as i64).to_string()))
            .collect(),
    }
}
