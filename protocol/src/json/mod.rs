//! The JSON forms that differ from the wire enums: device messages without a `type`, values as array or object,
//! outputs told apart by their fields.
//!
//! Owns the mapping only; `codec.rs` calls it. What a peer may send is read in one pass without an intermediate
//! tree, so that memory stays in proportion to the frame. Unknown fields are ignored. A number beyond f32 becomes an
//! infinity here, so that the reading keeps its seq and is refused by name.

mod device;
mod live;
mod output;

pub(crate) use device::{read_device_message, salvage_numbers};

use crate::message::Values;
use crate::{MAX_VALUES, MISSING};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// One feature value: a number, or `null` for a missing one.
struct Value(f32);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value(MISSING))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers or an object by feature name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Values, A::Error> {
        let mut values = Vec::with_capacity(8);
        while let Some(Value(value)) = items.next_element()? {
            check_count(values.len(), MAX_VALUES, "values")?;
            values.push(value);
        }
        Ok(Values::Ordered(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Values, A::Error> {
        let pairs = read_pairs::<Value, A>(entries)?;
        Ok(Values::Named(
            pairs
                .into_iter()
                .map(|(name, value)| (name, value.0))
                .collect(),
        ))
    }
}

fn check_count<E: de::Error>(have: usize, most: usize, what: &str) -> Result<(), E> {
    if have < most {
        return Ok(());
    }
    Err(E::custom(format_args!("more than {most} {what}")))
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ordered(values) => serializer.collect_seq(values),
            Self::Named(values) => PairsRef(values).serialize(serializer),
        }
    }
}

/// (De)serialises a bare list of values with `null` for a missing one.
pub(crate) mod values {
    use super::{Deserialize, Deserializer, Serializer, Value};

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let values = Vec::<Value>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value.0).collect())
    }
}

/// Pairs written as a JSON object in their own order.
struct PairsRef<'a, V>(&'a [(String, V)]);

impl<V: Serialize> Serialize for PairsRef<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// A JSON object as pairs in the sender's order.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Pairs<V>, A::Error> {
        read_pairs(entries).map(Pairs)
    }
}

fn read_pairs<'de, V: Deserialize<'de>, A: MapAccess<'de>>(
    mut entries: A,
) -> Result<Vec<(String, V)>, A::Error> {
    let mut pairs = Vec::with_capacity(8);
    while let Some(pair) = entries.next_entry()? {
        check_count(pairs.len(), MAX_VALUES, "values")?;
        pairs.push(pair);
    }
    Ok(pairs)
}
