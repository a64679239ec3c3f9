//! Categories: `OneHotEncoder` and `CategoryMapper`.
//!
//! A category that a row computes as a label is an index already; a number is cut to a whole one and looked up.

use std::collections::HashMap;

use super::super::graph::Node;
use super::super::tensor::{Data, Tensor, Type, checked_len};
use super::super::value::{Builder, Labels, Step, Value, arg, input};
use super::labels::{build_encoder, check_key, eval_encoder};
use super::{Op, noted, op};

/// The categories of a node, in order; of one that is there twice, the last counts, as in ONNX Runtime.
enum Categories<'n> {
    Ints(HashMap<i64, usize>),
    Texts(HashMap<&'n str, usize>),
}

impl<'n> Categories<'n> {
    /// With their number.
    fn of(node: &'n Node) -> Result<(Self, usize), String> {
        let (ints, texts) = (node.ints("cats_int64s")?, node.texts("cats_strings")?);
        if ints.is_empty() == texts.is_empty() {
            return Err("either cats_int64s or cats_strings names the categories".to_owned());
        }
        let places = 0..ints.len().max(texts.len());
        let count = places.len();
        Ok(if texts.is_empty() {
            (
                Self::Ints(ints.iter().copied().zip(places).collect()),
                count,
            )
        } else {
            let texts = texts.iter().map(String::as_str);
            (Self::Texts(texts.zip(places).collect()), count)
        })
    }

    fn of_int(&self, value: i64) -> Option<usize> {
        match self {
            Self::Ints(places) => places.get(&value).copied(),
            Self::Texts(_) => None,
        }
    }

    fn of_text(&self, text: &str) -> Option<usize> {
        match self {
            Self::Ints(_) => None,
            Self::Texts(places) => places.get(text).copied(),
        }
    }

    fn fits(&self, is_text: bool) -> Result<(), String> {
        match (self, is_text) {
            (Self::Ints(_), false) | (Self::Texts(_), true) => Ok(()),
            (Self::Ints(_), true) => Err("cats_int64s for an input of strings".to_owned()),
            (Self::Texts(_), false) => Err("cats_strings for an input of numbers".to_owned()),
        }
    }
}

/// What a value outside the categories gives: zeros, or NaN where the operator would fail, so that the row is refused.
fn unknown(node: &Node) -> Result<f32, String> {
    Ok(if node.flag("zeros", true)? {
        0.0
    } else {
        f32::NAN
    })
}

fn hot_shape(shape: &[usize], count: usize) -> Result<Vec<usize>, String> {
    let mut shape = shape.to_vec();
    shape.push(count);
    checked_len(&shape)?;
    Ok(shape)
}

fn eval_hot(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (categories, count) = Categories::of(node)?;
    categories.fits(x.ty == Type::Text)?;
    let shape = hot_shape(&x.shape, count)?;
    let places: Vec<_> = match &x.data {
        Data::Texts(texts) => texts.iter().map(|text| categories.of_text(text)).collect(),
        Data::Numbers(numbers) => {
            let place = |number: &f64| {
                let whole = (!number.is_nan()).then(|| number.trunc() as i64);
                categories.of_int(whole?)
            };
            numbers.iter().map(place).collect()
        }
    };
    let otherwise = f64::from(unknown(node)?);
    let hot = places.iter().flat_map(|place| {
        (0..count).map(move |i| match place {
            Some(place) => f64::from(u8::from(i == *place)),
            None => otherwise,
        })
    });
    Ok(vec![Tensor::numbers(Type::Float, shape, hot.collect())])
}

fn build_hot(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let Value::Run(x) = input(inputs, 0)? else {
        return Err("input 0 is a constant".to_owned());
    };
    let (categories, count) = Categories::of(node)?;
    categories.fits(x.ty == Type::Text)?;
    let found: Vec<(f32, usize)> = match (x.labels.as_deref(), &categories) {
        (Some(Labels::Ints(own)), _) => {
            let place = |(at, value): (usize, &i64)| Some((at as f32, categories.of_int(*value)?));
            own.iter().enumerate().filter_map(place).collect()
        }
        (Some(Labels::Texts(own)), _) => {
            let place = |(at, text): (usize, &String)| Some((at as f32, categories.of_text(text)?));
            own.iter().enumerate().filter_map(place).collect()
        }
        (None, Categories::Ints(places)) => {
            places.keys().try_for_each(|key| check_key(*key as f64))?;
            let places = places.iter();
            places.map(|(key, place)| (*key as f32, *place)).collect()
        }
        (None, Categories::Texts(_)) => return Err("strings that rows compute".to_owned()),
    };
    let out = builder.fresh(Type::Float, hot_shape(&x.shape, count)?)?;
    let mut keys = found;
    keys.sort_by(|a, b| a.0.total_cmp(&b.0));
    builder.push(Hot {
        keys,
        count,
        unknown: unknown(node)?,
        from: x.at,
        at: out.at,
        len: x.len(),
    });
    Ok(vec![out.into()])
}

/// For each number a row of zeros with a one at its category.
struct Hot {
    /// Whole numbers and their categories, rising.
    keys: Vec<(f32, usize)>,
    count: usize,
    unknown: f32,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for Hot {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let out = out.chunks_exact_mut(self.count).take(self.len);
        for (out, value) in out.zip(&below[self.from..]) {
            let whole = value.trunc();
            let at = self.keys.partition_point(|(key, _)| *key < whole);
            match self.keys.get(at) {
                Some((key, place)) if *key == whole => {
                    out.fill(0.0);
                    out[*place] = 1.0;
                }
                _ => out.fill(self.unknown),
            }
        }
    }
}

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op(
        "CategoryMapper",
        1,
        &[
            "cats_int64s",
            "cats_strings",
            "default_int64",
            "default_string",
        ],
        eval_encoder,
        build_encoder,
    ),
    noted(
        "OneHotEncoder",
        1,
        &["cats_int64s", "cats_strings", "zeros"],
        "with zeros = 0, a row with a value outside the categories is answered as failed",
        eval_hot,
        build_hot,
    ),
];
