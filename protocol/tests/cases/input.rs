//! Input forms that no encoder writes: lenient ones that are read, and those that are refused.

use tidegate_protocol::Codec;

/// Bytes of a device, and in which codec.
pub struct Input {
    pub name: &'static str,
    pub what: &'static str,
    pub codec: Codec,
    pub bytes: Vec<u8>,
}

fn json(name: &'static str, what: &'static str, text: &str) -> Input {
    Input {
        name,
        what,
        codec: Codec::Json,
        bytes: text.as_bytes().to_vec(),
    }
}

fn binary(name: &'static str, what: &'static str, bytes: &[u8]) -> Input {
    Input {
        name,
        what,
        codec: Codec::Bincode,
        bytes: bytes.to_vec(),
    }
}

/// What a device may send beside the forms that are written.
pub fn lenient() -> Vec<Input> {
    let long_batch =
        r#"{"type":"batch","readings":[[1,2],{"seq":4,"values":[3]},{"values":{"flow":1}}]}"#;
    let long_varint = [1, 0, 0, 1, 253, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        json(
            "bare-array",
            "A bare array is a reading.",
            " [0.5, null, -3]",
        ),
        json(
            "type-stated",
            "A reading may say its type.",
            r#"{"type":"reading","seq":1,"values":[1]}"#,
        ),
        json(
            "unknown-fields",
            "Unknown fields are ignored.",
            r#"{"seq":1,"unit":{"a":[1]},"values":[1],"x":null}"#,
        ),
        json(
            "any-order",
            "Fields come in any order.",
            r#"{"values":[1],"historical":true,"ts":5,"seq":1}"#,
        ),
        json(
            "nulls",
            "A null option is one left out.",
            r#"{"epoch":null,"seq":null,"ts":null,"values":[1]}"#,
        ),
        json(
            "batch-of-arrays",
            "A batch may hold bare arrays.",
            long_batch,
        ),
        json(
            "beyond-f32",
            "Beyond f32 is an infinity, for the server to refuse by name.",
            r#"{"seq":9,"values":[1e39]}"#,
        ),
        json(
            "label-integer",
            "A label may be an integer.",
            r#"{"type":"feedback","seq":1,"label":3}"#,
        ),
        binary(
            "long-integer",
            "An integer may be longer than it needs to be.",
            &long_varint,
        ),
        binary(
            "other-nan",
            "Any bits of an f32 are read, for the server to refuse by name.",
            &[1, 0, 0, 1, 9, 0, 0, 1, 1, 0, 192, 255, 0],
        ),
    ]
}

/// What is no message, in JSON.
pub fn refused_json() -> Vec<Input> {
    let twice = r#"{"seq":5,"values":{"flow":1,"flow":2}}"#;
    let batch =
        r#"{"type":"batch","seq":7,"readings":[[1],{"seq":9007199254740992,"values":[1]}]}"#;
    let epoch = r#"{"epoch":9007199254740992,"seq":5,"values":[1]}"#;
    let label = r#"{"type":"feedback","seq":5,"label":1e39}"#;
    vec![
        json("empty", "Nothing at all.", ""),
        json("not-json", "Text that is no JSON.", "hello"),
        json("scalar", "JSON that is no object and no array.", "17"),
        json(
            "cut",
            "JSON that ends early names no reading.",
            r#"{"seq":17,"values":[1,"#,
        ),
        json(
            "two-values",
            "Something after the message.",
            r#"{"seq":1,"values":[1]} {}"#,
        ),
        json(
            "no-values",
            "A reading without values is named.",
            r#"{"seq":5}"#,
        ),
        json(
            "text-value",
            "A value that is text.",
            r#"{"seq":5,"values":["1"]}"#,
        ),
        json(
            "nan-value",
            "JSON has no NaN; the reading is named all the same.",
            r#"{"seq":5,"note":"\"NaN","values":[NaN,-Infinity]}"#,
        ),
        json(
            "beyond-f64",
            "A number beyond f64.",
            r#"{"epoch":1,"seq":5,"values":[1e400]}"#,
        ),
        json(
            "nested-values",
            "Values of values.",
            r#"{"seq":5,"values":[[1]]}"#,
        ),
        json("name-twice", "A feature named twice.", twice),
        json(
            "field-twice",
            "A field there twice names no reading.",
            r#"{"seq":5,"seq":6,"values":[1]}"#,
        ),
        json(
            "seq-fraction",
            "A seq that is no integer.",
            r#"{"seq":1.5,"values":[1]}"#,
        ),
        json(
            "seq-negative",
            "A seq below zero.",
            r#"{"seq":-1,"values":[1]}"#,
        ),
        json(
            "seq-too-large",
            "A seq beyond 2^53-1.",
            r#"{"seq":9007199254740992,"values":[1]}"#,
        ),
        json(
            "epoch-too-large",
            "With a wrong epoch its seq would name another reading.",
            epoch,
        ),
        json(
            "unknown-type",
            "A type that devices do not say.",
            r#"{"type":"hello","seq":5,"values":[1]}"#,
        ),
        json(
            "batch-bad",
            "A batch is refused whole and names no reading.",
            batch,
        ),
        json(
            "feedback-bad",
            "Refused feedback never names a reading.",
            r#"{"type":"feedback","seq":5}"#,
        ),
        json("label-beyond-f32", "A label must be finite.", label),
    ]
}

/// What is no message, in bincode.
pub fn refused_binary() -> Vec<Input> {
    vec![
        binary("bincode-empty", "Not even a version byte.", &[]),
        binary("bincode-version", "Another version of the layout.", &[2, 3]),
        binary(
            "bincode-json",
            "JSON where bincode was agreed.",
            b"{\"seq\":1}",
        ),
        binary(
            "bincode-cut",
            "The frame ends inside the values; the reading is named.",
            &[1, 0, 0, 1, 5, 0, 0, 2, 0, 0],
        ),
        binary("bincode-trailing", "A byte after the message.", &[1, 3, 0]),
        binary("bincode-tag", "A tag that no message has.", &[1, 9]),
        binary(
            "bincode-option",
            "An option that is neither 0 nor 1.",
            &[1, 0, 7],
        ),
        binary(
            "bincode-boolean",
            "A boolean that is neither 0 nor 1.",
            &[1, 0, 0, 1, 5, 0, 0, 0, 2],
        ),
        binary(
            "bincode-integer",
            "An integer of 128 bits.",
            &[1, 0, 0, 1, 254],
        ),
        binary(
            "bincode-claim",
            "A length of 2^32 values is refused before anything is allocated.",
            &[1, 0, 0, 1, 5, 0, 0, 253, 0, 0, 0, 0, 1, 0, 0, 0],
        ),
        binary(
            "bincode-utf8",
            "A label that is not utf-8.",
            &[1, 2, 0, 5, 0, 1, 255, 0],
        ),
        binary(
            "bincode-seq",
            "A seq beyond 2^53-1.",
            &[1, 0, 0, 1, 253, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0],
        ),
    ]
}
