//! What the numbers and sizes in a file may be: constants, weights, categories, windows, declared shapes.

use super::super::Layout;
use super::*;

#[test]
fn weights_that_are_not_finite_are_refused_and_masks_are_not() {
    let mut data = [0.5; 9];
    data[7] = f32::NAN;
    let product = vec![node("MatMul", &["x", "W"], &["y"])];
    assert_eq!(
        refusal(&model(product, vec![floats("W", &[3, 3], &data)])),
        "initializer \"W\" [3, 3]: element 7 is NaN"
    );
    let mask = floats("M", &[3], &[0.0, f32::NEG_INFINITY, 0.0]);
    let masked = vec![node("Add", &["x", "M"], &["y"])];
    let plan = compiled(&model(masked, vec![mask]), &Options::default()).unwrap();
    assert_eq!(run(&plan, &[1.0; 3]), [1.0, f32::NEG_INFINITY, 1.0]);
}

#[test]
fn weights_are_found_wherever_they_stand() {
    let vector = |last: f32| floats("b", &[3], &[0.0, 1.0, last]);
    let square = floats("W", &[3, 3], &[0.5; 9]);
    let gemm = vec![node("Gemm", &["x", "W", "b"], &["y"])];
    assert_eq!(
        refusal(&model(gemm, vec![square, vector(f32::INFINITY)])),
        "initializer \"b\" [3]: element 2 is inf"
    );
    let bias = |last: f32| model(vec![node("Add", &["x", "b"], &["y"])], vec![vector(last)]);
    assert_eq!(
        refusal(&bias(f32::NAN)),
        "initializer \"b\" [3]: element 2 is NaN"
    );
    let mut constant = node("Constant", &[], &["c"]);
    constant.attribute = vec![AttributeProto {
        name: "value_floats".to_owned(),
        floats: vec![1.0, f32::NAN, 1.0],
        kind: 6,
        ..AttributeProto::default()
    }];
    let product = vec![
        constant,
        node("Unsqueeze", &["c", "axes"], &["w"]),
        node("MatMul", &["x", "w"], &["y"]),
    ];
    let axes = TensorProto {
        data_type: 7,
        int64_data: vec![1],
        ..floats("axes", &[1], &[])
    };
    assert_eq!(
        refusal(&model(product, vec![axes])),
        "node 2 (MatMul \"/MatMul\"): input \"w\" [3, 1]: element 1 is NaN"
    );
    let mut scaler = node("Scaler", &["x"], &["y"]);
    scaler.domain = "ai.onnx.ml".to_owned();
    scaler.attribute = vec![AttributeProto {
        name: "scale".to_owned(),
        floats: vec![f32::NEG_INFINITY],
        kind: 6,
        ..AttributeProto::default()
    }];
    assert_eq!(
        refusal(&model(vec![scaler], vec![])),
        "node 0 (ai.onnx.ml.Scaler \"/Scaler\"): attribute scale: element 0 is -inf"
    );
}

#[test]
fn what_stands_for_a_missing_value_may_be_nan() {
    let nan = floats("n", &[1], &[f32::NAN]);
    let nodes = vec![
        node("IsNaN", &["x"], &["gone"]),
        node("Where", &["gone", "n", "x"], &["y"]),
    ];
    assert!(compiled(&model(nodes, vec![nan]), &Options::default()).is_ok());
}

#[test]
fn an_output_that_is_not_what_it_is_declared_as_is_refused() {
    let mut wide = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    wide.graph.as_mut().unwrap().output = vec![value("y", &[0, 4])];
    assert_eq!(
        refusal(&wide),
        "output \"y\": is declared as [?, 4]; the nodes make [1, 3] of one row"
    );
    wide.graph.as_mut().unwrap().output = vec![value("y", &[0, 3, 1])];
    assert!(refusal(&wide).contains("is declared as [?, 3, 1]"));
    wide.graph.as_mut().unwrap().output = vec![value("y", &[0, 0])];
    assert!(compiled(&wide, &Options::default()).is_ok());
}

#[test]
fn a_square_window_must_say_how_it_lies() {
    let mut square = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    let graph = square.graph.as_mut().unwrap();
    graph.input = vec![value("x", &[0, 2, 2])];
    graph.output = vec![value("y", &[0, 2, 2])];
    let features = ["a", "b"].map(str::to_owned).to_vec();
    let options = |layout| Options {
        inputs: Some(4),
        features: features.clone(),
        layout,
        ..Options::default()
    };
    let said = compiled(&square, &options(None)).unwrap_err();
    assert_eq!(
        said,
        "input \"x\": takes 2 rows of 2 features, and its shape [1, 2, 2] does not tell which dimension is which: say layout = \"rows_first\" ([N, window, features]) or \"channels_first\" ([N, features, window]) under [architecture]"
    );
    let answer = |layout| {
        let plan = compiled(&square, &options(Some(layout))).unwrap();
        run(&plan, &[1.0, 2.0, 3.0, 4.0])
    };
    assert_eq!(answer(Layout::RowsFirst), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(answer(Layout::ChannelsFirst), [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn a_bare_graph_with_a_state_is_told_where_to_say_so() {
    let mut stateful = model(vec![node("Add", &["x", "h"], &["y"])], vec![]);
    let graph = stateful.graph.as_mut().unwrap();
    graph.input.push(value("h", &[1, 3]));
    let options = Options {
        inputs: Some(3),
        ..Options::default()
    };
    assert_eq!(
        compiled(&stateful, &options).unwrap_err(),
        "graph: its inputs [\"x\", \"h\"] take 6 numbers; a row here has 3; what is a state goes into a folder's model.toml, under [architecture]: states = [{ input = \"h0\", output = \"hn\" }]"
    );
}

#[test]
fn a_constant_of_any_shape_is_added_to_a_product_by_its_factor() {
    let mut gemm = node("Gemm", &["x", "W", "c"], &["y"]);
    gemm.attribute = vec![AttributeProto {
        name: "beta".to_owned(),
        f: Some(0.5),
        kind: 1,
        ..AttributeProto::default()
    }];
    let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    for (dims, c) in [
        (vec![1, 1], vec![4.0]),
        (vec![1, 3], vec![4.0; 3]),
        (vec![2, 1], vec![4.0; 2]),
    ] {
        let mut two = model(
            vec![gemm.clone()],
            vec![floats("W", &[3, 3], &identity), floats("c", &dims, &c)],
        );
        let rows = dims[0];
        if rows == 2 {
            // Two rows of a graph in one of ours.
            let graph = two.graph.as_mut().unwrap();
            graph.node.insert(0, node("Concat", &["x", "x"], &["z"]));
            graph.node[0].attribute = vec![AttributeProto {
                name: "axis".to_owned(),
                i: Some(0),
                kind: 2,
                ..AttributeProto::default()
            }];
            graph.node[1].input[0] = "z".to_owned();
            graph.output = vec![value("y", &[2, 3])];
        }
        let plan = compiled(&two, &Options::default()).unwrap();
        assert_eq!(
            run(&plan, &[1.0, 2.0, 3.0])[..3],
            [3.0, 4.0, 5.0],
            "{dims:?}"
        );
    }
}

#[test]
fn a_list_of_one_dimension_is_normalised() {
    let mut flat = node("LayerNormalization", &["f", "s"], &["y"]);
    flat.attribute = vec![];
    let shape = TensorProto {
        data_type: 7,
        int64_data: vec![3],
        ..floats("shape", &[1], &[])
    };
    let nodes = vec![node("Reshape", &["x", "shape"], &["f"]), flat];
    let mut normed = model(nodes, vec![shape, floats("s", &[3], &[1.0; 3])]);
    normed.graph.as_mut().unwrap().output = vec![value("y", &[3])];
    let plan = compiled(&normed, &Options::default()).unwrap();
    let out = run(&plan, &[1.0, 2.0, 3.0]);
    assert!(
        (out[2] - 1.224_74).abs() < 1e-4 && out[1].abs() < 1e-6,
        "{out:?}"
    );
}

#[test]
fn a_sum_of_products_is_refused_with_its_equation_or_its_shapes() {
    let sum = |equation: &str, dims: &[i64]| {
        let mut sum = node("Einsum", &["x", "w"], &["y"]);
        sum.attribute = vec![text("equation", equation)];
        let len = dims.iter().product::<i64>() as usize;
        refusal(&model(vec![sum], vec![floats("w", dims, &vec![1.0; len])]))
    };
    assert_eq!(
        sum("...i,ij->...j", &[3, 2]),
        "node 0 (Einsum \"/Einsum\"): attribute equation \"...i,ij->...j\": an ellipsis is not supported; write each dimension as a letter"
    );
    assert_eq!(
        sum("bi,ij->bj", &[4, 2]),
        "node 0 (Einsum \"/Einsum\"): shapes [1, 3] and [4, 2] differ in the size of i"
    );
    for wrong in ["bi->b", "bi,ij->bbj", "bi,ij->bk", "bi,i1->b", "bi,ij,j->b"] {
        assert!(sum(wrong, &[3, 2]).contains(wrong));
    }
    assert!(sum("b,ij->bij", &[3, 2]).ends_with("1 letters for a tensor of shape [1, 3]"));
}

#[test]
fn a_category_that_must_be_known_makes_the_row_fail() {
    let hot = |zeros: i64| {
        let mut hot = node("OneHotEncoder", &["x"], &["y"]);
        hot.domain = "ai.onnx.ml".to_owned();
        let list = AttributeProto {
            name: "cats_int64s".to_owned(),
            ints: vec![1, 4],
            kind: 7,
            ..AttributeProto::default()
        };
        let zeros = AttributeProto {
            name: "zeros".to_owned(),
            i: Some(zeros),
            kind: 2,
            ..AttributeProto::default()
        };
        hot.attribute = vec![list, zeros];
        let mut model = model(vec![hot], vec![]);
        model.graph.as_mut().unwrap().output = vec![value("y", &[0, 3, 2])];
        let plan = compiled(&model, &Options::default()).unwrap();
        run(&plan, &[4.0, 2.0, 1.0])
    };
    assert_eq!(hot(1), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(hot(0)[2].is_nan() && hot(0)[3].is_nan());
    assert_eq!(hot(0)[..2], [0.0, 1.0]);
}

/// A square of ones, multiplied by itself again and again.
fn powers(side: i64, count: usize) -> ModelProto {
    let shape = TensorProto {
        data_type: 7,
        int64_data: vec![side, side],
        ..floats("s", &[2], &[])
    };
    let mut nodes = vec![node("ConstantOfShape", &["s"], &["p0"])];
    for k in 0..count {
        let (from, to) = (format!("p{k}"), format!("p{}", k + 1));
        nodes.push(node("MatMul", &[&from, &from], &[&to]));
    }
    let last = format!("p{count}");
    nodes.push(node("ReduceMax", &[&last], &["m"]));
    nodes.push(node("Add", &["x", "m"], &["y"]));
    model(nodes, vec![shape])
}

#[test]
fn folding_constants_has_one_budget_that_is_spent_before_the_work_is_done() {
    let start = std::time::Instant::now();
    let said = refusal(&powers(3500, 3));
    assert!(start.elapsed().as_millis() < 900, "{:?}", start.elapsed());
    assert_eq!(
        said,
        "node 1 (MatMul \"/MatMul\"): takes over 67108864 operations, the most of one node"
    );
    // Each node is within its own bound; the sixteenth brings them over that of all.
    assert_eq!(
        refusal(&powers(400, 40)),
        "node 16 (MatMul \"/MatMul\"): folding constants takes more than 1000000000 operations: compute them before the export"
    );
    assert!(compiled(&powers(8, 40), &Options::default()).is_ok());
}
