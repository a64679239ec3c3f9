//! What is written in a `model.toml` is read strictly: each mistake names its key.

use super::{Architecture, ModelManifest};

const HEAD: &str = r#"
name = "m"
version = "1.0.0"
memory = 32
calibration = 0
max_gap_s = 60.0
author = "a"
created = "2026-11-24"
intended_use = "t"
licence = "MIT"
[training]
data = "none"
hash = ""
"#;

const REST: &str = r#"
[architecture]
kind = "mlp"
layers = [4, 1]
activations = ["tanh", "none"]
[[preprocessing]]
kind = "clip"
low = -8.0
high = 8.0
[postprocessing]
kind = "values"
"#;

fn refusal(rest: &str) -> String {
    let refused = ModelManifest::parse(&format!("{HEAD}{rest}"));
    refused.expect_err("it is refused").to_string()
}

fn replaced(from: &str, to: &str) -> String {
    assert!(REST.contains(from), "no {from}");
    refusal(&REST.replacen(from, to, 1))
}

#[test]
fn a_declared_version_is_read() {
    let manifest = ModelManifest::parse(&format!("{HEAD}{REST}")).unwrap();
    assert_eq!(manifest.architecture.kind(), "mlp");
    assert_eq!(manifest.preprocessing.stages().len(), 1);
    let head = manifest.postprocessing.expect("there is one");
    assert_eq!(head.kind(), "values");
}

#[test]
fn parts_that_are_not_declared_or_not_to_be_declared_are_refused() {
    assert_eq!(
        refusal("[architecture]\nkind = \"linear\"\n"),
        "postprocessing: is missing: what is made of the output of \"linear\"?"
    );
    let chart = "[architecture]\nkind = \"mewma\"\nlambda = 0.1\nbaseline = 0.01\nrecovery = 0.0005\nshrinkage = 0.1\nmargin = 1.5\n";
    let head = "[postprocessing]\nkind = \"values\"\n";
    assert_eq!(
        refusal(&format!("{chart}{head}")),
        "postprocessing: \"mewma\" answers by itself: no table here"
    );
    let clip = "[[preprocessing]]\nkind = \"clip\"\nlow = 0.0\nhigh = 1.0\n";
    assert_eq!(
        refusal(&format!("{chart}{clip}")),
        "preprocessing: \"mewma\" prepares its readings by itself: no tables here"
    );
}

#[test]
fn every_mistake_names_its_key() {
    for (from, to, expected) in [
        (
            "kind = \"mlp\"",
            "kind = \"cnn\"",
            "architecture.kind: \"cnn\" is not an architecture of this build",
        ),
        ("kind = \"mlp\"\n", "", "architecture.kind: is missing"),
        (
            "kind = \"clip\"",
            "kind = \"fft\"",
            "preprocessing[0].kind: \"fft\" is not a stage of this build",
        ),
        (
            "kind = \"values\"",
            "kind = \"vibes\"",
            "postprocessing.kind: \"vibes\" is not a head of this build",
        ),
        (
            "[\"tanh\", \"none\"]",
            "[\"tanh\"]",
            "architecture.activations: expected one for each of 2 layers, got 1",
        ),
        (
            "[4, 1]",
            "[4, 0]",
            "architecture.layers[1]: 0 is not in 1..=8192",
        ),
        (
            "[4, 1]",
            "[4, 100000]",
            "architecture.layers[1]: 100000 is not in 1..=8192",
        ),
        (
            "low = -8.0",
            "low = 9.0",
            "preprocessing[0].low: and high are not two finite numbers, the lower first",
        ),
        (
            "high = 8.0\n",
            "",
            "preprocessing[0].high: missing field `high`",
        ),
    ] {
        assert_eq!(replaced(from, to), expected);
    }
    let unknown = replaced("low = -8.0", "low = -8.0\nmiddle = 0.0");
    assert!(
        unknown.starts_with("preprocessing[0].middle: unknown field"),
        "{unknown}"
    );
    let activation = replaced("\"tanh\", ", "\"tan\", ");
    assert!(
        activation.starts_with("architecture.activations[0]: unknown variant `tan`"),
        "{activation}"
    );
}

#[test]
fn thresholds_are_a_number_or_a_quantile() {
    let score = |threshold: &str| {
        REST.replace(
            "kind = \"values\"",
            &format!("kind = \"score\"\nthreshold = {threshold}"),
        )
    };
    for good in [
        "1.5",
        "2",
        "{ quantile = 0.999, margin = 1.2 }",
        "{ quantile = 0.9, least = 0.1 }",
    ] {
        ModelManifest::parse(&format!("{HEAD}{}", score(good))).unwrap();
    }
    assert_eq!(
        refusal(&score("{ quantile = 1.0 }")),
        "postprocessing.threshold.quantile: is not in 0.5..1"
    );
    assert_eq!(
        refusal(&score("{ quantile = 0.9, margin = 0.5 }")),
        "postprocessing.threshold.margin: is not in 1..=100"
    );
    for bad in ["\"high\"", "{ quantil = 0.9 }", "inf"] {
        let text = refusal(&score(bad));
        assert!(
            text.starts_with("postprocessing.threshold"),
            "{bad}: {text}"
        );
    }
}

#[test]
fn a_graph_lies_in_the_folder_of_its_version() {
    let onnx = |file: &str| {
        format!(
            "[architecture]\nkind = \"onnx\"\nfile = {file:?}\n[postprocessing]\nkind = \"values\"\n"
        )
    };
    let manifest = ModelManifest::parse(&format!("{HEAD}{}", onnx("m.onnx"))).unwrap();
    assert!(matches!(manifest.architecture, Architecture::Onnx(config) if config.file == "m.onnx"));
    for outside in ["../m.onnx", "/etc/passwd", "", ".hidden", "a\\b"] {
        assert_eq!(
            refusal(&onnx(outside)),
            "architecture.file: is not the name of a file in the version's folder"
        );
    }
}
