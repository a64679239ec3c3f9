//! Hand-made files: what is refused and how it is named, and bits that depend on no vector unit. `content`: what the numbers and
//! sizes in a file may be.

use std::borrow::Cow;

use prost::Message as _;
use prost::bytes::Bytes;

mod content;

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};
use super::{Options, Plan, compile, limits, outline};
use crate::dispatch;
use crate::load::Files;
use crate::network::Network as _;

const FLOAT: i32 = 1;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: op.to_owned(),
        name: format!("/{op}"),
        input: owned(inputs),
        output: owned(outputs),
        ..NodeProto::default()
    }
}

/// Sizes; 0 leaves a dimension open.
fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |size: &i64| DimensionProto {
        dim_value: (*size > 0).then_some(*size),
        dim_param: None,
    };
    let shape = TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
    };
    let tensor = TensorTypeProto {
        elem_type: FLOAT,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        value_type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}

fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: data.to_vec(),
        ..TensorProto::default()
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(Bytes::copy_from_slice(value.as_bytes())),
        kind: 3,
        ..AttributeProto::default()
    }
}

fn model(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> ModelProto {
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: domain.to_owned(),
        version,
    };
    ModelProto {
        opset_import: vec![set("ai.onnx.ml", 3), set("", 18)],
        graph: Some(GraphProto {
            node: nodes,
            initializer: initializers,
            input: vec![value("x", &[0, 3])],
            output: vec![value("y", &[0, 3])],
            ..GraphProto::default()
        }),
    }
}

fn files(bytes: Vec<u8>) -> Files {
    Files::from([("model.onnx".to_owned(), Cow::Owned(bytes))])
}

fn compiled(model: &ModelProto, options: &Options) -> Result<Plan, String> {
    compile(&files(model.encode_to_vec()), "model.onnx", options).map_err(|error| error.to_string())
}

fn refusal(model: &ModelProto) -> String {
    compiled(model, &Options::default()).expect_err("a refusal")
}

fn run(plan: &Plan, row: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; plan.outputs()];
    let mut scratch = vec![f32::NAN; plan.scratch_len()];
    plan.step(&mut [], row, &mut output, &mut scratch);
    output
}

#[test]
fn a_cut_off_file_is_refused() {
    let whole = model(vec![node("Relu", &["x"], &["y"])], vec![]).encode_to_vec();
    for len in 0..whole.len() {
        let files = files(whole[..len].to_vec());
        // Cut between two fields it is still a message: without its operator set.
        if let Ok(plan) = compile(&files, "model.onnx", &Options::default()) {
            panic!("{len} of {} bytes give {plan:?}", whole.len());
        }
    }
    let error = compile(&files(vec![]), "model.onnx", &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model.onnx: is cut off or no ONNX model: it holds no graph"
    );
    let error = compile(
        &files(b"not a graph".to_vec()),
        "model.onnx",
        &Options::default(),
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("model.onnx: is ")
    );
}

#[test]
fn a_cyclic_graph_is_refused_by_its_node() {
    let nodes = vec![
        node("Add", &["x", "b"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("Identity", &["b"], &["y"]),
    ];
    assert_eq!(
        refusal(&model(nodes, vec![])),
        "node 0 (Add \"/Add\"): the graph is cyclic: the node waits for its own output"
    );
}

#[test]
fn nodes_may_stand_in_any_order() {
    let nodes = vec![node("Neg", &["a"], &["y"]), node("Relu", &["x"], &["a"])];
    let plan = compiled(&model(nodes, vec![]), &Options::default()).unwrap();
    assert_eq!(run(&plan, &[1.0, -2.0, 3.0]), [-1.0, -0.0, -3.0]);
}

#[test]
fn an_operator_or_attribute_that_is_not_supported_is_named() {
    let loops = vec![node("Loop", &["x"], &["y"])];
    assert_eq!(
        refusal(&model(loops, vec![])),
        "node 0 (Loop \"/Loop\"): the operator is not supported; docs/ONNX.md lists those that are"
    );
    let mut foreign = node("Relu", &["x"], &["y"]);
    foreign.domain = "com.microsoft".to_owned();
    let said = refusal(&model(vec![foreign], vec![]));
    assert!(
        said.starts_with("node 0 (com.microsoft.Relu \"/Relu\"): the operator"),
        "{said}"
    );
    let mut odd = node("LeakyRelu", &["x"], &["y"]);
    odd.attribute = vec![AttributeProto {
        name: "beta".to_owned(),
        f: Some(1.0),
        kind: 1,
        ..AttributeProto::default()
    }];
    assert_eq!(
        refusal(&model(vec![odd], vec![])),
        "node 0 (LeakyRelu \"/LeakyRelu\"): attribute beta is not supported"
    );
}

#[test]
fn what_no_output_needs_is_left_out() {
    let nodes = vec![node("Relu", &["x"], &["y"]), node("Loop", &["x"], &["z"])];
    let plan = compiled(&model(nodes, vec![]), &Options::default()).unwrap();
    assert_eq!(plan.steps(), 1);
}

#[test]
fn an_operator_set_that_is_not_known_is_refused() {
    for version in [6, 99] {
        let mut old = model(vec![node("Relu", &["x"], &["y"])], vec![]);
        old.opset_import[1].version = version;
        assert_eq!(
            refusal(&old),
            format!(
                "model.onnx: uses version {version} of ai.onnx: 7 to 28 are supported; export with target_opset"
            )
        );
    }
    let mut early = model(vec![node("Gelu", &["x"], &["y"])], vec![]);
    early.opset_import[1].version = 18;
    assert!(refusal(&early).contains("from operator set 20 on; the file uses 18"));
}

#[test]
fn names_that_do_not_fit_together_are_refused() {
    let missing = vec![node("Relu", &["q"], &["y"])];
    assert_eq!(
        refusal(&model(missing, vec![])),
        "node 0 (Relu \"/Relu\"): nothing makes its input \"q\""
    );
    let twice = vec![node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"])];
    assert_eq!(
        refusal(&model(twice, vec![])),
        "node 1 (Neg \"/Neg\"): output \"y\" is made twice"
    );
    let options = Options {
        outputs: vec!["probabilities".to_owned()],
        ..Options::default()
    };
    let relu = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    assert_eq!(
        compiled(&relu, &options).unwrap_err(),
        "output \"probabilities\": is no output of the graph; it has [\"y\"]"
    );
}

fn external(entries: &[(&str, &str)]) -> ModelProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let weights = TensorProto {
        data_location: 1,
        external_data: entries.iter().map(entry).collect(),
        ..floats("w", &[3], &[])
    };
    model(vec![node("Add", &["x", "w"], &["y"])], vec![weights])
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    for outside in ["../w.bin", "/etc/passwd", "a/../../w.bin", "..", "a\\w.bin"] {
        assert_eq!(
            refusal(&external(&[("location", outside)])),
            format!(
                "initializer \"w\": external data: {outside:?} is outside the version's folder"
            )
        );
    }
    assert_eq!(
        refusal(&external(&[("location", "w.bin")])),
        "initializer \"w\": external data: the file \"w.bin\" is missing"
    );
}

#[test]
fn external_data_is_read_from_its_place_in_the_file() {
    let placed = [("location", "w.bin"), ("offset", "4"), ("length", "12")];
    let mut all = files(external(&placed).encode_to_vec());
    let bytes: Vec<u8> = [9.0_f32, 1.0, 2.0, 3.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    all.insert("w.bin".to_owned(), Cow::Owned(bytes));
    let plan = compile(&all, "model.onnx", &Options::default()).unwrap();
    assert_eq!(run(&plan, &[0.0, 0.0, 10.0]), [1.0, 2.0, 13.0]);
    let beyond = [("location", "w.bin"), ("offset", "8"), ("length", "12")];
    all.insert(
        "model.onnx".to_owned(),
        Cow::Owned(external(&beyond).encode_to_vec()),
    );
    let error = compile(&all, "model.onnx", &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "initializer \"w\": external data: 12 bytes from 8 of \"w.bin\", which has 16"
    );
}

#[test]
fn a_file_of_too_many_parts_is_refused_before_it_takes_memory() {
    // An empty node: two bytes on the wire, some hundred in memory.
    let mut graph = Vec::new();
    graph.extend([0x0a, 0x00].repeat(limits::MAX_PARTS + 1));
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut bytes);
    bytes.extend(graph);
    let error = compile(&files(bytes), "model.onnx", &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model.onnx: has more than 400000 nodes, attributes, tensors and values: too large to serve"
    );
    let many = (0..=limits::MAX_NODES)
        .map(|_| NodeProto::default())
        .collect();
    assert!(refusal(&model(many, vec![])).contains("at most 20000 are supported"));
}

#[test]
fn a_tensor_that_is_huge_or_not_what_its_shape_says_is_refused() {
    let with = |tensor| model(vec![node("Add", &["x", "w"], &["y"])], vec![tensor]);
    assert_eq!(
        refusal(&with(floats("w", &[3], &[1.0]))),
        "initializer \"w\": holds 1 elements; its shape [3] says 3"
    );
    assert!(
        refusal(&with(floats("w", &[1 << 40, 1 << 40], &[]))).contains("at most 16777216 elements")
    );
    assert!(refusal(&with(floats("w", &[-1], &[]))).contains("a dimension of -1"));
    // A few bytes that ask for gigabytes.
    let shape = TensorProto {
        data_type: 7,
        int64_data: vec![1 << 30, 1 << 30],
        ..floats("s", &[2], &[])
    };
    let filled = vec![
        node("ConstantOfShape", &["s"], &["c"]),
        node("Add", &["x", "c"], &["y"]),
    ];
    assert!(refusal(&model(filled, vec![shape])).contains("at most 16777216 elements"));
    let weights = TensorProto {
        raw_data: Bytes::from_static(&[0, 0, 0]),
        ..floats("w", &[3], &[])
    };
    assert_eq!(
        refusal(&with(weights)),
        "initializer \"w\": has 3 bytes, no multiple of 4"
    );
}

#[test]
fn a_node_that_takes_too_long_is_refused() {
    let shape = TensorProto {
        data_type: 7,
        int64_data: vec![4096, 4096],
        ..floats("s", &[2], &[])
    };
    let nodes = vec![
        node("ConstantOfShape", &["s"], &["c"]),
        node("MatMul", &["c", "c"], &["d"]),
        node("Add", &["x", "d"], &["y"]),
    ];
    assert_eq!(
        refusal(&model(nodes, vec![shape])),
        "node 1 (MatMul \"/MatMul\"): takes over 67108864 operations, the most of one node"
    );
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_both() {
    let product = vec![node("MatMul", &["x", "w"], &["y"])];
    let weights = floats("w", &[2, 1], &[1.0, 2.0]);
    assert_eq!(
        refusal(&model(product, vec![weights])),
        "node 0 (MatMul \"/MatMul\"): a product of shapes [1, 3] and [2, 1]"
    );
    let relu = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    let row = Options {
        inputs: Some(8),
        ..Options::default()
    };
    let said = compiled(&relu, &row).unwrap_err();
    assert!(
        said.starts_with("input \"x\": takes 3 numbers") && said.ends_with("a row here has 8"),
        "{said}"
    );
}

#[test]
fn a_batch_fixed_at_more_than_one_row_is_refused_with_the_remedy() {
    let mut fixed = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    fixed.graph.as_mut().unwrap().input = vec![value("x", &[4, 3])];
    let row = Options {
        inputs: Some(3),
        ..Options::default()
    };
    let said = compiled(&fixed, &row).unwrap_err();
    assert!(
        said.ends_with("export with a dynamic batch dimension or one row"),
        "{said}"
    );
}

#[test]
fn a_state_must_be_there_and_keep_its_shape() {
    let mut graph = model(
        vec![
            node("Add", &["x", "h"], &["y"]),
            node("Concat", &["y", "y"], &["n"]),
        ],
        vec![],
    );
    let inside = graph.graph.as_mut().unwrap();
    inside.input.push(value("h", &[1, 3]));
    inside.output.push(value("n", &[1, 6]));
    let with = |input: &str, output: &str| Options {
        states: vec![(input.to_owned(), output.to_owned())],
        ..Options::default()
    };
    assert_eq!(
        compiled(&graph, &with("h", "n")).unwrap_err(),
        "state \"h\": has the shape [1, 3], its output \"n\" [1, 6]"
    );
    assert_eq!(
        compiled(&graph, &with("q", "n")).unwrap_err(),
        "state \"q\": is no input of the graph"
    );
    let plan = compiled(&graph, &with("h", "y")).unwrap();
    assert_eq!((plan.state_len(), plan.inputs(), plan.outputs()), (3, 3, 6));
}

#[test]
fn an_outline_tells_inputs_and_outputs() {
    let relu = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    let outline = outline(&files(relu.encode_to_vec()), "model.onnx").unwrap();
    assert_eq!(outline.inputs, [("x".to_owned(), vec![None, Some(3)])]);
    assert_eq!(outline.outputs, [("y".to_owned(), vec![None, Some(3)])]);
}

#[test]
fn every_vector_width_gives_the_same_bits() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "onnx") || path.ends_with("external.onnx") {
            continue;
        }
        let files = files(std::fs::read(&path).unwrap());
        let plan = compile(&files, "model.onnx", &Options::default()).unwrap();
        let row: Vec<f32> = (0..plan.inputs())
            .map(|i| (i as f32 * 0.7).sin() * 2.0)
            .collect();
        let bits = |row: &[f32]| {
            run(&plan, row)
                .iter()
                .map(|v| v.to_bits())
                .collect::<Vec<_>>()
        };
        for width in dispatch::tests::widths() {
            let other = dispatch::tests::at(width, || bits(&row));
            assert_eq!(bits(&row), other, "{}, {width:?}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 80, "only {seen} models");
}
