//! Where a graph's inputs lie in a row: one tensor, one column each, or a window of rows, and the states.
//!
//! Owns the rules for dimensions that a file leaves open: the first is the batch, one row; one that is left is what the row has.

use std::collections::BTreeMap;

use super::graph::{Declared, Dim, Graph};
use super::limits::MAX_ROW;
use super::tensor::{Tensor, Type, checked_len};
use super::value::{Builder, Run};
use super::{Layout, OnnxError, Options};

/// An input of the graph in the arena.
pub(super) struct Source {
    pub name: String,
    /// Where it begins in the row, or in the state.
    pub start: usize,
    pub is_state: bool,
    /// In which order the row's numbers are taken; `None` for the row's own.
    pub order: Option<Vec<u32>>,
    pub value: Run,
}

/// Gives each input its place.
pub(super) fn place(
    builder: &mut Builder,
    graph: &Graph,
    options: &Options,
) -> Result<Vec<Source>, OnnxError> {
    let is_state = |declared: &Declared| {
        options
            .states
            .iter()
            .any(|(input, _)| *input == declared.name)
    };
    let data: Vec<&Declared> = graph
        .inputs
        .iter()
        .filter(|input| !is_state(input))
        .collect();
    if data.is_empty() {
        return Err(OnnxError::new("graph", "has no input besides states"));
    }
    let shapes = shapes(&data, options)?;
    let mut sources = Vec::new();
    for (index, start) in starts(&data, &shapes, options)? {
        let declared = data[index];
        sources.push(source(builder, declared, &shapes[index], start, options)?);
    }
    let mut start = 0;
    for (input, _) in &options.states {
        let declared = graph.inputs.iter().find(|declared| declared.name == *input);
        // That it is there was checked before.
        let Some(declared) = declared else { continue };
        let shape = state_shape(declared, options);
        let refuse = |reason: String| OnnxError::new(&format!("state {input:?}"), reason);
        let ty = element_type(declared).map_err(refuse)?;
        let len = checked_len(&shape).map_err(refuse)?;
        if start + len > MAX_ROW {
            return Err(refuse(format!("brings the state over {MAX_ROW} floats")));
        }
        let mut value = builder.fresh(ty, shape).map_err(refuse)?;
        value.owned = false;
        sources.push(Source {
            name: input.clone(),
            start,
            is_state: true,
            order: None,
            value,
        });
        start += len;
    }
    Ok(sources)
}

fn element_type(declared: &Declared) -> Result<Type, String> {
    match declared.code {
        0 => Err("is no tensor".to_owned()),
        code => match Type::from_code(i64::from(code))? {
            Type::Text => Err("is a tensor of strings; features are numbers".to_owned()),
            ty => Ok(ty),
        },
    }
}

/// Open dimensions of a state are 1: a batch, mostly.
fn state_shape(declared: &Declared, options: &Options) -> Vec<usize> {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Named(name) => options.dims.get(name).copied().unwrap_or(1),
        Dim::Unknown => 1,
    };
    super::compile::dims(declared).iter().map(dim).collect()
}

/// The shape of every data input for one row.
fn shapes(data: &[&Declared], options: &Options) -> Result<Vec<Vec<usize>>, OnnxError> {
    let mut named: BTreeMap<String, usize> = options.dims.clone();
    let alone = data.len() == 1;
    let row = options.inputs.filter(|_| alone);
    data.iter()
        .map(|declared| {
            shape(declared, &mut named, row)
                .map_err(|reason| OnnxError::new(&format!("input {:?}", declared.name), reason))
        })
        .collect()
}

fn shape(
    declared: &Declared,
    named: &mut BTreeMap<String, usize>,
    row: Option<usize>,
) -> Result<Vec<usize>, String> {
    element_type(declared)?;
    let Some(dims) = &declared.shape else {
        return match row {
            Some(row) => Ok(vec![1, row]),
            None => Err("declares no shape".to_owned()),
        };
    };
    let is_open = |dim: &Dim, named: &BTreeMap<String, usize>| match dim {
        Dim::Fixed(_) => false,
        Dim::Named(name) => !named.contains_key(name),
        Dim::Unknown => true,
    };
    let mut shape = Vec::with_capacity(dims.len());
    let mut batch = None;
    let mut open = Vec::new();
    for (at, dim) in dims.iter().enumerate() {
        shape.push(match dim {
            Dim::Fixed(size) => *size,
            Dim::Named(name) if named.contains_key(name) => named[name],
            _ if batch.is_none() && is_open(dim, named) => {
                batch = Some(at);
                if let Dim::Named(name) = dim {
                    named.insert(name.clone(), 1);
                }
                1
            }
            _ => {
                open.push(at);
                1
            }
        });
    }
    fill_open(&mut shape, dims, &open, row)?;
    let len = checked_len(&shape)?;
    if let Some(row) = row.filter(|row| *row != len) {
        let hint = match (dims.first(), batch) {
            (Some(Dim::Fixed(size)), None) if *size > 1 && len / size == row => {
                "; its batch is fixed: export with a dynamic batch dimension or one row"
            }
            _ => "",
        };
        return Err(format!(
            "takes {len} numbers (shape {dims:?}); a row here has {row}{hint}"
        ));
    }
    Ok(shape)
}

/// A single dimension left open is what the row has left for it.
fn fill_open(
    shape: &mut [usize],
    dims: &[Dim],
    open: &[usize],
    row: Option<usize>,
) -> Result<(), String> {
    let known: usize = shape.iter().product();
    match (open, row) {
        ([], _) => Ok(()),
        ([at], Some(row)) if known > 0 && row % known == 0 => {
            shape[*at] = row / known;
            Ok(())
        }
        _ => Err(format!(
            "leaves more than the batch open (shape {dims:?}): export with fixed sizes"
        )),
    }
}

/// Which input begins where in the row: by the features' names where all inputs have one, else one after the other.
fn starts(
    data: &[&Declared],
    shapes: &[Vec<usize>],
    options: &Options,
) -> Result<Vec<(usize, usize)>, OnnxError> {
    let lens: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
    let total: usize = lens.iter().sum();
    if total > MAX_ROW {
        return Err(OnnxError::new(
            "graph",
            format!("takes rows of over {MAX_ROW} floats"),
        ));
    }
    if let Some(row) = options.inputs.filter(|row| *row != total) {
        let names: Vec<&str> = data.iter().map(|declared| declared.name.as_str()).collect();
        let remedy = if data.len() > 1 && options.states.is_empty() {
            "; what is a state goes into a folder's model.toml, under [architecture]: states = [{ input = \"h0\", output = \"hn\" }]"
        } else {
            ""
        };
        let reason =
            format!("its inputs {names:?} take {total} numbers; a row here has {row}{remedy}");
        return Err(OnnxError::new("graph", reason));
    }
    let column = |declared: &&Declared| {
        options
            .features
            .iter()
            .position(|name| *name == declared.name)
    };
    let columns: Option<Vec<usize>> = data.iter().map(column).collect();
    let single = lens.iter().all(|len| *len == 1) && options.features.len() == data.len();
    if let Some(columns) = columns.filter(|_| single) {
        return Ok(columns.into_iter().enumerate().collect());
    }
    let mut at = 0;
    let after = lens.iter().enumerate().map(|(index, len)| {
        at += len;
        (index, at - len)
    });
    Ok(after.collect())
}

fn source(
    builder: &mut Builder,
    declared: &Declared,
    shape: &[usize],
    start: usize,
    options: &Options,
) -> Result<Source, OnnxError> {
    let refuse = |reason: String| OnnxError::new(&format!("input {:?}", declared.name), reason);
    let ty = element_type(declared).map_err(refuse)?;
    let mut value = builder.fresh(ty, shape.to_vec()).map_err(refuse)?;
    value.owned = false;
    Ok(Source {
        name: declared.name.clone(),
        start,
        is_state: false,
        order: channels_first(shape, options).map_err(refuse)?,
        value,
    })
}

/// A window is rows end to end; a graph of `[1, features, window]` takes the same turned around. Where both are equal, no dimension
/// tells which it is.
fn channels_first(shape: &[usize], options: &Options) -> Result<Option<Vec<u32>>, String> {
    let [1, channels, window] = *shape else {
        return Ok(None);
    };
    let features = options.features.len();
    let turned = match options.layout {
        Some(layout) => layout == Layout::ChannelsFirst,
        None if channels == features && window == features && window > 1 => {
            return Err(format!(
                "takes {window} rows of {features} features, and its shape {shape:?} does not tell which dimension is which: say layout = \"rows_first\" ([N, window, features]) or \"channels_first\" ([N, features, window]) under [architecture]"
            ));
        }
        None => channels == features,
    };
    let from = |at: usize| (at % window * channels + at / window) as u32;
    Ok((turned && window > 1).then(|| (0..channels * window).map(from).collect()))
}

/// The input as the reference takes it.
pub(super) fn tensor(source: &Source, numbers: &[f32]) -> Tensor {
    let part = &numbers[source.start..source.start + source.value.len()];
    let at = |i: usize| match &source.order {
        Some(order) => f64::from(part[order[i] as usize]),
        None => f64::from(part[i]),
    };
    let values = (0..part.len()).map(at).collect();
    Tensor::numbers(source.value.ty, source.value.shape.clone(), values)
}
