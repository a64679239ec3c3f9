//! Tensors of the Open Inference Protocol: data types, and their two forms, JSON and little-endian bytes. Pure.
//!
//! Readings are f32, so every number becomes one: an integer or a double that f32 cannot hold exactly is rounded, one beyond its
//! range is refused by the schema check behind. `null` (JSON) and NaN are missing values. Text is taken nowhere: features are numbers.
//!
//! The binary form is the extension `binary_tensor_data` of Triton: row-major, no padding; BOOL one byte; a BYTES element is its
//! length (u32) and its bytes.

use serde_json::Value;
use tidegate_protocol::MISSING;

/// A data type of the protocol that a number may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

impl Datatype {
    /// By the protocol's word.
    ///
    /// # Errors
    /// A type that holds no numbers (BYTES), one of half precision, or none at all.
    pub fn parse(word: &str) -> Result<Self, String> {
        Ok(match word {
            "BOOL" => Self::Bool,
            "UINT8" => Self::U8,
            "UINT16" => Self::U16,
            "UINT32" => Self::U32,
            "UINT64" => Self::U64,
            "INT8" => Self::I8,
            "INT16" => Self::I16,
            "INT32" => Self::I32,
            "INT64" => Self::I64,
            "FP32" => Self::F32,
            "FP64" => Self::F64,
            other => {
                let other: String = other.chars().take(16).collect();
                return Err(format!(
                    "datatype {other:?} is not taken: send FP32, FP64, an integer type or BOOL"
                ));
            }
        })
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn read(self, bytes: &[u8]) -> f32 {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            std::array::from_fn(|i| bytes[i])
        }
        match self {
            Self::Bool => f32::from(u8::from(bytes[0] != 0)),
            Self::U8 => f32::from(bytes[0]),
            Self::I8 => f32::from(bytes[0].cast_signed()),
            Self::U16 => f32::from(u16::from_le_bytes(array(bytes))),
            Self::I16 => f32::from(i16::from_le_bytes(array(bytes))),
            Self::U32 => u32::from_le_bytes(array(bytes)) as f32,
            Self::I32 => i32::from_le_bytes(array(bytes)) as f32,
            Self::U64 => u64::from_le_bytes(array(bytes)) as f32,
            Self::I64 => i64::from_le_bytes(array(bytes)) as f32,
            Self::F32 => f32::from_le_bytes(array(bytes)),
            Self::F64 => narrow(f64::from_le_bytes(array(bytes))),
        }
    }
}

/// The nearest f32; one fixed NaN for any.
fn narrow(value: f64) -> f32 {
    if value.is_nan() {
        MISSING
    } else {
        value as f32
    }
}

/// Elements of binary data.
///
/// # Errors
/// Bytes that are no whole number of elements.
pub fn from_bytes(datatype: Datatype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let size = datatype.size();
    if !bytes.len().is_multiple_of(size) {
        return Err(format!(
            "{} bytes are no whole number of elements of {size} bytes",
            bytes.len()
        ));
    }
    let fixed = |value: f32| if value.is_nan() { MISSING } else { value };
    let elements = bytes
        .chunks_exact(size)
        .map(|bytes| fixed(datatype.read(bytes)));
    Ok(elements.collect())
}

/// Elements of JSON data, flat or nested; at most `most`.
///
/// # Errors
/// Anything that is no number, boolean or `null`; too many elements; lists nested deeper than a tensor has dimensions.
pub fn from_json(datatype: Datatype, data: &Value, most: usize) -> Result<Vec<f32>, String> {
    let mut into = Vec::new();
    flatten(datatype, data, most, 4, &mut into)?;
    Ok(into)
}

fn flatten(
    datatype: Datatype,
    data: &Value,
    most: usize,
    depth: usize,
    into: &mut Vec<f32>,
) -> Result<(), String> {
    if let Value::Array(items) = data {
        if depth == 0 {
            return Err("data is nested deeper than 4 lists".into());
        }
        return items
            .iter()
            .try_for_each(|item| flatten(datatype, item, most, depth - 1, into));
    }
    if into.len() == most {
        return Err(format!("data has more than {most} elements"));
    }
    into.push(element(datatype, data).ok_or_else(|| {
        let text: String = data.to_string().chars().take(40).collect();
        format!("data holds {text}, which is no number")
    })?);
    Ok(())
}

fn element(datatype: Datatype, data: &Value) -> Option<f32> {
    match data {
        Value::Null => Some(MISSING),
        Value::Bool(is) if datatype == Datatype::Bool => Some(f32::from(u8::from(*is))),
        Value::Number(number) if datatype == Datatype::F32 => {
            // Read as f32 at once: by way of f64 it would be rounded twice.
            number.to_string().parse().ok()
        }
        Value::Number(number) => number.as_f64().map(narrow),
        _ => None,
    }
}

/// What an answer's tensor holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// FP32.
    Floats(Vec<f32>),
    /// BOOL.
    Bools(Vec<bool>),
    /// BYTES, as text.
    Texts(Vec<String>),
}

impl Data {
    /// The protocol's word.
    pub fn datatype(&self) -> &'static str {
        match self {
            Self::Floats(_) => "FP32",
            Self::Bools(_) => "BOOL",
            Self::Texts(_) => "BYTES",
        }
    }

    /// As a flat JSON list.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Floats(values) => values.iter().map(float).collect(),
            Self::Bools(values) => values.iter().copied().collect(),
            Self::Texts(values) => values.iter().map(String::as_str).collect(),
        }
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Self::Bools(values) => values.iter().map(|value| u8::from(*value)).collect(),
            Self::Texts(values) => {
                let mut bytes = Vec::new();
                for value in values {
                    // Labels are far below 4 GiB.
                    bytes.extend((value.len() as u32).to_le_bytes());
                    bytes.extend(value.as_bytes());
                }
                bytes
            }
        }
    }
}

/// The shortest decimal that reads back as the same f32.
fn float(value: &f32) -> Value {
    value
        .to_string()
        .parse()
        .ok()
        .and_then(serde_json::Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_and_flat_data_are_the_same() {
        let nested = serde_json::json!([[1.5, null], [3, 4.25]]);
        let flat = serde_json::json!([1.5, null, 3, 4.25]);
        let bits = |data: &Value| -> Vec<u32> {
            let values = from_json(Datatype::F32, data, 8).expect("numbers");
            values.iter().map(|value| value.to_bits()).collect()
        };
        assert_eq!(bits(&nested), bits(&flat));
        assert_eq!(bits(&flat)[1], MISSING.to_bits());
    }

    #[test]
    fn what_is_no_number_too_much_or_too_deep_is_refused_with_its_reason() {
        let refused = |data: Value| from_json(Datatype::F32, &data, 2).expect_err("refused");
        assert_eq!(
            refused(serde_json::json!(["a"])),
            "data holds \"a\", which is no number"
        );
        assert_eq!(
            refused(serde_json::json!([1, 2, 3])),
            "data has more than 2 elements"
        );
        assert_eq!(
            refused(serde_json::json!([[[[[1]]]]])),
            "data is nested deeper than 4 lists"
        );
        assert_eq!(
            refused(serde_json::json!([true])),
            "data holds true, which is no number"
        );
        let odd = from_bytes(Datatype::F64, &[0; 12]).expect_err("refused");
        assert_eq!(odd, "12 bytes are no whole number of elements of 8 bytes");
        assert!(Datatype::parse("BYTES").is_err());
    }

    #[test]
    fn every_datatype_is_read_in_its_size() {
        let cases: [(&str, &[u8], f32); 11] = [
            ("BOOL", &[1], 1.0),
            ("UINT8", &[200], 200.0),
            ("INT8", &[0xfe], -2.0),
            ("UINT16", &[0x34, 0x12], 4660.0),
            ("INT16", &[0xff, 0xff], -1.0),
            ("UINT32", &[1, 0, 1, 0], 65537.0),
            ("INT32", &[0xff; 4], -1.0),
            ("UINT64", &[7, 0, 0, 0, 0, 0, 0, 0], 7.0),
            ("INT64", &[0xff; 8], -1.0),
            ("FP32", &1.5_f32.to_le_bytes(), 1.5),
            ("FP64", &0.1_f64.to_le_bytes(), 0.1),
        ];
        for (word, bytes, expected) in cases {
            let datatype = Datatype::parse(word).expect("a word of the protocol");
            assert_eq!(datatype.size(), bytes.len(), "{word}");
            assert_eq!(from_bytes(datatype, bytes), Ok(vec![expected]), "{word}");
        }
    }

    #[test]
    fn texts_are_told_by_their_length() {
        let texts = Data::Texts(vec!["ok".into(), String::new()]);
        assert_eq!(texts.to_bytes(), [2, 0, 0, 0, b'o', b'k', 0, 0, 0, 0]);
        assert_eq!(texts.to_json(), serde_json::json!(["ok", ""]));
    }

    proptest! {
        #[test]
        fn a_float_comes_back_from_both_forms_with_its_bits(values in proptest::collection::vec(proptest::num::f32::NORMAL | proptest::num::f32::ZERO, 0..20)) {
            let data = Data::Floats(values.clone());
            let from_text = from_json(Datatype::F32, &data.to_json(), 20).expect("numbers");
            let from_binary = from_bytes(Datatype::F32, &data.to_bytes()).expect("whole");
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&from_text), bits(&values));
            prop_assert_eq!(bits(&from_binary), bits(&values));
        }
    }
}
