//! Bytes become a [`Graph`]: decoded, counted, checked against the limits, external data fetched.
//!
//! Promises that no byte sequence makes it panic or take memory out of proportion, and that every refusal names a place in the
//! file. External data comes only from the files it is handed: a location is a plain name among them, never a path.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;
use prost::bytes::Bytes;

use super::OnnxError;
use super::graph::{Attribute, Declared, Dim, Graph, Node};
use super::limits::{MAX_CONSTANTS, MAX_FILE_BYTES, MAX_NODES, MAX_RANK, MAX_ROW, MAX_WHOLE};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use super::tensor::{Data, Tensor, Type, checked_len};
use crate::load::Files;

/// The operator sets that are known, by domain: lowest and highest version.
pub(super) const OPSETS: [(&str, i64, i64); 2] = [("", 7, 28), ("ai.onnx.ml", 1, 5)];

struct Reader<'a> {
    files: &'a Files,
    /// Numbers of all constants so far.
    constants: usize,
}

/// Reads `file` of `files`; the others may hold external data.
pub(super) fn read(files: &Files, file: &str) -> Result<Graph, OnnxError> {
    let at_file = |reason: String| OnnxError::new(file, reason);
    let bytes = files
        .get(file)
        .ok_or_else(|| at_file("is missing".to_owned()))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(at_file(format!(
            "has {} bytes; at most {MAX_FILE_BYTES} are read",
            bytes.len()
        )));
    }
    super::scan::check(bytes).map_err(at_file)?;
    let model = ModelProto::decode(Bytes::copy_from_slice(bytes))
        .map_err(|mistake| at_file(format!("is cut off or damaged: {mistake}")))?;
    let versions = opsets(&model).map_err(at_file)?;
    let graph = model
        .graph
        .ok_or_else(|| at_file("is cut off or no ONNX model: it holds no graph".to_owned()))?;
    Reader {
        files,
        constants: 0,
    }
    .graph(graph, &versions, file)
}

/// Version by domain, `""` for `ai.onnx`.
fn opsets(model: &ModelProto) -> Result<HashMap<String, i64>, String> {
    let mut versions = HashMap::new();
    for set in &model.opset_import {
        let domain = plain_domain(&set.domain);
        if let Some((_, low, high)) = OPSETS.iter().find(|(known, ..)| *known == domain)
            && !(*low..=*high).contains(&set.version)
        {
            let name = if domain.is_empty() { "ai.onnx" } else { domain };
            return Err(format!(
                "uses version {} of {name}: {low} to {high} are supported; export with target_opset",
                set.version
            ));
        }
        versions.insert(domain.to_owned(), set.version);
    }
    Ok(versions)
}

fn plain_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl Reader<'_> {
    fn graph(
        mut self,
        proto: GraphProto,
        versions: &HashMap<String, i64>,
        file: &str,
    ) -> Result<Graph, OnnxError> {
        let at_file = |reason: &str| OnnxError::new(file, reason);
        if proto.node.len() > MAX_NODES {
            return Err(at_file(&format!(
                "has {} nodes; at most {MAX_NODES} are supported",
                proto.node.len()
            )));
        }
        if !proto.sparse_initializer.is_empty() {
            return Err(at_file("has sparse initializers, which are not supported"));
        }
        let constants = self.constants_of(proto.initializer)?;
        let inputs = proto.input.iter().map(declared);
        let nodes = proto.node.into_iter().enumerate();
        let graph = Graph {
            nodes: nodes
                .map(|(index, node)| self.node(index, node, versions))
                .collect::<Result<_, _>>()?,
            inputs: inputs
                .filter(|input| !constants.contains_key(&input.name))
                .collect(),
            outputs: proto.output.iter().map(declared).collect(),
            constants,
        };
        let mut names = HashSet::new();
        if let Some(twice) = graph.inputs.iter().find(|input| !names.insert(&input.name)) {
            return Err(OnnxError::new(
                &format!("input {:?}", twice.name),
                "is declared twice",
            ));
        }
        graph
            .sort()
            .map_err(|(place, reason)| OnnxError::new(&place, reason))
    }

    fn constants_of(
        &mut self,
        protos: Vec<TensorProto>,
    ) -> Result<HashMap<String, Tensor>, OnnxError> {
        let mut constants = HashMap::new();
        for proto in protos {
            let place = format!("initializer {:?}", proto.name);
            let name = proto.name.clone();
            let tensor = self
                .tensor(proto)
                .map_err(|reason| OnnxError::new(&place, reason))?;
            if constants.insert(name, tensor).is_some() {
                return Err(OnnxError::new(&place, "is there twice"));
            }
        }
        Ok(constants)
    }

    fn node(
        &mut self,
        index: usize,
        proto: NodeProto,
        versions: &HashMap<String, i64>,
    ) -> Result<Node, OnnxError> {
        let domain = plain_domain(&proto.domain).to_owned();
        let mut node = Node {
            index,
            opset: versions.get(&domain).copied().unwrap_or(0),
            domain,
            name: proto.name,
            op: proto.op_type,
            inputs: proto.input,
            outputs: proto.output,
            attributes: BTreeMap::new(),
        };
        if node.opset == 0 && OPSETS.iter().any(|(known, ..)| *known == node.domain) {
            return Err(OnnxError::new(
                &node.place(),
                "the file does not say which operator set it uses: it is cut off or damaged",
            ));
        }
        for attribute in proto.attribute {
            let name = attribute.name.clone();
            let value = self.attribute(attribute).map_err(|reason| {
                OnnxError::new(&node.place(), format!("attribute {name}: {reason}"))
            })?;
            if node.attributes.insert(name.clone(), value).is_some() {
                return Err(OnnxError::new(
                    &node.place(),
                    format!("attribute {name} is there twice"),
                ));
            }
        }
        Ok(node)
    }

    fn attribute(&mut self, proto: AttributeProto) -> Result<Attribute, String> {
        if !proto.ref_attr_name.is_empty() {
            return Err("refers to a function's attribute, which is not supported".to_owned());
        }
        // AttributeProto.AttributeType
        Ok(match proto.kind {
            1 => Attribute::Float(proto.f.unwrap_or(0.0)),
            2 => Attribute::Int(proto.i.unwrap_or(0)),
            3 => Attribute::Text(text(&proto.s.unwrap_or_default())?),
            4 => Attribute::Tensor(self.tensor(*proto.t.unwrap_or_default())?),
            6 => Attribute::Floats(proto.floats),
            7 => Attribute::Ints(proto.ints),
            8 => Attribute::Texts(
                proto
                    .strings
                    .iter()
                    .map(text)
                    .collect::<Result<Vec<_>, _>>()?,
            ),
            5 | 10 => Attribute::Other("graph"),
            11 | 12 => Attribute::Other("sparse tensor"),
            _ => Attribute::Other("value of an unknown kind"),
        })
    }

    fn tensor(&mut self, proto: TensorProto) -> Result<Tensor, String> {
        let ty = Type::from_code(i64::from(proto.data_type))?;
        if proto.dims.len() > MAX_RANK {
            return Err(format!(
                "has {} dimensions; at most {MAX_RANK} are supported",
                proto.dims.len()
            ));
        }
        let dim =
            |dim: &i64| usize::try_from(*dim).map_err(|_| format!("has a dimension of {dim}"));
        let shape = proto.dims.iter().map(dim).collect::<Result<Vec<_>, _>>()?;
        let len = checked_len(&shape)?;
        self.constants += len;
        if self.constants > MAX_CONSTANTS {
            return Err(format!(
                "brings the constants over {MAX_CONSTANTS} numbers, the most supported"
            ));
        }
        let data = if proto.data_location == 1 {
            raw(proto.data_type, self.external(&proto)?)?
        } else if !proto.raw_data.is_empty() {
            raw(proto.data_type, &proto.raw_data)?
        } else {
            listed(&proto)?
        };
        let held = match &data {
            Data::Numbers(numbers) => numbers.len(),
            Data::Texts(texts) => texts.len(),
        };
        if held != len {
            return Err(format!(
                "holds {held} elements; its shape {shape:?} says {len}"
            ));
        }
        Ok(match data {
            Data::Numbers(numbers) => Tensor::numbers(ty, shape, numbers),
            Data::Texts(texts) => Tensor::texts(shape, texts),
        })
    }

    /// The bytes of a tensor whose numbers lie in another file of the folder.
    fn external(&self, proto: &TensorProto) -> Result<&[u8], String> {
        let entry = |key: &str| {
            let found = proto.external_data.iter().find(|entry| entry.key == key);
            found.map(|entry| entry.value.as_str())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<usize>()
                .map(Some)
                .map_err(|_| format!("external data: {key} {text:?} is no number")),
        };
        let location = entry("location").ok_or("external data: no location is given")?;
        let name = location.strip_prefix("./").unwrap_or(location);
        if name.contains(['/', '\\']) || name == ".." {
            return Err(format!(
                "external data: {location:?} is outside the version's folder"
            ));
        }
        let bytes = self
            .files
            .get(name)
            .ok_or_else(|| format!("external data: the file {name:?} is missing"))?;
        let start = number("offset")?.unwrap_or(0);
        let len = number("length")?.unwrap_or_else(|| bytes.len().saturating_sub(start));
        let end = start.checked_add(len).filter(|end| *end <= bytes.len());
        end.map(|end| &bytes[start..end]).ok_or_else(|| {
            format!(
                "external data: {len} bytes from {start} of {name:?}, which has {}",
                bytes.len()
            )
        })
    }
}

fn text(bytes: &Bytes) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8".to_owned())
}

/// Little-endian numbers, as `raw_data` and external files hold them.
fn raw(code: i32, bytes: &[u8]) -> Result<Data, String> {
    fn each<const N: usize>(bytes: &[u8], read: fn([u8; N]) -> f64) -> Result<Data, String> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(format!("has {} bytes, no multiple of {N}", bytes.len()));
        }
        Ok(Data::Numbers(
            chunks.iter().map(|chunk| read(*chunk)).collect(),
        ))
    }
    match code {
        1 => each::<4>(bytes, |b| f64::from(f32::from_le_bytes(b))),
        11 => each::<8>(bytes, f64::from_le_bytes),
        7 => whole(each::<8>(bytes, |b| i64::from_le_bytes(b) as f64)?),
        13 => whole(each::<8>(bytes, |b| u64::from_le_bytes(b) as f64)?),
        6 => each::<4>(bytes, |b| f64::from(i32::from_le_bytes(b))),
        12 => each::<4>(bytes, |b| f64::from(u32::from_le_bytes(b))),
        5 => each::<2>(bytes, |b| f64::from(i16::from_le_bytes(b))),
        4 => each::<2>(bytes, |b| f64::from(u16::from_le_bytes(b))),
        3 => each::<1>(bytes, |b| f64::from(i8::from_le_bytes(b))),
        2 | 9 => each::<1>(bytes, |b| f64::from(b[0])),
        _ => Err("strings cannot be raw data".to_owned()),
    }
}

/// The numbers of a tensor that lists them one by one.
fn listed(proto: &TensorProto) -> Result<Data, String> {
    Ok(match proto.data_type {
        1 => Data::Numbers(proto.float_data.iter().copied().map(f64::from).collect()),
        11 => Data::Numbers(proto.double_data.clone()),
        7 => {
            return whole(Data::Numbers(
                proto.int64_data.iter().map(|v| *v as f64).collect(),
            ));
        }
        8 => Data::Texts(
            proto
                .string_data
                .iter()
                .map(text)
                .collect::<Result<_, _>>()?,
        ),
        12 | 13 => return Err("unsigned numbers are read as raw data only".to_owned()),
        _ => Data::Numbers(proto.int32_data.iter().copied().map(f64::from).collect()),
    })
}

/// Refuses whole numbers that `f64` would change; the largest of `i64` stand for an open end of a slice and stay.
fn whole(data: Data) -> Result<Data, String> {
    const EDGE: f64 = i64::MAX as f64;
    if let Data::Numbers(numbers) = &data
        && let Some(large) = numbers
            .iter()
            .find(|value| value.abs() > MAX_WHOLE as f64 && value.abs() < EDGE * 0.99)
    {
        return Err(format!(
            "holds {large}: whole numbers over 2^53 are not supported"
        ));
    }
    Ok(data)
}

fn declared(proto: &ValueInfoProto) -> Declared {
    let tensor = proto
        .value_type
        .as_ref()
        .and_then(|value_type| value_type.tensor_type.as_ref());
    let dim = |dim: &super::proto::DimensionProto| match (dim.dim_value, &dim.dim_param) {
        (Some(size), _) if (1..=MAX_ROW as i64).contains(&size) => Dim::Fixed(size as usize),
        (_, Some(name)) if !name.is_empty() => Dim::Named(name.clone()),
        _ => Dim::Unknown,
    };
    Declared {
        name: proto.name.clone(),
        code: tensor.map_or(0, |tensor| tensor.elem_type),
        shape: tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(dim).collect()),
    }
}
