//! A graph becomes a plan: what is constant folds away, the rest becomes steps on one arena.
//!
//! The batch dimension is one row. Inputs are columns or windows of the row, outputs become ports. Nodes that no wanted output
//! needs are left out, and with them what they would be refused for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fold::Folding;
use super::graph::{Declared, Dim, Graph, Node};
use super::inputs::{self, Source};
use super::limits::MAX_ROW;
use super::ops::{self, Op};
use super::plan::{Give, Plan};
use super::tensor::{Tensor, Type};
use super::value::{Builder, Run, Value, known_only};
use super::{OnnxError, Options, finite};
use crate::network::{Port, PortKind};

type Values = HashMap<String, Value>;

/// Compiles a graph that was read.
pub(super) fn compile(mut graph: Graph, options: &Options) -> Result<Plan, OnnxError> {
    let wanted = wanted_outputs(&graph, options)?;
    check_states(&graph, options)?;
    prune(&mut graph, &wanted, options);
    let mut builder = Builder {
        uses: uses(&graph, &wanted, options),
        ..Builder::default()
    };
    let sources = inputs::place(&mut builder, &graph, options)?;
    let mut values: Values = sources
        .iter()
        .map(|source| (source.name.clone(), source.value.clone().into()))
        .collect();
    for (name, tensor) in &graph.constants {
        values.insert(name.clone(), tensor.clone().into());
    }
    let mut folding = Folding::new(graph.constants.values().map(Tensor::len).sum());
    for node in &graph.nodes {
        compile_node(&mut builder, node, &mut values, &mut folding, &graph)?;
    }
    check_outputs(&graph, &wanted, &values, options)?;
    let (ports, gives) = ports(&mut builder, &wanted, &values)?;
    let states = states(&mut builder, &sources, &values, options)?;
    let outputs = options.states.iter().map(|(_, output)| output.clone());
    let state_outputs = outputs.collect();
    let gives = (gives, states);
    Ok(Plan::new(
        graph,
        builder,
        sources,
        ports,
        gives,
        state_outputs,
    ))
}

/// The outputs that become ports, in order.
fn wanted_outputs(graph: &Graph, options: &Options) -> Result<Vec<String>, OnnxError> {
    let known: Vec<&str> = graph
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    let states: HashSet<&str> = options
        .states
        .iter()
        .map(|(_, output)| output.as_str())
        .collect();
    let wanted: Vec<String> = if options.outputs.is_empty() {
        let others = known.iter().filter(|name| !states.contains(**name));
        others.map(|name| (*name).to_owned()).collect()
    } else {
        options.outputs.clone()
    };
    let has: HashSet<&str> = known.iter().copied().collect();
    if let Some(name) = wanted.iter().find(|name| !has.contains(name.as_str())) {
        let reason = format!("is no output of the graph; it has {known:?}");
        return Err(OnnxError::new(&format!("output {name:?}"), reason));
    }
    if wanted.is_empty() {
        return Err(OnnxError::new("graph", "has no output besides states"));
    }
    Ok(wanted)
}

fn check_states(graph: &Graph, options: &Options) -> Result<(), OnnxError> {
    let has = |list: &[Declared], name: &str| list.iter().any(|declared| declared.name == name);
    for (input, output) in &options.states {
        let place = format!("state {input:?}");
        if !has(&graph.inputs, input) {
            return Err(OnnxError::new(&place, "is no input of the graph"));
        }
        if !has(&graph.outputs, output) {
            let reason = format!("its output {output:?} is no output of the graph");
            return Err(OnnxError::new(&place, reason));
        }
    }
    Ok(())
}

/// Keeps the nodes that a wanted output or a state needs.
fn prune(graph: &mut Graph, wanted: &[String], options: &Options) {
    let states = options.states.iter().map(|(_, output)| output.clone());
    let mut needed: HashSet<String> = wanted.iter().cloned().chain(states).collect();
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|name| needed.contains(name)) {
            needed.extend(node.inputs.iter().cloned());
        }
    }
    let is_needed = |node: &Node| node.outputs.iter().any(|name| needed.contains(name));
    graph.nodes.retain(is_needed);
    // An output that nobody reads is as good as left out.
    for name in graph.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
        if !needed.contains(name) {
            name.clear();
        }
    }
    graph.constants.retain(|name, _| needed.contains(name));
}

/// How often each name is read.
fn uses(graph: &Graph, wanted: &[String], options: &Options) -> HashMap<String, usize> {
    let mut uses = HashMap::new();
    let inputs = graph.nodes.iter().flat_map(|node| &node.inputs);
    let states = options.states.iter().map(|(_, output)| output);
    for name in inputs.chain(wanted).chain(states) {
        *uses.entry(name.clone()).or_default() += 1;
    }
    uses
}

fn compile_node(
    builder: &mut Builder,
    node: &Node,
    values: &mut Values,
    folding: &mut Folding,
    graph: &Graph,
) -> Result<(), OnnxError> {
    let refuse = |reason: String| OnnxError::new(&node.place(), reason);
    let op = supported(node).map_err(refuse)?;
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for name in &node.inputs {
        // The order of the nodes makes sure that what is named is there.
        inputs.push(values.get(name).cloned());
    }
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    finite::check(node, &known_only(&inputs), |name| {
        graph.constants.contains_key(name)
    })?;
    let runs = inputs.iter().flatten().any(|value| value.known().is_none());
    let outputs = if runs {
        (op.build)(builder, node, &inputs).map_err(refuse)?
    } else {
        let outputs = folding.fold(op, node, &known_only(&inputs));
        let outputs = outputs.map_err(refuse)?;
        outputs.into_iter().map(Value::from).collect()
    };
    let count = outputs.len();
    let named = node
        .outputs
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.is_empty());
    if let Some((index, _)) = named.clone().find(|(index, _)| *index >= count) {
        return Err(refuse(format!("output {index} is not supported")));
    }
    for ((_, name), value) in named.zip(keep_named(node, outputs)) {
        values.insert(name.clone(), value);
    }
    Ok(())
}

fn keep_named(node: &Node, outputs: Vec<Value>) -> impl Iterator<Item = Value> {
    let named = node.outputs.iter().map(|name| !name.is_empty());
    let kept: Vec<Value> = outputs
        .into_iter()
        .zip(named.collect::<Vec<_>>())
        .filter_map(|(value, named)| named.then_some(value))
        .collect();
    kept.into_iter()
}

/// The operator, its version and attributes checked.
pub(super) fn supported(node: &Node) -> Result<&'static Op, String> {
    let op = ops::find(&node.domain, &node.op)
        .ok_or("the operator is not supported; docs/ONNX.md lists those that are")?;
    if node.opset < op.since {
        return Err(format!(
            "the operator is understood from operator set {} on; the file uses {}",
            op.since, node.opset
        ));
    }
    for (name, value) in &node.attributes {
        if !op.attributes.contains(&name.as_str()) {
            return Err(format!("attribute {name} is not supported"));
        }
        if let super::graph::Attribute::Other(kind) = value {
            return Err(format!(
                "attribute {name} is a {kind}, which is not supported"
            ));
        }
    }
    Ok(op)
}

/// Refuses a wanted output whose declared sizes are not those that the nodes make. A batch left open is one row. Graphs of
/// `ai.onnx.ml` are let off: skl2onnx declares a `RidgeClassifier` of one score as two, and several targets as one.
fn check_outputs(
    graph: &Graph,
    wanted: &[String],
    values: &Values,
    options: &Options,
) -> Result<(), OnnxError> {
    if graph.nodes.iter().any(|node| node.domain == "ai.onnx.ml") {
        return Ok(());
    }
    for name in wanted {
        let declared = graph.outputs.iter().find(|output| output.name == *name);
        let shape = declared.and_then(|declared| declared.shape.as_ref());
        let (Some(dims), Some(made)) = (shape, values.get(name)) else {
            continue;
        };
        let made = made.shape();
        let fits = |(dim, made): (&Dim, &usize)| match dim {
            Dim::Fixed(size) => size == made,
            Dim::Named(name) => options.dims.get(name).is_none_or(|size| size == made),
            Dim::Unknown => true,
        };
        if dims.len() != made.len() || !dims.iter().zip(made).all(fits) {
            let said: Vec<String> = dims.iter().map(ToString::to_string).collect();
            let said = said.join(", ");
            let reason = format!("is declared as [{said}]; the nodes make {made:?} of one row");
            return Err(OnnxError::new(&format!("output {name:?}"), reason));
        }
    }
    Ok(())
}

/// The ports, and where their numbers come from.
fn ports(
    builder: &mut Builder,
    wanted: &[String],
    values: &Values,
) -> Result<(Vec<Port>, Vec<Give>), OnnxError> {
    let (mut ports, mut gives) = (Vec::new(), Vec::new());
    let mut at = 0;
    for name in wanted {
        let refuse = |reason: String| OnnxError::new(&format!("output {name:?}"), reason);
        let value = values
            .get(name)
            .ok_or_else(|| refuse("nothing makes it".to_owned()))?;
        let run = match value {
            Value::Run(run) => run.clone(),
            Value::Known(_) => builder.in_arena(value).map_err(refuse)?,
        };
        let (run, classes, kind) = port_of(builder, run).map_err(refuse)?;
        let end = at + run.len();
        if end > MAX_ROW {
            return Err(refuse(format!("brings the row over {MAX_ROW} floats")));
        }
        ports.push(Port {
            name: name.clone(),
            range: at..end,
            classes,
            kind,
        });
        gives.push(Give {
            from: run.at,
            len: run.len(),
        });
        at = end;
    }
    share_classes(&mut ports);
    Ok((ports, gives))
}

type Classes = Option<Arc<[String]>>;

fn port_of(builder: &mut Builder, run: Run) -> Result<(Run, Classes, PortKind), String> {
    match &run.labels {
        // An index of a class stands as it is; several of them are numbers again.
        Some(labels) if run.len() == 1 => {
            let names = labels.names();
            Ok((run, Some(names), PortKind::Class))
        }
        Some(_) => Ok((builder.plain(&run)?, None, PortKind::Values)),
        None if run.chosen && run.len() == 1 && run.ty == Type::Int => {
            Ok((run, None, PortKind::Class))
        }
        None => {
            let names = run.names.clone();
            Ok((run, names, PortKind::Values))
        }
    }
}

/// Probabilities without names take those of the label beside them.
fn share_classes(ports: &mut [Port]) {
    let mut named = ports
        .iter()
        .filter(|port| port.kind == PortKind::Class)
        .filter_map(|port| port.classes.clone());
    let Some(classes) = named.next().filter(|_| named.next().is_none()) else {
        return;
    };
    for port in ports.iter_mut() {
        if port.classes.is_none() && port.range.len() == classes.len() {
            port.classes = Some(Arc::clone(&classes));
        }
    }
}

/// Where each state's next numbers come from, in the order of the state.
fn states(
    builder: &mut Builder,
    sources: &[Source],
    values: &Values,
    options: &Options,
) -> Result<Vec<Give>, OnnxError> {
    let mut gives = Vec::new();
    for (input, output) in &options.states {
        let refuse = |reason: String| OnnxError::new(&format!("state {input:?}"), reason);
        let value = values
            .get(output)
            .ok_or_else(|| refuse(format!("nothing makes {output:?}")))?;
        let run = builder.in_arena(value).map_err(refuse)?;
        let source = sources.iter().find(|source| source.name == *input);
        let expected = source.map(|source| source.value.len());
        if expected != Some(run.len()) {
            let shape = source.map(|source| source.value.shape.clone());
            return Err(refuse(format!(
                "has the shape {:?}, its output {output:?} {:?}",
                shape.unwrap_or_default(),
                run.shape
            )));
        }
        gives.push(Give {
            from: run.at,
            len: run.len(),
        });
    }
    Ok(gives)
}

/// Whether a declared shape says anything.
pub(super) fn dims(declared: &Declared) -> &[Dim] {
    declared.shape.as_deref().unwrap_or(&[])
}
