//! Inputs to rows in the order of the features, predictions to tensors. Pure.
//!
//! Readings come as one tensor `[rows, features]` of any name, or as a column `[rows]` or `[rows, 1]` a feature, named by it, in any
//! order; a feature that is not sent is missing. Every answer has as many rows as the request. A row that has no answer yet (the
//! stream is still calibrating) or none at all (the step failed) has 0 for numbers and an empty label, and `state` says which.

use super::message::{Input, Output as Tensor};
use super::tensor::Data;
use serde_json::{Map, Value};
use tidegate_models::{Feature, Task};
use tidegate_protocol::{MISSING, Output};

/// Rows of one value a feature.
///
/// # Errors
/// The input by its name and what does not fit.
pub fn rows(features: &[Feature], inputs: &[Input]) -> Result<Vec<Vec<f32>>, String> {
    match inputs {
        [] => Err("no inputs".into()),
        [whole] if whole.shape.1 == features.len() => Ok(whole
            .values
            .chunks(features.len())
            .map(<[f32]>::to_vec)
            .collect()),
        // A row of all features without its first dimension.
        [whole] if whole.shape == (features.len(), 1) && place(features, whole).is_none() => {
            Ok(vec![whole.values.clone()])
        }
        columns => by_column(features, columns),
    }
}

fn place(features: &[Feature], input: &Input) -> Option<usize> {
    features
        .iter()
        .position(|feature| feature.name == input.name)
}

fn by_column(features: &[Feature], columns: &[Input]) -> Result<Vec<Vec<f32>>, String> {
    let count = columns[0].shape.0;
    let mut rows = vec![vec![MISSING; features.len()]; count];
    let mut seen = vec![false; features.len()];
    for column in columns {
        let name: String = column.name.chars().take(64).collect();
        let Some(place) = place(features, column) else {
            return Err(format!(
                "input {name:?} [{}, {}] is no feature: send one tensor [rows, {}], or a column a feature",
                column.shape.0,
                column.shape.1,
                features.len()
            ));
        };
        if std::mem::replace(&mut seen[place], true) {
            return Err(format!("input {name:?} is sent twice"));
        }
        if column.shape != (count, 1) {
            return Err(format!(
                "input {name:?} has {} rows of {} values, expected {count} of 1",
                column.shape.0, column.shape.1
            ));
        }
        for (row, value) in rows.iter_mut().zip(&column.values) {
            row[place] = *value;
        }
    }
    Ok(rows)
}

/// The tensors of a task's answers to some rows, in a fixed order. `template` is what an answer of the version is made of: without a
/// row that is ready nothing else says which classes, quantities or steps there are.
pub fn tensors(task: Task, template: Option<&Output>, outputs: &[Output]) -> Vec<Tensor> {
    let mut tensors = match task {
        Task::Anomaly => anomaly(outputs),
        Task::Classification => classification(template, outputs),
        Task::Regression => regression(template, outputs),
        Task::Forecast => forecast(template, outputs),
    };
    let states = outputs.iter().map(state).collect();
    tensors.push(column("state", Data::Texts(states), outputs.len()));
    tensors
}

fn column(name: impl Into<String>, data: Data, rows: usize) -> Tensor {
    Tensor {
        name: name.into(),
        shape: vec![rows],
        data,
        parameters: Map::new(),
    }
}

/// `ready`, or why there is no answer.
fn state(output: &Output) -> String {
    match output {
        Output::Calibrating { seen, needed } => format!("calibrating {seen}/{needed}"),
        Output::Failed(reason) => format!("failed: {reason}"),
        Output::Skipped(reason) => format!("skipped: {reason}"),
        _ => "ready".into(),
    }
}

fn anomaly(outputs: &[Output]) -> Vec<Tensor> {
    let of = |output: &Output| match output {
        Output::Anomaly {
            score,
            threshold,
            anomaly,
        } => (*score, *threshold, *anomaly),
        _ => (0.0, 0.0, false),
    };
    let rows: Vec<_> = outputs.iter().map(of).collect();
    let floats = |pick: fn(&(f32, f32, bool)) -> f32| Data::Floats(rows.iter().map(pick).collect());
    let flags = Data::Bools(rows.iter().map(|row| row.2).collect());
    vec![
        column("score", floats(|row| row.0), rows.len()),
        column("threshold", floats(|row| row.1), rows.len()),
        column("anomaly", flags, rows.len()),
    ]
}

fn classification(template: Option<&Output>, outputs: &[Output]) -> Vec<Tensor> {
    let classes = outputs
        .iter()
        .chain(template)
        .find_map(|output| match output {
            Output::Classification { probabilities, .. } => Some(probabilities),
            _ => None,
        });
    let width = classes.map_or(0, Vec::len);
    let (mut labels, mut floats) = (Vec::new(), Vec::new());
    for output in outputs {
        if let Output::Classification {
            label,
            probabilities,
        } = output
        {
            labels.push(label.clone());
            floats.extend(probabilities.iter().map(|(_, probability)| *probability));
        } else {
            labels.push(String::new());
            floats.extend(std::iter::repeat_n(0.0, width));
        }
    }
    let names: Option<Value> =
        classes.map(|classes| classes.iter().map(|(name, _)| name.as_str()).collect());
    let probabilities = Tensor {
        shape: vec![outputs.len(), width],
        parameters: names
            .map(|names| ("classes".to_owned(), names))
            .into_iter()
            .collect(),
        ..column("probabilities", Data::Floats(floats), outputs.len())
    };
    vec![
        column("label", Data::Texts(labels), outputs.len()),
        probabilities,
    ]
}

fn regression(template: Option<&Output>, outputs: &[Output]) -> Vec<Tensor> {
    let named = |output: &Output| match output {
        Output::Regression { values } => Some(values.clone()),
        _ => None,
    };
    let Some(names) = outputs.iter().chain(template).find_map(named) else {
        return Vec::new();
    };
    let of = |place: usize| {
        let values = outputs
            .iter()
            .map(|output| named(output).and_then(|values| Some(values.get(place)?.1)));
        Data::Floats(values.map(Option::unwrap_or_default).collect())
    };
    let columns = names.iter().enumerate();
    columns
        .map(|(place, (name, _))| column(name, of(place), outputs.len()))
        .collect()
}

fn forecast(template: Option<&Output>, outputs: &[Output]) -> Vec<Tensor> {
    let example = outputs
        .iter()
        .chain(template)
        .find_map(|output| match output {
            Output::Forecast {
                horizon, quantiles, ..
            } => Some((horizon, quantiles)),
            _ => None,
        });
    let Some((horizon, quantiles)) = example else {
        return Vec::new();
    };
    let ahead: Value = horizon.iter().map(|steps| f64::from(*steps)).collect();
    let parameters: Map<_, _> = [("horizon".to_owned(), ahead)].into_iter().collect();
    let table = |name: String, pick: &dyn Fn(&Output) -> Option<Vec<f32>>| {
        let none = || vec![0.0; horizon.len()];
        let rows = outputs
            .iter()
            .flat_map(|output| pick(output).unwrap_or_else(none));
        Tensor {
            shape: vec![outputs.len(), horizon.len()],
            parameters: parameters.clone(),
            ..column(name, Data::Floats(rows.collect()), outputs.len())
        }
    };
    let values = table("values".into(), &|output| match output {
        Output::Forecast { values, .. } => Some(values.clone()),
        _ => None,
    });
    let bands = quantiles.iter().enumerate().map(|(place, (quantile, _))| {
        table(format!("quantile_{quantile}"), &|output| match output {
            Output::Forecast { quantiles, .. } => Some(quantiles.get(place)?.1.clone()),
            _ => None,
        })
    });
    std::iter::once(values).chain(bands).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Vec<Feature> {
        let feature = |name: &str| Feature {
            name: name.into(),
            unit: String::new(),
            range: None,
            hard_range: None,
        };
        vec![feature("a"), feature("b")]
    }

    fn input(name: &str, shape: (usize, usize), values: &[f32]) -> Input {
        Input {
            name: name.into(),
            shape,
            values: values.to_vec(),
        }
    }

    #[test]
    fn one_tensor_and_columns_in_any_order_are_the_same_rows() {
        let expected = vec![vec![1.0, 2.0], vec![3.0, 4.0]];
        let whole = [input("x", (2, 2), &[1.0, 2.0, 3.0, 4.0])];
        assert_eq!(rows(&features(), &whole), Ok(expected.clone()));
        let columns = [
            input("b", (2, 1), &[2.0, 4.0]),
            input("a", (2, 1), &[1.0, 3.0]),
        ];
        assert_eq!(rows(&features(), &columns), Ok(expected));
        let one = [input("x", (2, 1), &[1.0, 2.0])];
        assert_eq!(rows(&features(), &one), Ok(vec![vec![1.0, 2.0]]));
    }

    #[test]
    fn a_column_that_is_not_sent_is_missing() {
        let rows = rows(&features(), &[input("b", (1, 1), &[2.0])]).expect("rows");
        assert!(rows[0][0].is_nan());
        assert_eq!(rows[0][1].to_bits(), 2.0_f32.to_bits());
    }

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let refused = |inputs: &[Input]| rows(&features(), inputs).expect_err("refused");
        let (a, b) = (input("a", (2, 1), &[1.0, 2.0]), input("b", (1, 1), &[1.0]));
        assert!(refused(&[a, b]).starts_with("input \"b\" has 1 rows"));
        let twice = [input("a", (1, 1), &[1.0]), input("a", (1, 1), &[1.0])];
        assert_eq!(refused(&twice), "input \"a\" is sent twice");
        let unknown = [input("a", (1, 1), &[1.0]), input("c", (1, 1), &[1.0])];
        assert!(refused(&unknown).starts_with("input \"c\" [1, 1] is no feature"));
        assert_eq!(refused(&[]), "no inputs");
    }

    #[test]
    fn a_row_without_an_answer_keeps_its_place_and_says_why() {
        let outputs = [
            Output::Calibrating { seen: 1, needed: 4 },
            Output::Anomaly {
                score: 2.0,
                threshold: 1.0,
                anomaly: true,
            },
        ];
        let tensors = tensors(Task::Anomaly, None, &outputs);
        let names: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["score", "threshold", "anomaly", "state"]);
        assert_eq!(tensors[0].data, Data::Floats(vec![0.0, 2.0]));
        let states = vec!["calibrating 1/4".to_owned(), "ready".to_owned()];
        assert_eq!(tensors[3].data, Data::Texts(states));
    }

    #[test]
    fn rows_that_are_all_without_an_answer_have_the_width_of_one() {
        let template = Output::Classification {
            label: "ok".into(),
            probabilities: vec![("ok".into(), 0.0), ("worn".into(), 0.0)],
        };
        let outputs = [Output::Calibrating { seen: 1, needed: 4 }];
        let tensors = tensors(Task::Classification, Some(&template), &outputs);
        assert_eq!(tensors[0].data, Data::Texts(vec![String::new()]));
        assert_eq!(tensors[1].shape, [1, 2]);
        assert_eq!(tensors[1].data, Data::Floats(vec![0.0, 0.0]));
    }

    #[test]
    fn classes_are_named_beside_their_probabilities() {
        let outputs = [Output::Classification {
            label: "worn".into(),
            probabilities: vec![("ok".into(), 0.25), ("worn".into(), 0.75)],
        }];
        let tensors = tensors(Task::Classification, None, &outputs);
        assert_eq!(tensors[0].data, Data::Texts(vec!["worn".into()]));
        assert_eq!(tensors[1].shape, [1, 2]);
        assert_eq!(
            tensors[1].parameters["classes"],
            serde_json::json!(["ok", "worn"])
        );
    }
}
