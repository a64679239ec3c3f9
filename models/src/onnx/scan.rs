//! Counts the parts of a file before they are decoded.
//!
//! Two bytes on the wire can become hundreds in memory (an empty node), so a decoder alone would let a small hostile file take
//! gigabytes. This walk takes no memory, knows the few fields that become structures, and stops at the limits. It promises
//! nothing about what the parts hold.

use super::limits::{MAX_DEPTH, MAX_PARTS, MAX_STRINGS};

/// What a length-delimited field holds.
#[derive(Clone, Copy)]
enum Part {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    /// A structure whose fields are of no interest here.
    Leaf,
    Text,
}

impl Part {
    fn of(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 8) | (Self::Graph, 11 | 12 | 15) | (Self::Tensor, 13) => Self::Leaf,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Node, 5) => Self::Attribute,
            (Self::Node, 1 | 2) | (Self::Attribute, 9) | (Self::Tensor, 6) => Self::Text,
            _ => return None,
        })
    }
}

#[derive(Default)]
struct Count {
    parts: usize,
    strings: usize,
}

/// Refuses a file that is cut off or has more parts than the limits say.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    walk(bytes, Part::Model, 0, &mut Count::default())
}

fn walk(bytes: &[u8], part: Part, depth: usize, count: &mut Count) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("is nested too deeply".to_owned());
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => drop(varint(&mut rest)?),
            1 => drop(take(&mut rest, 8)?),
            5 => drop(take(&mut rest, 4)?),
            2 => {
                let len = varint(&mut rest)?;
                let inside = take(&mut rest, len)?;
                if let Some(held) = part.of(key >> 3) {
                    count_one(held, count)?;
                    if !matches!(held, Part::Leaf | Part::Text) {
                        walk(inside, held, depth + 1, count)?;
                    }
                }
            }
            _ => return Err("is no ONNX file (not a protobuf message)".to_owned()),
        }
    }
    Ok(())
}

fn count_one(part: Part, count: &mut Count) -> Result<(), String> {
    let (counter, limit, what) = match part {
        Part::Text => (&mut count.strings, MAX_STRINGS, "strings"),
        _ => (
            &mut count.parts,
            MAX_PARTS,
            "nodes, attributes, tensors and values",
        ),
    };
    *counter += 1;
    if *counter > limit {
        return Err(format!("has more than {limit} {what}: too large to serve"));
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8], String> {
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= rest.len())
        .ok_or("is cut off: a part is longer than the file")?;
    let (taken, left) = rest.split_at(len);
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (first, left) = rest
            .split_first()
            .ok_or("is cut off: it ends inside a number")?;
        *rest = left;
        value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("is no ONNX file (a number is too long)".to_owned())
}
