//! `Einsum`: a sum of products of one or two tensors, said by letters.
//!
//! Both sides are brought into the order of a product of matrices, `[batch, rows, terms]` and `[batch, terms, columns]`, multiplied
//! as `MatMul` does, and the result is brought into the order that is asked for. What lies in that order already is not moved.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, checked_len, strides, walk};
use super::super::value::{Builder, Run, Value, arg, input};
use super::dense::{Product, multiply};
use super::moves::{Pick, places, take_all};
use super::{Op, noted};

/// The letters of both sides and of the result.
struct Letters {
    sides: [Vec<char>; 2],
    out: Vec<char>,
}

impl Letters {
    fn of(node: &Node, count: usize) -> Result<Self, String> {
        let text = node.text("equation", "")?;
        let refuse = |reason: &str| Err(format!("attribute equation {text:?}: {reason}"));
        if text.contains("...") {
            return refuse("an ellipsis is not supported; write each dimension as a letter");
        }
        let plain: String = text.chars().filter(|letter| *letter != ' ').collect();
        let (left, right) = match plain.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (plain.as_str(), None),
        };
        let mut sides: Vec<Vec<char>> =
            left.split(',').map(|side| side.chars().collect()).collect();
        if sides.len() != count || !(1..=2).contains(&count) {
            return refuse("one or two tensors are supported, each with its letters");
        }
        sides.resize(2, Vec::new());
        let [a, b] = <[_; 2]>::try_from(sides).unwrap_or_default();
        let all: Vec<char> = a.iter().chain(&b).copied().collect();
        let out: Vec<char> = match right {
            Some(right) => right.chars().collect(),
            None => {
                // Those that stand once, in the order of the alphabet.
                let mut once = all.clone();
                once.retain(|letter| all.iter().filter(|other| *other == letter).count() == 1);
                once.sort_unstable();
                once
            }
        };
        if all.iter().any(|letter| !letter.is_ascii_alphabetic()) {
            return refuse("only letters name dimensions");
        }
        let twice = (1..out.len()).any(|i| out[..i].contains(&out[i]));
        if twice || out.iter().any(|letter| !all.contains(letter)) {
            return refuse("each letter of the result stands there once, and on the left");
        }
        Ok(Self { sides: [a, b], out })
    }
}

/// One tensor brought into the order of a product: the size of each letter there, and the step of its own places along it.
struct Side {
    sizes: Vec<usize>,
    steps: Vec<usize>,
}

impl Side {
    /// A letter that the tensor has not, and a dimension of 1, is stretched; one it has twice is its diagonal.
    fn of(letters: &[char], shape: &[usize], order: &[(char, usize)]) -> Self {
        let own = strides(shape);
        let step = |wanted: char| {
            let named = letters.iter().zip(shape).zip(&own);
            let named = named.filter(|((letter, size), _)| **letter == wanted && **size != 1);
            named.map(|(_, step)| step).sum()
        };
        Self {
            sizes: order.iter().map(|(_, size)| *size).collect(),
            steps: order.iter().map(|(letter, _)| step(*letter)).collect(),
        }
    }

    /// The tensor's numbers, in that order.
    fn arranged(&self, x: &Tensor, shape: Vec<usize>) -> Tensor {
        take_all(x, shape, walk(&self.sizes, &self.steps, 0))
    }
}

/// The whole of it.
struct Contraction {
    sides: [Side; 2],
    /// As the product has it, `[batch, rows, columns]`.
    result: Side,
    product: Product,
    shape: Vec<usize>,
}

fn len_of(letters: &[(char, usize)]) -> usize {
    letters.iter().map(|(_, size)| size).product()
}

impl Contraction {
    fn of(letters: &Letters, shapes: [&[usize]; 2]) -> Result<Self, String> {
        let sizes = sizes(letters, shapes)?;
        let [a, b] = &letters.sides;
        let with = |in_a: bool, in_b: bool| -> Vec<(char, usize)> {
            let is = |(letter, _): &&(char, usize)| {
                letters.out.contains(letter)
                    && (a.contains(letter), b.contains(letter)) == (in_a, in_b)
            };
            sizes.iter().filter(is).copied().collect()
        };
        let (batch, rows, columns) = (with(true, true), with(true, false), with(false, true));
        let summed = sizes
            .iter()
            .filter(|(letter, _)| !letters.out.contains(letter));
        let summed: Vec<_> = summed.copied().collect();
        let lens = [&batch, &rows, &summed, &columns].map(|part| len_of(part));
        let sides = [[lens[0], lens[1], lens[2]], [lens[0], lens[2], lens[3]]];
        sides
            .iter()
            .try_for_each(|side| checked_len(side).map(drop))?;
        let result = [&batch[..], &rows, &columns].concat();
        let shape_of = |order: &[(char, usize)]| order.iter().map(|(_, size)| *size).collect();
        let given: Vec<char> = result.iter().map(|(letter, _)| *letter).collect();
        let size = |letter: &char| sizes.iter().find(|(own, _)| own == letter).copied();
        let asked: Vec<_> = letters.out.iter().filter_map(size).collect();
        let given_shape: Vec<usize> = shape_of(&result);
        Ok(Self {
            product: Product::of(&sides[0], &sides[1])?,
            sides: [
                Side::of(a, shapes[0], &[&batch[..], &rows, &summed].concat()),
                Side::of(b, shapes[1], &[&batch[..], &summed, &columns].concat()),
            ],
            result: Side::of(&given, &given_shape, &asked),
            shape: shape_of(&asked),
        })
    }

    fn side_shape(&self, side: usize) -> Vec<usize> {
        let Product {
            rows,
            terms,
            columns,
            ..
        } = self.product;
        let batch = self.product.shape[0];
        if side == 0 {
            vec![batch, rows, terms]
        } else {
            vec![batch, terms, columns]
        }
    }
}

/// Every letter with its size, in the order in which they are named.
fn sizes(letters: &Letters, shapes: [&[usize]; 2]) -> Result<Vec<(char, usize)>, String> {
    let mut sizes: Vec<(char, usize)> = Vec::new();
    for (side, shape) in letters.sides.iter().zip(shapes) {
        if side.len() != shape.len() {
            return Err(format!(
                "{} letters for a tensor of shape {shape:?}",
                side.len()
            ));
        }
        for (letter, size) in side.iter().zip(shape) {
            match sizes.iter_mut().find(|(own, _)| own == letter) {
                None if *size == 0 => return Err(format!("a tensor of shape {shape:?}")),
                None => sizes.push((*letter, *size)),
                Some((_, own)) if *own == 1 => *own = *size,
                Some((_, own)) if *own == *size || *size == 1 => {}
                Some(_) => {
                    return Err(format!(
                        "shapes {:?} and {:?} differ in the size of {letter}",
                        shapes[0], shapes[1]
                    ));
                }
            }
        }
    }
    Ok(sizes)
}

fn one() -> Tensor {
    Tensor::numbers(Type::Float, Vec::new(), vec![1.0])
}

fn contraction(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Contraction, String> {
    let letters = Letters::of(node, inputs.len())?;
    let first = &arg(inputs, 0)?.shape;
    match inputs {
        [_] => Contraction::of(&letters, [first, &[]]),
        _ => Contraction::of(&letters, [first, &arg(inputs, 1)?.shape]),
    }
}

fn eval(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let sum = contraction(node, inputs)?;
    let (a, one) = (arg(inputs, 0)?, one());
    let b = if inputs.len() == 1 {
        &one
    } else {
        arg(inputs, 1)?
    };
    let xs = sum.sides[0].arranged(a, sum.side_shape(0));
    let ys = sum.sides[1].arranged(b, sum.side_shape(1));
    let values = sum.product.exact(xs.values()?, ys.values()?);
    let given = Tensor::numbers(a.ty, sum.product.shape.clone(), values);
    Ok(vec![sum.result.arranged(&given, sum.shape.clone())])
}

fn work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    Ok(contraction(node, inputs)?.product.work)
}

fn build(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let mut letters = Letters::of(node, inputs.len())?;
    let mut a = input(inputs, 0)?.clone();
    let mut b = match inputs {
        [_] => one().into(),
        _ => input(inputs, 1)?.clone(),
    };
    if a.known().is_some() {
        // A constant on the right becomes a layer's weights.
        letters.sides.swap(0, 1);
        std::mem::swap(&mut a, &mut b);
    }
    let sum = Contraction::of(&letters, [a.shape(), b.shape()])?;
    let a = arranged(builder, &a, &sum.sides[0], sum.side_shape(0))?;
    let b = arranged(builder, &b, &sum.sides[1], sum.side_shape(1))?;
    let Contraction {
        result,
        product,
        shape,
        ..
    } = sum;
    let run = if inputs.len() == 1 && product.terms == 1 {
        // Nothing is summed: the numbers only change their places.
        let given = vec![product.shape[0], product.rows, product.columns];
        builder.in_arena(&a)?.viewed(given)
    } else {
        multiply(builder, product, &a, &b)?
    };
    Ok(vec![moved(builder, &run, &result, shape)?.into()])
}

/// A value in the order of a product.
fn arranged(
    builder: &mut Builder,
    value: &Value,
    side: &Side,
    shape: Vec<usize>,
) -> Result<Value, String> {
    Ok(match value {
        Value::Known(tensor) => side.arranged(tensor, shape).into(),
        Value::Run(run) => {
            let run = builder.plain(run)?;
            moved(builder, &run, side, shape)?.into()
        }
    })
}

fn moved(builder: &mut Builder, run: &Run, side: &Side, shape: Vec<usize>) -> Result<Run, String> {
    let sources = side.arranged(&places(run), shape);
    Pick::gather(builder, run.ty, &sources, 0.0)
}

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[noted(
    "Einsum",
    12,
    &["equation"],
    "one or two tensors, no ellipsis",
    eval,
    build,
)
.costing(work)];
