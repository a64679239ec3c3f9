//! Reads the documents for `tests/tidy.rs`: which tests they name, and which keys and metrics the code has that they must name.
//!
//! Text in, names out; no rule lives here.

use super::source::{RustFile, root, rust_files};
use std::collections::BTreeSet;
use std::fs;

/// Underscores of a name that can only be a test's.
const UNDERSCORES: usize = 3;

/// The text of a document.
pub fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands between backticks and is a name, with so many underscores that it names a test.
pub fn tests_named(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| name.matches('_').count() >= UNDERSCORES && is_name(name);
    quoted.filter(is_test).map(str::to_owned).collect()
}

/// Every function of the workspace by name.
pub fn functions() -> BTreeSet<String> {
    let files = rust_files(&["src", "tests", "protocol", "models", "experiments"]);
    files.iter().flat_map(functions_of).collect()
}

/// Keys of the configuration in the form of a file: `listen`, `store.queue`.
pub fn config_keys() -> BTreeSet<String> {
    let raw = document("src/config/raw.rs");
    let mut keys = BTreeSet::new();
    for part in raw.split("pub struct Raw").skip(1) {
        let name = part.split(' ').next().unwrap_or_default();
        let fields = part.split("\n}").next().unwrap_or_default();
        for field in fields.lines().filter_map(field_of) {
            match name {
                // A field of the whole that is a part of its own is no key.
                "Config" if fields.contains(&format!("pub {field}: Raw")) => {}
                "Config" => _ = keys.insert(field.to_owned()),
                part => _ = keys.insert(format!("{}.{field}", part.to_lowercase())),
            }
        }
    }
    keys
}

/// Names of metrics as Prometheus sees them.
pub fn metrics() -> BTreeSet<String> {
    let quoted = document("src/telemetry.rs");
    let quoted = quoted.split('"').skip(1).step_by(2);
    let is_metric = |text: &&str| text.starts_with("tidegate_") && is_name(text);
    quoted.filter(is_metric).map(str::to_owned).collect()
}

/// Names in any text that can only be metrics'.
pub fn metrics_named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_metric = |word: &&str| word.starts_with("tidegate_") && is_name(word);
    words.filter(is_metric).map(str::to_owned).collect()
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.chars().all(allowed)
}

fn functions_of(file: &RustFile) -> Vec<String> {
    let heads = file.code.split("fn ").skip(1);
    let name = |head: &str| {
        head.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .next()
            .map(str::to_owned)
    };
    heads.filter_map(name).collect()
}

/// `name` of `    pub name: Type,`.
fn field_of(line: &str) -> Option<&str> {
    line.trim()
        .strip_prefix("pub ")?
        .split_once(':')
        .map(|(name, _)| name)
}

#[test]
fn names_are_told_from_other_words_between_backticks() {
    let text =
        "`store.queue`, `a_test_of_mine` and `tidegate_x` (`a_b_c`), `A_B_C_D`, `fn is_it_b_c`";
    assert_eq!(
        tests_named(text),
        BTreeSet::from(["a_test_of_mine".to_owned()])
    );
}

#[test]
fn keys_and_metrics_are_found_in_the_code() {
    let (keys, metrics) = (config_keys(), metrics());
    for key in ["listen", "store.queue", "mqtt.share_hashes_by_topic"] {
        assert!(keys.contains(key), "{keys:?}");
    }
    assert!(!keys.contains("store"), "{keys:?}");
    assert!(metrics.contains("tidegate_store_queue_rows"), "{metrics:?}");
}
