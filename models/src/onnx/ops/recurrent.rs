//! GRU, LSTM and RNN over a sequence, in one or both directions.
//!
//! The cells are those of the crate's kernels where they have the same form; a GRU that resets before its matrix and the plain RNN
//! are here. The reference is written from the equations of the ONNX operators.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, check_work};
use super::super::value::{Builder, Run, Step, Value, arena_input, arg, constant, maybe, optional};
use super::{Op, noted};
use crate::kernels::{Gru, Lstm};
use crate::numerics::{self, sigmoid, tanh};

/// What a node says, checked against the shapes.
struct Sizes {
    directions: usize,
    /// Direction by direction: whether it runs from the end.
    reversed: Vec<bool>,
    length: usize,
    inputs: usize,
    hidden: usize,
    batch_first: bool,
    /// Multiplications.
    work: usize,
}

impl Sizes {
    fn of(
        node: &Node,
        x: &[usize],
        w: &Tensor,
        r: &Tensor,
        b: Option<&Tensor>,
    ) -> Result<Self, String> {
        let gates = gates(node);
        let reversed = match node.text("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(format!("attribute direction is {other:?}")),
        };
        let batch_first = node.flag("layout", false)?;
        let (length, batch, inputs) = match (x, batch_first) {
            ([length, batch, inputs], false) | ([batch, length, inputs], true) => {
                (*length, *batch, *inputs)
            }
            _ => return Err(format!("shape {x:?} is no sequence of rows")),
        };
        let hidden = usize::try_from(node.int("hidden_size", 0)?).unwrap_or(0);
        let directions = reversed.len();
        let wide = gates.saturating_mul(hidden);
        let fits = hidden > 0
            && w.shape == [directions, wide, inputs]
            && r.shape == [directions, wide, hidden]
            && b.is_none_or(|b| b.shape == [directions, 2 * wide]);
        if batch != 1 || length == 0 || !fits {
            return Err(format!(
                "weights {:?} and {:?} for hidden_size {hidden} over a sequence of shape {x:?} (one row has one batch entry)",
                w.shape, r.shape
            ));
        }
        let work = check_work(&[length, directions, wide, inputs + hidden])?;
        refuse_variants(node, directions)?;
        Ok(Self {
            directions,
            reversed,
            length,
            inputs,
            hidden,
            batch_first,
            work,
        })
    }

    fn shapes(&self) -> [Vec<usize>; 2] {
        let Self {
            directions,
            length,
            hidden,
            ..
        } = *self;
        if self.batch_first {
            [
                vec![1, length, directions, hidden],
                vec![1, directions, hidden],
            ]
        } else {
            [
                vec![length, directions, 1, hidden],
                vec![directions, 1, hidden],
            ]
        }
    }
}

fn gates(node: &Node) -> usize {
    match node.op.as_str() {
        "GRU" => 3,
        "LSTM" => 4,
        _ => 1,
    }
}

fn refuse_variants(node: &Node, directions: usize) -> Result<(), String> {
    for (name, otherwise) in [("clip", 0.0)] {
        if node.has(name) && node.float(name, otherwise)? != otherwise {
            return Err(format!("attribute {name} is not supported"));
        }
    }
    if node.flag("input_forget", false)? {
        return Err("attribute input_forget is not supported".to_owned());
    }
    let usual: &[&str] = match node.op.as_str() {
        "GRU" => &["Sigmoid", "Tanh"],
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        _ => &["Tanh"],
    };
    let given = node.texts("activations")?;
    let all = usual.repeat(directions);
    let relu = node.op == "RNN" && given.iter().all(|name| name == "Relu");
    if !given.is_empty() && !relu && given != all {
        return Err(format!("activations {given:?} are not supported"));
    }
    Ok(())
}

/// Of one direction, as the file has them; the biases of input and hidden state apart.
struct Part {
    w: Vec<f64>,
    r: Vec<f64>,
    b: Vec<f64>,
}

fn parts(sizes: &Sizes, w: &Tensor, r: &Tensor, b: Option<&Tensor>) -> Result<Vec<Part>, String> {
    let (ws, rs) = (w.values()?, r.values()?);
    let wide = w.shape[1];
    let bias = match b {
        Some(b) => b.values()?.to_vec(),
        None => vec![0.0; sizes.directions * 2 * wide],
    };
    let of = |values: &[f64], direction: usize| {
        let each = values.len() / sizes.directions;
        values[direction * each..(direction + 1) * each].to_vec()
    };
    let part = |direction| Part {
        w: of(ws, direction),
        r: of(rs, direction),
        b: of(&bias, direction),
    };
    Ok((0..sizes.directions).map(part).collect())
}

/// One cell as a step runs it.
enum Cell {
    Gru(Gru),
    /// `linear_before_reset = 0`.
    GruBefore(Plain),
    Lstm(Lstm),
    Rnn(Plain, bool),
}

/// Weights input-major, the gates side by side.
struct Plain {
    w: Vec<f32>,
    r: Vec<f32>,
    /// Both biases added.
    b: Vec<f32>,
    hidden: usize,
}

impl Plain {
    fn new(part: &Part, inputs: usize, hidden: usize) -> Self {
        let floats = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let wide = part.b.len() / 2;
        let (input, state) = part.b.split_at(wide);
        Self {
            w: crate::kernels::transposed(&floats(&part.w), inputs, wide),
            r: crate::kernels::transposed(&floats(&part.r), hidden, wide),
            b: input
                .iter()
                .zip(state)
                .map(|(a, b)| (a + b) as f32)
                .collect(),
            hidden,
        }
    }

    /// `h` becomes `f(W x + R h + b)`.
    fn rnn(&self, relu: bool, h: &mut [f32], x: &[f32], scratch: &mut [f32]) {
        let (a, b) = scratch.split_at_mut(self.hidden);
        numerics::dense(&self.w, &self.b, x, a);
        numerics::dense(&self.r, a, h, &mut b[..self.hidden]);
        for (h, sum) in h.iter_mut().zip(b.iter()) {
            *h = if relu { sum.max(0.0) } else { tanh(*sum) };
        }
    }

    /// Gates z, r, h; the reset before the matrix of the hidden state. Scratch: 9 times the hidden state.
    fn gru(&self, h: &mut [f32], x: &[f32], scratch: &mut [f32]) {
        let n = self.hidden;
        let (from_x, rest) = scratch.split_at_mut(3 * n);
        let (gates, new) = rest.split_at_mut(3 * n);
        let (reset, new) = new.split_at_mut(n);
        let (z, new) = new.split_at_mut(n);
        numerics::dense(&self.w, &self.b, x, from_x);
        numerics::dense(&self.r, from_x, h, gates);
        for j in 0..n {
            z[j] = sigmoid(gates[j]);
            reset[j] = sigmoid(gates[n + j]) * h[j];
        }
        // Of this product only the last third is wanted; summed along the hidden state one by one, as everywhere.
        new[..n].copy_from_slice(&from_x[2 * n..]);
        for (i, reset) in reset.iter().enumerate() {
            let row = &self.r[(3 * i + 2) * n..(3 * i + 3) * n];
            for (sum, weight) in new.iter_mut().zip(row) {
                *sum += weight * reset;
            }
        }
        for j in 0..n {
            let new = tanh(new[j]);
            h[j] = z[j].mul_add(h[j] - new, new);
        }
    }
}

impl Cell {
    fn new(node: &Node, sizes: &Sizes, part: &Part) -> Result<Self, String> {
        let plain = || Plain::new(part, sizes.inputs, sizes.hidden);
        let ordered = |order: &[usize]| {
            let blocks = |values: &[f64]| {
                let each = values.len() / order.len();
                let block = |gate: &usize| {
                    values[gate * each..(gate + 1) * each]
                        .iter()
                        .map(|v| *v as f32)
                };
                order.iter().flat_map(block).collect::<Vec<f32>>()
            };
            let (input, state) = part.b.split_at(part.b.len() / 2);
            (
                blocks(&part.w),
                blocks(&part.r),
                blocks(input),
                blocks(state),
            )
        };
        Ok(match node.op.as_str() {
            "GRU" if node.flag("linear_before_reset", false)? => {
                // ONNX has z, r, h; the kernel r, z, n.
                let (w, r, wb, rb) = ordered(&[1, 0, 2]);
                Self::Gru(Gru::new(&w, &r, &wb, &rb))
            }
            "GRU" => Self::GruBefore(plain()),
            "LSTM" => {
                // ONNX has i, o, f, c; the kernel i, f, g, o.
                let (w, r, wb, rb) = ordered(&[0, 2, 3, 1]);
                Self::Lstm(Lstm::new(&w, &r, &wb, &rb))
            }
            _ => Self::Rnn(
                plain(),
                node.texts("activations")?
                    .first()
                    .is_some_and(|f| f == "Relu"),
            ),
        })
    }

    fn scratch_len(&self) -> usize {
        match self {
            Self::Gru(cell) => cell.scratch_len(),
            Self::Lstm(cell) => cell.scratch_len(),
            Self::GruBefore(plain) => 9 * plain.hidden,
            Self::Rnn(plain, _) => 2 * plain.hidden,
        }
    }

    fn step(&self, h: &mut [f32], c: &mut [f32], x: &[f32], scratch: &mut [f32]) {
        match self {
            Self::Gru(cell) => cell.step(h, x, scratch),
            Self::Lstm(cell) => cell.step(h, c, x, scratch),
            Self::GruBefore(plain) => plain.gru(h, x, scratch),
            Self::Rnn(plain, relu) => plain.rnn(*relu, h, x, scratch),
        }
    }
}

fn build(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let weight = |index| {
        constant(inputs, index, "a weight")?.ok_or_else(|| format!("input {index} is missing"))
    };
    let (w, r, b) = (weight(1)?, weight(2)?, constant(inputs, 3, "the bias")?);
    let x = arena_input(builder, inputs, 0)?;
    let sizes = Sizes::of(node, &x.shape, w, r, b)?;
    check_lengths(constant(inputs, 4, "the length")?, &sizes)?;
    if optional(inputs, 7).is_some() {
        return Err("peepholes are not supported".to_owned());
    }
    let mut start = |index| -> Result<Option<usize>, String> {
        if optional(inputs, index).is_none() {
            return Ok(None);
        }
        let start = arena_input(builder, inputs, index)?;
        check_state(&start.shape, &sizes)?;
        Ok(Some(start.at))
    };
    let starts = [start(5)?, start(6)?];
    let parts = parts(&sizes, w, r, b)?;
    let cells = parts
        .iter()
        .map(|part| Cell::new(node, &sizes, part))
        .collect::<Result<Vec<_>, _>>()?;
    let state = sizes.directions * sizes.hidden;
    let all = sizes.length * state;
    let scratch = cells.iter().map(Cell::scratch_len).max().unwrap_or(0);
    let at = builder.reserve(all + 2 * state + scratch)?;
    let [shape, last] = sizes.shapes();
    let run = |shape: Vec<usize>, at: usize| Run {
        ty: Type::Float,
        shape,
        at,
        labels: None,
        names: None,
        chosen: false,
        owned: true,
    };
    let outputs = vec![
        run(shape, at).into(),
        run(last.clone(), at + all).into(),
        run(last, at + all + state).into(),
    ];
    builder.push(Recurrent {
        cells,
        sizes,
        x: x.at,
        starts,
        at,
    });
    Ok(outputs)
}

fn check_state(shape: &[usize], sizes: &Sizes) -> Result<(), String> {
    let [_, expected] = sizes.shapes();
    if shape != expected {
        return Err(format!(
            "an initial state of shape {shape:?} where {expected:?} is expected"
        ));
    }
    Ok(())
}

fn check_lengths(lengths: Option<&Tensor>, sizes: &Sizes) -> Result<(), String> {
    match lengths {
        Some(lengths) if lengths.scalar()? as usize != sizes.length => {
            Err("a sequence shorter than its input is not supported".to_owned())
        }
        _ => Ok(()),
    }
}

/// From `at`: every hidden state, the last ones, the cells, scratch.
struct Recurrent {
    cells: Vec<Cell>,
    sizes: Sizes,
    x: usize,
    /// Where the initial hidden state and cell lie; zeros without.
    starts: [Option<usize>; 2],
    at: usize,
}

impl Step for Recurrent {
    fn run(&self, arena: &mut [f32]) {
        let Sizes {
            directions,
            length,
            inputs,
            hidden,
            ..
        } = self.sizes;
        let (below, out) = arena.split_at_mut(self.at);
        let state = directions * hidden;
        let (all, rest) = out.split_at_mut(length * state);
        let (h, rest) = rest.split_at_mut(state);
        let (c, scratch) = rest.split_at_mut(state);
        for (place, start) in [&mut *h, &mut *c].into_iter().zip(self.starts) {
            match start {
                Some(at) => place.copy_from_slice(&below[at..at + state]),
                None => place.fill(0.0),
            }
        }
        for (direction, cell) in self.cells.iter().enumerate() {
            let own = direction * hidden..(direction + 1) * hidden;
            let (h, c) = (&mut h[own.clone()], &mut c[own]);
            for step in 0..length {
                let t = if self.sizes.reversed[direction] {
                    length - 1 - step
                } else {
                    step
                };
                let x = &below[self.x + t * inputs..][..inputs];
                cell.step(h, c, x, scratch);
                all[t * state + direction * hidden..][..hidden].copy_from_slice(h);
            }
        }
    }
}

fn work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let (x, w, r) = (arg(inputs, 0)?, arg(inputs, 1)?, arg(inputs, 2)?);
    Ok(Sizes::of(node, &x.shape, w, r, maybe(inputs, 3))?.work)
}

fn eval(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (x, w, r, b) = (
        arg(inputs, 0)?,
        arg(inputs, 1)?,
        arg(inputs, 2)?,
        maybe(inputs, 3),
    );
    let sizes = Sizes::of(node, &x.shape, w, r, b)?;
    check_lengths(maybe(inputs, 4), &sizes)?;
    if maybe(inputs, 7).is_some() {
        return Err("peepholes are not supported".to_owned());
    }
    let state = sizes.directions * sizes.hidden;
    let start = |index| match maybe(inputs, index) {
        None => Ok(vec![0.0; state]),
        Some(tensor) => {
            check_state(&tensor.shape, &sizes).and_then(|()| Ok(tensor.values()?.to_vec()))
        }
    };
    let (mut h, mut c) = (start(5)?, start(6)?);
    let mut all = vec![0.0; sizes.length * state];
    for (direction, part) in parts(&sizes, w, r, b)?.iter().enumerate() {
        let own = direction * sizes.hidden..(direction + 1) * sizes.hidden;
        for step in 0..sizes.length {
            let t = if sizes.reversed[direction] {
                sizes.length - 1 - step
            } else {
                step
            };
            let x = &x.values()?[t * sizes.inputs..(t + 1) * sizes.inputs];
            let (new_h, new_c) = exact_cell(node, part, x, &h[own.clone()], &c[own.clone()])?;
            h[own.clone()].copy_from_slice(&new_h);
            c[own.clone()].copy_from_slice(&new_c);
            all[t * state + direction * sizes.hidden..][..sizes.hidden].copy_from_slice(&new_h);
        }
    }
    let [shape, last] = sizes.shapes();
    Ok(vec![
        Tensor::numbers(x.ty, shape, all),
        Tensor::numbers(x.ty, last.clone(), h),
        Tensor::numbers(x.ty, last, c),
    ])
}

/// One step from the equations of the operators.
fn exact_cell(
    node: &Node,
    part: &Part,
    x: &[f64],
    h: &[f64],
    c: &[f64],
) -> Result<(Vec<f64>, Vec<f64>), String> {
    let n = h.len();
    let dot = |row: &[f64], by: &[f64]| row.iter().zip(by).map(|(a, b)| a * b).sum::<f64>();
    let wide = part.b.len() / 2;
    let from_x = |i: usize| dot(&part.w[i * x.len()..(i + 1) * x.len()], x) + part.b[i];
    let from_h = |i: usize, h: &[f64]| dot(&part.r[i * n..(i + 1) * n], h) + part.b[wide + i];
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
    let gate = |k: usize| each(&|j| logistic(from_x(k * n + j) + from_h(k * n + j, h)));
    match node.op.as_str() {
        "GRU" => {
            let (z, r) = (gate(0), gate(1));
            let reset = each(&|j| r[j] * h[j]);
            let late = node.flag("linear_before_reset", false)?;
            let new = each(&|j| {
                let i = 2 * n + j;
                (from_x(i)
                    + if late {
                        r[j] * from_h(i, h)
                    } else {
                        from_h(i, &reset)
                    })
                .tanh()
            });
            Ok((each(&|j| (1.0 - z[j]) * new[j] + z[j] * h[j]), c.to_vec()))
        }
        "LSTM" => {
            let (i, o, f) = (gate(0), gate(1), gate(2));
            let g = each(&|j| (from_x(3 * n + j) + from_h(3 * n + j, h)).tanh());
            let cell = each(&|j| f[j] * c[j] + i[j] * g[j]);
            Ok((each(&|j| o[j] * cell[j].tanh()), cell))
        }
        _ => {
            let relu = node
                .texts("activations")?
                .first()
                .is_some_and(|f| f == "Relu");
            let sum = |j: usize| from_x(j) + from_h(j, h);
            let new = each(&|j| if relu { sum(j).max(0.0) } else { sum(j).tanh() });
            Ok((new, c.to_vec()))
        }
    }
}

const ATTRIBUTES: &[&str] = &[
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "input_forget",
    "layout",
    "linear_before_reset",
    "output_sequence",
];

const NOTE: &str =
    "constant weights; usual activations (RNN also Relu), no clip, no peepholes, whole sequences";

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted("GRU", 7, ATTRIBUTES, NOTE, eval, build).costing(work),
    noted("LSTM", 7, ATTRIBUTES, NOTE, eval, build).costing(work),
    noted("RNN", 7, ATTRIBUTES, NOTE, eval, build).costing(work),
];
