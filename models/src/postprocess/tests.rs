//! Heads answer in the words of their task, learn thresholds in the second half of the calibration, and mistakes are named.

use std::sync::Arc;

use crate::declared::Declared;
use crate::manifest::Mistake;
use crate::network::{Network, Port, PortKind};
use crate::{EndpointManifest, Model, ModelManifest, Output};

/// Gives its input row back, cut into ports.
struct Echo {
    inputs: usize,
    ports: Vec<Port>,
}

impl Network for Echo {
    fn kind(&self) -> &str {
        "echo-1"
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn step(&self, _: &mut [f32], input: &[f32], output: &mut [f32], _: &mut [f32]) {
        output.copy_from_slice(&input[..output.len()]);
    }

    fn reference(&self, _: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        Ok(input[..self.outputs()].to_vec())
    }
}

fn values(len: usize) -> Vec<Port> {
    vec![Port::values("output", 0..len)]
}

fn class(at: usize, labels: &[&str]) -> Port {
    Port {
        name: "label".to_owned(),
        range: at..at + 1,
        classes: Some(labels.iter().map(|label| (*label).to_owned()).collect()),
        kind: PortKind::Class,
    }
}

/// A version of three features over an echo with `ports`; `rest` is the manifest from `calibration` on.
fn version(task: &str, ports: Vec<Port>, rest: &str) -> Result<Declared, Mistake> {
    let features: String = (0..3)
        .map(|k| format!("[[features]]\nname = \"f{k}\"\nunit = \"\"\n"))
        .collect();
    let endpoint = EndpointManifest::parse(&format!(
        "name = \"e\"\ndescription = \"d\"\nrevision = 1\ntask = \"{task}\"\ndefault = \"m/1.0.0\"\n{features}"
    ))
    .unwrap();
    let manifest = ModelManifest::parse(&format!(
        "name = \"m\"\nversion = \"1.0.0\"\nmemory = 8\nmax_gap_s = 60.0\nauthor = \"a\"\ncreated = \"2026-11-24\"\n\
         intended_use = \"t\"\nlicence = \"MIT\"\n{rest}\n[training]\ndata = \"none\"\nhash = \"\"\n\
         [architecture]\nkind = \"linear\"\n"
    ))
    .unwrap();
    Declared::new(&endpoint, &manifest, |pipeline| {
        let inputs = pipeline.width();
        Ok(Arc::new(Echo { inputs, ports }) as Arc<dyn Network>)
    })
}

fn head(task: &str, ports: Vec<Port>, head: &str) -> Declared {
    version(
        task,
        ports,
        &format!("calibration = 0\n[postprocessing]\n{head}"),
    )
    .unwrap()
}

fn mistake(task: &str, ports: Vec<Port>, rest: &str) -> String {
    let refused = version(task, ports, rest);
    refused.err().expect("it is refused").to_string()
}

struct Stream<'m> {
    model: &'m Declared,
    state: Vec<f32>,
}

impl<'m> Stream<'m> {
    fn new(model: &'m Declared) -> Self {
        let mut state = vec![9.0; model.layout().len()];
        model.init(&mut state);
        Self { model, state }
    }

    fn take(&mut self, values: [f32; 3]) -> Output {
        self.model.step(&mut self.state, &values)
    }

    /// Score, threshold, anomaly.
    fn judge(&mut self, values: [f32; 3]) -> (f32, f32, bool) {
        match self.take(values) {
            Output::Anomaly {
                score,
                threshold,
                anomaly,
            } => (score, threshold, anomaly),
            other => panic!("expected an anomaly, got {other:?}"),
        }
    }
}

/// (label, probabilities) for one reading.
fn classified(model: &Declared, values: [f32; 3]) -> (String, Vec<f32>) {
    match Stream::new(model).take(values) {
        Output::Classification {
            labels,
            probabilities,
            label,
        } => (labels[label].clone(), probabilities),
        other => panic!("expected a class, got {other:?}"),
    }
}

#[test]
fn values_are_named_and_scaled_back() {
    let model = head(
        "regression",
        values(2),
        "kind = \"values\"\nnames = [\"a\", \"b\"]\nscale = [2.0, 1.0]\noffset = [0.5, 0.0]",
    );
    let expected = Output::Regression {
        names: ["a".to_owned(), "b".to_owned()].into(),
        values: vec![2.5, 7.0],
    };
    assert_eq!(Stream::new(&model).take([1.0, 7.0, 0.0]), expected);
    let unnamed = head("regression", values(2), "kind = \"values\"");
    let Output::Regression { names, .. } = Stream::new(&unnamed).take([1.0, 7.0, 0.0]) else {
        panic!("not a regression");
    };
    assert_eq!(*names, ["output_0", "output_1"]);
}

#[test]
fn classes_come_from_softmax_sigmoid_or_as_they_are() {
    let three = "labels = [\"a\", \"b\", \"c\"]";
    let plain = head(
        "classification",
        values(3),
        &format!("kind = \"classes\"\n{three}"),
    );
    assert_eq!(
        classified(&plain, [0.4, 0.5, 0.1]),
        ("b".to_owned(), vec![0.4, 0.5, 0.1])
    );
    assert_eq!(
        classified(&plain, [0.4, 0.4, 0.2]).0,
        "a",
        "the first of equals"
    );
    let soft = head(
        "classification",
        values(3),
        &format!("kind = \"classes\"\n{three}\nactivation = \"softmax\""),
    );
    let (label, p) = classified(&soft, [1.0, 3.0, 2.0]);
    let sum = 1.0_f32.exp() + 2.0_f32.exp() + 3.0_f32.exp();
    assert_eq!(label, "b");
    assert!(
        (p[0] - 1.0_f32.exp() / sum).abs() < 1e-6 && (p.iter().sum::<f32>() - 1.0).abs() < 1e-6
    );
    assert_eq!(classified(&soft, [1000.0, -1000.0, 0.0]).1, [1.0, 0.0, 0.0]);
    let two = head(
        "classification",
        values(1),
        "kind = \"classes\"\nlabels = [\"ok\", \"worn\"]\nactivation = \"sigmoid\"",
    );
    assert_eq!(
        classified(&two, [0.0, 0.0, 0.0]),
        ("ok".to_owned(), vec![0.5, 0.5])
    );
    assert_eq!(classified(&two, [2.0, 0.0, 0.0]).0, "worn");
    let rest = head(
        "classification",
        values(3),
        &format!("kind = \"classes\"\n{three}\nactivation = \"sigmoid\""),
    );
    let (label, p) = classified(&rest, [0.0, -1.0, 1.0]);
    assert!(label == "c" && (p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
}

#[test]
fn a_network_that_chooses_the_class_itself_is_believed() {
    let ports = vec![Port::values("probabilities", 0..2), class(2, &["x", "y"])];
    let model = head("classification", ports.clone(), "kind = \"classes\"");
    assert_eq!(
        classified(&model, [0.9, 0.1, 1.0]),
        ("y".to_owned(), vec![0.9, 0.1])
    );
    let renamed = head(
        "classification",
        ports,
        "kind = \"classes\"\nlabels = [\"ok\", \"worn\"]",
    );
    assert_eq!(classified(&renamed, [0.9, 0.1, 1.0]).0, "worn");
    let alone = head(
        "classification",
        vec![class(0, &["x", "y"])],
        "kind = \"classes\"",
    );
    assert_eq!(
        classified(&alone, [1.0, 0.0, 0.0]),
        ("y".to_owned(), vec![0.0, 1.0])
    );
    for bad in [2.0, -1.0, f32::MAX] {
        let failed = Stream::new(&alone).take([bad, 0.0, 0.0]);
        assert!(matches!(failed, Output::Failed { .. }), "{bad}: {failed:?}");
    }
}

#[test]
fn probabilities_are_found_beside_a_label_that_is_a_number() {
    let label = Port::values("output_label", 0..1);
    let two = "kind = \"classes\"\nlabels = [\"a\", \"b\"]";
    let wide = vec![label.clone(), Port::values("probabilities", 1..3)];
    let model = head("classification", wide, two);
    let expected = ("a".to_owned(), vec![0.6, 0.4]);
    assert_eq!(classified(&model, [1.0, 0.6, 0.4]), expected);
    let named = Port {
        classes: Some(["a".to_owned(), "b".to_owned()].into()),
        ..Port::values("output_probability", 1..3)
    };
    let model = head("classification", vec![label, named], "kind = \"classes\"");
    assert_eq!(classified(&model, [1.0, 0.6, 0.4]), expected);
}

#[test]
fn a_fixed_threshold_is_held_against_a_turned_score() {
    let model = head(
        "anomaly",
        values(2),
        "kind = \"score\"\nindex = 1\nsign = -1.0\noffset = 0.5\nthreshold = 1.0",
    );
    let mut stream = Stream::new(&model);
    assert_eq!(stream.judge([0.0, -0.5, 0.0]), (1.0, 1.0, false));
    assert_eq!(stream.judge([0.0, -0.75, 0.0]), (1.25, 1.0, true));
}

#[test]
fn a_learned_threshold_is_the_quantile_of_the_second_half_of_the_calibration() {
    let head = "[postprocessing]\nkind = \"score\"\nthreshold = { quantile = 0.9, margin = 1.5 }";
    let model = version("anomaly", values(1), &format!("calibration = 200\n{head}")).unwrap();
    let mut stream = Stream::new(&model);
    for t in 0..200_u32 {
        // Large in the first half, 0..=99 in the second, in a mixed order.
        let score = if t < 100 {
            1e5
        } else {
            f64::from(t * 37 % 100) as f32
        };
        let expected = Output::Calibrating {
            seen: t + 1,
            needed: 200,
        };
        assert_eq!(stream.take([score, 0.0, 0.0]), expected);
    }
    // Ten of a hundred are above the quantile 89.
    assert_eq!(stream.judge([133.5, 0.0, 0.0]), (133.5, 133.5, false));
    assert!(stream.judge([134.0, 0.0, 0.0]).2);
    let learned = stream.state.clone();
    (0..1_000).for_each(|_| {
        stream.judge([1e4, 0.0, 0.0]);
    });
    let judged = model.layout().range("head.threshold").unwrap();
    assert_eq!(
        stream.state[judged.clone()],
        learned[judged.clone()],
        "a fault is not learned"
    );
    model.forget(&mut stream.state);
    assert_eq!(stream.state[judged.clone()], learned[judged]);
    assert_eq!(stream.judge([0.0, 0.0, 0.0]).1, 133.5);
}

#[test]
fn smoothing_follows_the_scores_and_starts_anew_after_a_silence() {
    let model = head(
        "anomaly",
        values(1),
        "kind = \"score\"\nsmoothing = 0.25\nthreshold = 3.0",
    );
    let mut stream = Stream::new(&model);
    assert_eq!(stream.judge([4.0, 0.0, 0.0]), (4.0, 3.0, true));
    assert_eq!(stream.judge([0.0, 0.0, 0.0]), (3.0, 3.0, false));
    model.forget(&mut stream.state);
    assert_eq!(stream.judge([1.0, 0.0, 0.0]).0, 1.0);
}

#[test]
fn what_a_forecast_got_wrong_is_held_against_the_next_row() {
    // The echo forecasts that f0 and f1 stay as they are.
    let model = head(
        "anomaly",
        values(2),
        "kind = \"residual\"\nof = \"forecast\"\ntargets = [\"f0\", \"f1\"]\nscale = [1.0, 2.0]\nthreshold = 2.0",
    );
    let mut stream = Stream::new(&model);
    assert_eq!(stream.judge([1.0, 2.0, 3.0]), (0.0, 2.0, false));
    assert_eq!(stream.judge([1.0, 2.0, 9.0]).0, 0.0);
    let (score, _, anomaly) = stream.judge([4.0, 10.0, 9.0]);
    assert_eq!((score, anomaly), (((9.0 + 16.0) / 2.0_f32).sqrt(), true));
    model.forget(&mut stream.state);
    assert_eq!(
        stream.judge([50.0, 50.0, 9.0]).0,
        0.0,
        "a forecast from before the silence is none"
    );
}

#[test]
fn a_reconstruction_is_held_against_its_input() {
    let model = head("anomaly", values(3), "kind = \"residual\"\nthreshold = 0.5");
    assert_eq!(
        Stream::new(&model).judge([1.0, -5.0, 3.0]),
        (0.0, 0.5, false)
    );
}

#[test]
fn a_forecast_is_told_in_the_units_of_its_target() {
    let stages = "[[preprocessing]]\nkind = \"standardise\"\nmean = [10.0, 20.0, 30.0]\nscale = [1.0, 2.0, 4.0]\n";
    let head = "[postprocessing]\nkind = \"forecast\"\nhorizon = [1, 5]\ntarget = \"f1\"\nrelative = true\nrestore = true\nquantiles = [0.9]";
    let mut ports = values(4);
    let rest = format!("calibration = 0\n{stages}{head}");
    assert!(
        mistake(
            "forecast",
            ports.clone(),
            &rest.replace("quantiles = [0.9]", "")
        )
        .starts_with("postprocessing.horizon: expected")
    );
    ports.push(Port::values("spare", 4..6));
    let window = "[[preprocessing]]\nkind = \"window\"\nlength = 2\n[postprocessing]";
    let model = version("forecast", ports, &rest.replace("[postprocessing]", window)).unwrap();
    // The row: [1, 2, 0, 1, 2, 0]; f1 stands at 2 of its scales above 20.
    let Output::Forecast {
        horizon,
        values,
        quantiles,
    } = Stream::new(&model).take([11.0, 24.0, 30.0])
    else {
        panic!("not a forecast");
    };
    assert_eq!((&*horizon, &*values), (&[1, 5][..], &[26.0, 28.0][..]));
    assert_eq!(quantiles, [(0.9, vec![24.0, 26.0])]);
}

#[test]
fn a_reading_that_must_not_miss_a_value_is_answered_with_the_reason_and_changes_nothing() {
    let rest = "calibration = 0\n[[preprocessing]]\nkind = \"missing\"\npolicy = \"refuse\"\n[[preprocessing]]\nkind = \"difference\"\n[postprocessing]\nkind = \"values\"";
    let model = version("regression", values(3), rest).unwrap();
    let mut stream = Stream::new(&model);
    stream.take([1.0, 2.0, 3.0]);
    let before = stream.state.clone();
    let failed = Output::Failed {
        reason: "the value of \"f1\" is missing".into(),
    };
    assert_eq!(stream.take([1.0, f32::NAN, 3.0]), failed);
    assert_eq!(stream.state, before);
    // In a batch it fails alone.
    let (mut a, mut b) = (before.clone(), before);
    let mut outputs = [failed.clone(), failed];
    model.step_batch(
        &mut [&mut a, &mut b],
        &[&[2.0, 2.0, 3.0], &[f32::NAN, 2.0, 3.0]],
        &mut outputs,
    );
    assert!(matches!(outputs[0], Output::Regression { .. }));
    assert_eq!(
        outputs[1],
        Output::Failed {
            reason: "the value of \"f0\" is missing".into()
        }
    );
}

#[test]
fn a_network_that_overflows_in_the_calibration_teaches_nothing() {
    let rest = "calibration = 20\n[[preprocessing]]\nkind = \"missing\"\npolicy = \"keep\"\n[postprocessing]\nkind = \"score\"\nthreshold = { quantile = 0.9 }";
    let model = version("anomaly", values(1), rest).unwrap();
    let mut stream = Stream::new(&model);
    assert!(matches!(
        stream.take([f32::NAN, 0.0, 0.0]),
        Output::Failed { .. }
    ));
}

#[test]
fn a_head_that_does_not_fit_is_named() {
    let none = "calibration = 0\n[postprocessing]\n";
    let labels = |count: usize| {
        format!(
            "{none}kind = \"classes\"\nlabels = {:?}",
            &["a", "b", "c"][..count]
        )
    };
    for (task, ports, rest, expected) in [
        ("anomaly", values(3), labels(3), "postprocessing.kind: \"classes\" answers classification, the endpoint asks for anomaly"),
        ("classification", values(3), labels(2), "postprocessing.labels: are 2, \"output\" holds 3 values"),
        ("classification", values(3), format!("{none}kind = \"classes\""), "postprocessing.labels: are missing: the network does not know its classes"),
        ("classification", vec![class(0, &["x", "y"])], labels(3), "postprocessing.labels: are 3, the network has 2 classes"),
        ("regression", values(1), format!("{none}kind = \"values\"\noutput = \"y\""), "postprocessing.output: \"y\" is not an output; there are output"),
        ("regression", values(2), format!("{none}kind = \"values\"\nnames = [\"a\"]"), "postprocessing.names: expected 2, one a value of \"output\", got 1"),
        ("anomaly", values(2), format!("{none}kind = \"score\"\nindex = 2\nthreshold = 1.0"), "postprocessing.index: 2 is not in the 2 values of \"output\""),
        ("anomaly", values(2), format!("{none}kind = \"residual\"\nthreshold = 1.0"), "postprocessing.output: \"output\" holds 2 values, the row that the network takes 3"),
        ("forecast", values(1), format!("{none}kind = \"forecast\"\nhorizon = [1]\ntarget = \"speed\""), "postprocessing.target: \"speed\" is not a feature of the endpoint"),
        ("anomaly", values(1), format!("{none}kind = \"score\"\nthreshold = {{ quantile = 0.9 }}"), "calibration: is 0, and something learns in it: at least 16"),
        ("anomaly", values(1), "calibration = 50\n[postprocessing]\nkind = \"score\"\nthreshold = 1.0".to_owned(), "calibration: is not 0, and nothing learns in it"),
        ("anomaly", values(1), "calibration = 100000\n[postprocessing]\nkind = \"score\"\nthreshold = { quantile = 0.5 }".to_owned(), "postprocessing.threshold.quantile: needs the 25001 largest of 50000 scores kept, at most 2048: raise it, or shorten the calibration"),
        ("anomaly", values(1), "calibration = 0\n[[preprocessing]]\nkind = \"window\"\nlength = 20\n[postprocessing]\nkind = \"score\"\nthreshold = 1.0".to_owned(), "memory: is 8, the stages look 19 readings back"),
    ] {
        assert_eq!(mistake(task, ports, &rest), expected);
    }
}
