//! Labels: `LabelEncoder` and `ZipMap`.
//!
//! A label that a row computes is an index into a list known beforehand, so encoding one label as another changes the list and
//! costs nothing at run time. Numbers are looked up.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::graph::Node;
use super::super::tensor::{Data, Tensor, Type};
use super::super::value::{Builder, Labels, Run, Step, Value, arg, input};
use super::{Op, noted};

/// One value of a key or of what it becomes.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Number(f64),
    Text(String),
}

impl Item {
    /// Equal for keys that count as equal: 0 and -0, one NaN and another.
    fn key(&self) -> (bool, u64, &str) {
        match self {
            Self::Number(number) if number.is_nan() => (true, f64::NAN.to_bits(), ""),
            Self::Number(number) => (true, (number + 0.0).to_bits(), ""),
            Self::Text(text) => (false, 0, text),
        }
    }
}

/// A table from keys to values.
struct Table {
    keys: Vec<Item>,
    values: Vec<Item>,
    otherwise: Item,
    ty: Type,
}

fn items(node: &Node, side: &str) -> Result<Option<(Vec<Item>, Type)>, String> {
    let ints = node.ints(&format!("{side}_int64s"))?;
    let floats = node.floats(&format!("{side}_floats"))?;
    let texts = node.texts(&format!("{side}_strings"))?;
    if let Some(tensor) = node.tensor(&format!("{side}_tensor"))? {
        return Ok(Some((items_of(tensor), tensor.ty)));
    }
    Ok(if !ints.is_empty() {
        Some((
            ints.iter().map(|v| Item::Number(*v as f64)).collect(),
            Type::Int,
        ))
    } else if !floats.is_empty() {
        Some((
            floats.iter().map(|v| Item::Number(f64::from(*v))).collect(),
            Type::Float,
        ))
    } else if !texts.is_empty() {
        Some((texts.iter().cloned().map(Item::Text).collect(), Type::Text))
    } else {
        None
    })
}

fn items_of(tensor: &Tensor) -> Vec<Item> {
    match &tensor.data {
        Data::Numbers(numbers) => numbers.iter().copied().map(Item::Number).collect(),
        Data::Texts(texts) => texts.iter().cloned().map(Item::Text).collect(),
    }
}

impl Table {
    fn of(node: &Node, input: Type) -> Result<Self, String> {
        if node.op == "CategoryMapper" {
            let numbers = node.ints("cats_int64s")?;
            let numbers = numbers.iter().map(|v| Item::Number(*v as f64)).collect();
            return Self::two_ways(node, "cats_strings", numbers, input);
        }
        if node.has("classes_strings") {
            // Version 1: a list of strings, and their indices.
            let count = node.texts("classes_strings")?.len();
            let indices = (0..count).map(|i| Item::Number(i as f64)).collect();
            return Self::two_ways(node, "classes_strings", indices, input);
        }
        let (keys, _) = items(node, "keys")?.ok_or("has no keys")?;
        let (values, ty) = items(node, "values")?.ok_or("has no values")?;
        if keys.len() != values.len() {
            return Err(format!("{} keys for {} values", keys.len(), values.len()));
        }
        let otherwise = match node.tensor("default_tensor")? {
            Some(tensor) => items_of(tensor)
                .into_iter()
                .next()
                .ok_or("default_tensor is empty")?,
            None => match ty {
                Type::Text => Item::Text(node.text("default_string", "_Unused")?.to_owned()),
                Type::Int => Item::Number(node.int("default_int64", -1)? as f64),
                _ => Item::Number(f64::from(node.float("default_float", -0.0)?)),
            },
        };
        Ok(Self {
            keys,
            values,
            otherwise,
            ty,
        })
    }

    /// Strings to numbers or numbers to strings, as the input says; `named` is the list of strings.
    fn two_ways(node: &Node, named: &str, numbers: Vec<Item>, input: Type) -> Result<Self, String> {
        let texts = node.texts(named)?.iter().cloned();
        let texts: Vec<_> = texts.map(Item::Text).collect();
        if texts.len() != numbers.len() || texts.is_empty() {
            return Err(format!(
                "{} strings for {} numbers",
                texts.len(),
                numbers.len()
            ));
        }
        Ok(if input == Type::Text {
            let otherwise = Item::Number(node.int("default_int64", -1)? as f64);
            Self {
                keys: texts,
                values: numbers,
                otherwise,
                ty: Type::Int,
            }
        } else {
            let otherwise = Item::Text(node.text("default_string", "_Unused")?.to_owned());
            Self {
                keys: numbers,
                values: texts,
                otherwise,
                ty: Type::Text,
            }
        })
    }

    /// What each of `keys` becomes; of a key that is in the table twice, the first counts.
    fn encode(&self, keys: &[Item]) -> Vec<Item> {
        let mut places = HashMap::with_capacity(self.keys.len());
        for (at, own) in self.keys.iter().enumerate() {
            places.entry(own.key()).or_insert(at);
        }
        let value = |key: &Item| match places.get(&key.key()) {
            Some(at) => self.values[*at].clone(),
            None => self.otherwise.clone(),
        };
        keys.iter().map(value).collect()
    }
}

fn numbers(items: &[Item]) -> Result<Vec<f64>, String> {
    let number = |item: &Item| match item {
        Item::Number(number) => Ok(*number),
        Item::Text(text) => Err(format!("{text:?} where a number is expected")),
    };
    items.iter().map(number).collect()
}

fn tensor_of(items: &[Item], ty: Type, shape: Vec<usize>) -> Result<Tensor, String> {
    if ty != Type::Text {
        return Ok(Tensor::numbers(ty, shape, numbers(items)?));
    }
    Ok(Tensor::texts(shape, texts(items)?))
}

fn texts(items: &[Item]) -> Result<Vec<String>, String> {
    let text = |item: &Item| match item {
        Item::Text(text) => Ok(text.clone()),
        Item::Number(number) => Err(format!("{number} where a string is expected")),
    };
    items.iter().map(text).collect()
}

pub(super) fn eval_encoder(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let table = Table::of(node, x.ty)?;
    let encoded = table.encode(&items_of(x));
    Ok(vec![tensor_of(&encoded, table.ty, x.shape.clone())?])
}

fn labels(items: &[Item], ty: Type) -> Result<Labels, String> {
    Ok(if ty == Type::Text {
        Labels::Texts(texts(items)?)
    } else {
        Labels::Ints(
            numbers(items)?
                .iter()
                .map(|number| *number as i64)
                .collect(),
        )
    })
}

pub(super) fn build_encoder(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let Value::Run(x) = input(inputs, 0)? else {
        return Err("input 0 is a constant".to_owned());
    };
    let table = Table::of(node, x.ty)?;
    if let Some(own) = &x.labels {
        let keys: Vec<_> = match own.as_ref() {
            Labels::Ints(values) => values.iter().map(|v| Item::Number(*v as f64)).collect(),
            Labels::Texts(texts) => texts.iter().cloned().map(Item::Text).collect(),
        };
        let encoded = table.encode(&keys);
        if !table.ty.is_float() {
            let labels = Some(Arc::new(labels(&encoded, table.ty)?));
            return Ok(vec![
                Run {
                    ty: table.ty,
                    labels,
                    owned: false,
                    ..x.clone()
                }
                .into(),
            ]);
        }
        let indices = (0..encoded.len()).map(|i| i as f64).collect();
        return look_up(builder, x, indices, &encoded, f64::NAN, table.ty);
    }
    let keys = numbers(&table.keys)?;
    if table.ty != Type::Text {
        let [otherwise] = numbers(std::slice::from_ref(&table.otherwise))?[..] else {
            return Err("has no default".to_owned());
        };
        return look_up(builder, x, keys, &table.values, otherwise, table.ty);
    }
    // Strings from numbers: the index of the value, the default behind the others.
    let mut all = table.values.clone();
    all.push(table.otherwise.clone());
    let indices: Vec<_> = (0..table.values.len())
        .map(|i| Item::Number(i as f64))
        .collect();
    let mut found = look_up(
        builder,
        x,
        keys,
        &indices,
        table.values.len() as f64,
        Type::Text,
    )?;
    if let Some(Value::Run(run)) = found.first_mut() {
        run.labels = Some(Arc::new(labels(&all, Type::Text)?));
    }
    Ok(found)
}

fn look_up(
    builder: &mut Builder,
    x: &Run,
    keys: Vec<f64>,
    values: &[Item],
    otherwise: f64,
    ty: Type,
) -> Result<Vec<Value>, String> {
    let values = numbers(values)?;
    let narrow = |number: f64| number as f32;
    keys.iter().try_for_each(|key| check_key(*key))?;
    let missing = keys
        .iter()
        .position(|key| key.is_nan())
        .map(|at| narrow(values[at]));
    let mut pairs: Vec<(f32, f32)> = Vec::with_capacity(keys.len());
    for (key, value) in keys.iter().zip(&values).filter(|(key, _)| !key.is_nan()) {
        pairs.push((narrow(*key), narrow(*value)));
    }
    // Stable, so that of equal keys the first stays.
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    pairs.dedup_by(|b, a| a.0 == b.0);
    let out = builder.fresh(ty, x.shape.clone())?;
    builder.push(Find {
        pairs,
        missing: missing.unwrap_or(narrow(otherwise)),
        otherwise: narrow(otherwise),
        from: x.at,
        at: out.at,
        len: out.len(),
    });
    Ok(vec![out.into()])
}

/// Refuses a key that a number which rows compute cannot equal.
pub(super) fn check_key(key: f64) -> Result<(), String> {
    if key.is_nan() || f64::from(key as f32) == key {
        return Ok(());
    }
    Err(format!(
        "the key {key}, which no float holds, is not supported for numbers that rows compute"
    ))
}

/// Replaces numbers by those that a table has for them.
struct Find {
    /// By key.
    pairs: Vec<(f32, f32)>,
    /// For NaN.
    missing: f32,
    otherwise: f32,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for Find {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for (out, key) in out[..self.len].iter_mut().zip(&below[self.from..]) {
            let at = self.pairs.partition_point(|(own, _)| own < key);
            *out = match self.pairs.get(at) {
                _ if key.is_nan() => self.missing,
                Some((own, value)) if own == key => *value,
                _ => self.otherwise,
            };
        }
    }
}

fn eval_zip(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    Ok(vec![arg(inputs, 0)?.clone()])
}

fn build_zip(_: &mut Builder, node: &Node, inputs: &[Option<Value>]) -> Result<Vec<Value>, String> {
    let Value::Run(x) = input(inputs, 0)? else {
        return Err("input 0 is a constant".to_owned());
    };
    let texts = node.texts("classlabels_strings")?;
    let names: Arc<[String]> = if texts.is_empty() {
        node.ints("classlabels_int64s")?
            .iter()
            .map(ToString::to_string)
            .collect()
    } else {
        texts.iter().cloned().collect()
    };
    if names.len() != x.len() {
        return Err(format!("{} classes for {} numbers", names.len(), x.len()));
    }
    Ok(vec![
        Run {
            names: Some(names),
            owned: false,
            ..x.clone()
        }
        .into(),
    ])
}

const ENCODER: &[&str] = &[
    "classes_strings",
    "default_float",
    "default_int64",
    "default_string",
    "default_tensor",
    "keys_floats",
    "keys_int64s",
    "keys_strings",
    "keys_tensor",
    "values_floats",
    "values_int64s",
    "values_strings",
    "values_tensor",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted("LabelEncoder", 1, ENCODER, "", eval_encoder, build_encoder),
    noted(
        "ZipMap",
        1,
        &["classlabels_int64s", "classlabels_strings"],
        "the numbers pass through and get the names of the classes",
        eval_zip,
        build_zip,
    ),
];
