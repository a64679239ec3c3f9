//! `docs/MODELS.md` shows only what is read: each of its TOML examples is parsed, and every kind has one.

use std::fs;
use std::path::Path;

use tidegate_models::{EndpointManifest, ModelManifest};

/// What an example leaves out.
const HEAD: &str = "name = \"m\"\nversion = \"1.0.0\"\nmemory = 2000\ncalibration = 0\nmax_gap_s = 60.0\nauthor = \"a\"\n\
                    created = \"2026-11-24\"\nintended_use = \"t\"\nlicence = \"MIT\"\ntraining = { data = \"none\", hash = \"\" }\n";
const NETWORK: &str = "[architecture]\nkind = \"linear\"\n";
const ANSWER: &str = "[postprocessing]\nkind = \"values\"\n";

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MODELS.md");
    fs::read_to_string(path).expect("the page is in the repository")
}

/// The TOML blocks of the page.
fn examples() -> Vec<String> {
    let page = page();
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn every_example_of_the_page_is_read() {
    let examples = examples();
    assert!(examples.len() > 15, "{} examples", examples.len());
    for example in examples {
        if example.contains("[[features]]") {
            EndpointManifest::parse(&example)
                .unwrap_or_else(|mistake| panic!("{mistake}\n{example}"));
            continue;
        }
        let mut text = example.clone();
        if !example.starts_with("name = ") {
            text = format!("{HEAD}{example}");
            for (table, default) in [("[architecture]", NETWORK), ("[postprocessing]", ANSWER)] {
                if !example.contains(table) {
                    text += default;
                }
            }
        }
        ModelManifest::parse(&text).unwrap_or_else(|mistake| panic!("{mistake}\n{example}"));
    }
}

#[test]
fn every_kind_has_an_example() {
    let shown = examples().concat();
    let of = |kinds: &str| {
        kinds
            .split(' ')
            .map(|kind| format!("kind = \"{kind}\""))
            .collect::<Vec<_>>()
    };
    let architectures = of("linear mlp gru lstm tcn pca trees onnx");
    let stages = of("missing select standardise clip difference lags rolling window");
    let heads = of("values classes score residual forecast");
    for kind in architectures.into_iter().chain(stages).chain(heads) {
        assert!(shown.contains(&kind), "{kind} has no example");
    }
}
