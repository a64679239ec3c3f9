//! Requests and answers of the Open Inference Protocol, with and without the binary extension. Pure.
//!
//! A body is JSON; with `Inference-Header-Content-Length: N` its first N bytes are, and the tensors' bytes follow in the order of the
//! inputs that name a `binary_data_size`. An answer has the same form when the request asks for binary outputs.

use super::tensor::{self, Data, Datatype};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Most rows of one request.
pub const MAX_ROWS: usize = 4_096;

/// A request as sent.
#[derive(Debug, Deserialize)]
pub struct InferRequest {
    /// Echoed.
    pub id: Option<String>,
    /// `device`, `epoch`, `seq`, `ts`, `binary_data_output`; others are ignored, as clients add their own.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The readings.
    pub inputs: Vec<InputBody>,
    /// Which tensors to answer with; all when left out.
    #[serde(default)]
    pub outputs: Vec<OutputBody>,
}

/// An input as sent.
#[derive(Debug, Deserialize)]
pub struct InputBody {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Value>,
}

/// A wish for an output.
#[derive(Debug, Deserialize)]
pub struct OutputBody {
    /// The tensor's name.
    pub name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// An input that was read.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Rows, and values a row.
    pub shape: (usize, usize),
    /// Row by row.
    pub values: Vec<f32>,
}

/// Splits a body into its JSON and the bytes behind it.
///
/// # Errors
/// A length that is no number or beyond the body; JSON that is no request.
pub fn parse<'b>(
    body: &'b [u8],
    json_length: Option<&str>,
) -> Result<(InferRequest, &'b [u8]), String> {
    let (json, binary) = match json_length {
        None => (body, &[][..]),
        Some(length) => {
            let length = length
                .parse()
                .map_err(|_| "Inference-Header-Content-Length: not a number of bytes".to_owned())?;
            body.split_at_checked(length).ok_or_else(|| {
                format!(
                    "Inference-Header-Content-Length: {length} is beyond the body of {} bytes",
                    body.len()
                )
            })?
        }
    };
    let request = serde_json::from_slice(json).map_err(|error| format!("request: {error}"))?;
    Ok((request, binary))
}

/// Reads the inputs; `binary` is what follows the JSON, all of which must be used.
///
/// # Errors
/// The input by its name and what is wrong with it.
pub fn inputs(
    bodies: &[InputBody],
    mut binary: &[u8],
    features: usize,
) -> Result<Vec<Input>, String> {
    let mut inputs = Vec::with_capacity(bodies.len().min(features + 1));
    for body in bodies {
        let named = |reason: String| {
            let name: String = body.name.chars().take(64).collect();
            format!("input {name:?}: {reason}")
        };
        if inputs.len() > features {
            return Err(format!(
                "more inputs than the {features} features of the endpoint"
            ));
        }
        inputs.push(read(body, &mut binary, features).map_err(named)?);
    }
    if !binary.is_empty() {
        return Err(format!("{} bytes behind the last input", binary.len()));
    }
    Ok(inputs)
}

fn read(body: &InputBody, binary: &mut &[u8], features: usize) -> Result<Input, String> {
    let shape = shape(&body.shape, features)?;
    let datatype = Datatype::parse(&body.datatype)?;
    let most = shape.0 * shape.1;
    let values = match (body.parameters.get("binary_data_size"), &body.data) {
        (Some(size), None) => {
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let (bytes, rest) = size
                .and_then(|size| binary.split_at_checked(size))
                .ok_or("binary_data_size is no number of bytes that follow the JSON")?;
            *binary = rest;
            tensor::from_bytes(datatype, bytes)?
        }
        (None, Some(data)) => tensor::from_json(datatype, data, most)?,
        (Some(_), Some(_)) => return Err("has data and binary_data_size: send one".into()),
        (None, None) => return Err("has no data".into()),
    };
    if values.len() != most {
        return Err(format!(
            "shape {:?} has {most} elements, data has {}",
            body.shape,
            values.len()
        ));
    }
    Ok(Input {
        name: body.name.clone(),
        shape,
        values,
    })
}

/// Rows and columns: `[n]` is n rows of one value, or one row where n is the number of features.
fn shape(shape: &[i64], features: usize) -> Result<(usize, usize), String> {
    let sizes: Option<Vec<usize>> = shape
        .iter()
        .map(|size| usize::try_from(*size).ok().filter(|size| *size > 0))
        .collect();
    let (rows, columns) = match sizes.as_deref() {
        Some([rows]) => (*rows, 1),
        Some([rows, columns]) => (*rows, *columns),
        _ => return Err(format!("shape {shape:?} is not [rows] or [rows, values]")),
    };
    if columns > features {
        return Err(format!(
            "shape {shape:?} has {columns} values a row, the endpoint has {features} features"
        ));
    }
    if rows > MAX_ROWS.max(features) {
        return Err(format!("{rows} rows: at most {MAX_ROWS} in a request"));
    }
    Ok((rows, columns))
}

/// A tensor of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// Row by row.
    pub data: Data,
    /// Said beside it, such as the classes of `probabilities`.
    pub parameters: Map<String, Value>,
}

/// An answer's parts.
#[derive(Debug, Serialize)]
pub struct InferAnswer {
    /// The endpoint.
    pub model_name: String,
    /// Who answered.
    pub model_version: String,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where the readings were stored: `device`, `epoch`, first and last `seq`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    outputs: Vec<Value>,
}

impl InferAnswer {
    /// An answer without tensors yet.
    pub fn new(model_name: String, model_version: String, id: Option<String>) -> Self {
        Self {
            model_name,
            model_version,
            id,
            parameters: Map::new(),
            outputs: Vec::new(),
        }
    }

    /// Adds the tensors that `request` asks for, in its order; gives the bytes that follow the JSON.
    ///
    /// # Errors
    /// A tensor that there is not; the text names those there are.
    pub fn add(&mut self, request: &InferRequest, tensors: &[Output]) -> Result<Vec<u8>, String> {
        let flag = |map: &Map<String, Value>, name| map.get(name).and_then(Value::as_bool);
        let by_default = flag(&request.parameters, "binary_data_output").unwrap_or(false);
        let mut binary = Vec::new();
        if request.outputs.is_empty() {
            for tensor in tensors {
                self.outputs.push(body(tensor, by_default, &mut binary));
            }
        }
        for wish in &request.outputs {
            let tensor = tensors.iter().find(|tensor| tensor.name == wish.name);
            let tensor = tensor.ok_or_else(|| {
                let known: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                let name: String = wish.name.chars().take(64).collect();
                format!("no output {name:?}: there are {}", known.join(", "))
            })?;
            let is_binary = flag(&wish.parameters, "binary_data").unwrap_or(by_default);
            self.outputs.push(body(tensor, is_binary, &mut binary));
        }
        Ok(binary)
    }
}

fn body(tensor: &Output, is_binary: bool, binary: &mut Vec<u8>) -> Value {
    let mut body = json!({
        "name": tensor.name,
        "datatype": tensor.data.datatype(),
        "shape": tensor.shape,
    });
    let mut parameters = tensor.parameters.clone();
    if is_binary {
        let bytes = tensor.data.to_bytes();
        parameters.insert("binary_data_size".into(), bytes.len().into());
        binary.extend(bytes);
    } else {
        body["data"] = tensor.data.to_json();
    }
    if !parameters.is_empty() {
        body["parameters"] = Value::Object(parameters);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &Value) -> InferRequest {
        serde_json::from_value(json.clone()).expect("a request")
    }

    #[test]
    fn binary_inputs_follow_the_json_in_their_order() {
        let json = json!({"inputs": [
            {"name": "a", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "b", "shape": [2, 1], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
        ]})
        .to_string();
        let mut body = json.clone().into_bytes();
        body.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        body.extend([3, 0, 4, 0]);
        let (request, binary) = parse(&body, Some(&json.len().to_string())).expect("a request");
        let inputs = inputs(&request.inputs, binary, 2).expect("inputs");
        assert_eq!(inputs[0].values, [1.5, -2.0]);
        assert_eq!(
            (inputs[1].shape, &inputs[1].values[..]),
            ((2, 1), &[3.0, 4.0][..])
        );
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused_with_their_input() {
        let one = |size: u64| json!([{"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}]);
        let refused = |size, bytes: &[u8]| {
            let bodies: Vec<InputBody> = serde_json::from_value(one(size)).expect("inputs");
            inputs(&bodies, bytes, 2).expect_err("refused")
        };
        assert!(refused(8, &[0; 4]).starts_with("input \"a\": binary_data_size"));
        assert!(refused(4, &[0; 4]).contains("has 2 elements, data has 1"));
        assert_eq!(refused(8, &[0; 9]), "1 bytes behind the last input");
        assert!(parse(b"{}", Some("9")).is_err());
        assert!(parse(b"{}", Some("-1")).is_err());
        assert!(parse(b"{", None).is_err());
    }

    #[test]
    fn an_answer_holds_the_tensors_asked_for_as_they_were_asked_for() {
        let tensors = ["score", "anomaly"].map(|name| Output {
            name: name.into(),
            shape: vec![2],
            data: match name {
                "score" => Data::Floats(vec![0.5, 2.0]),
                _ => Data::Bools(vec![false, true]),
            },
            parameters: Map::new(),
        });
        let wish = request(
            &json!({"inputs": [], "parameters": {"binary_data_output": true},
            "outputs": [{"name": "anomaly", "parameters": {"binary_data": false}}, {"name": "score"}]}),
        );
        let mut answer = InferAnswer::new("pump-health".into(), "1".into(), None);
        let binary = answer.add(&wish, &tensors).expect("known names");
        assert_eq!(
            binary,
            [0.5_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat()
        );
        assert_eq!(answer.outputs[0]["data"], json!([false, true]));
        assert_eq!(answer.outputs[1]["parameters"]["binary_data_size"], 8);
        let unknown = request(&json!({"inputs": [], "outputs": [{"name": "x"}]}));
        let error = answer.add(&unknown, &tensors).expect_err("no such tensor");
        assert_eq!(error, "no output \"x\": there are score, anomaly");
    }
}
