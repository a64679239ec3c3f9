//! Rules of this repository, kept by reading its files: who may import whom, where bincode may be
//! named, how a file opens, how long it may get, what must not be left behind, what the documents must name.
//!
//! No dependencies and no compiler: `tidy/source.rs` and `tidy/documents.rs` read the files, the rules are the constants below. A
//! rule about a file that does not exist holds. To change a rule, change its constant;
//! `docs/ARCHITECTURE.md` shows the import table as a picture.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use source::{
    files_below, imports, is_text, keys_of, name_of, names_crate, root, rust_files, top_module_of,
    top_modules,
};

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/source.rs"]
mod source;

/// Every module of `src/` and what it may import from the other ones; `ground` and `stations` stand for
/// the modules in GROUPS.
///
/// The stations are layered, not tangled: `store` and `inference` know nobody, `push` reads missed events from the
/// store, a session holds a fold and remembers its door; the road knows them all; the doors know the road; only
/// `app` knows everyone. A new module gets a row before it gets a line.
const MAY_IMPORT: &[(&str, &str)] = &[
    // No station, no road.
    ("config", ""),
    // The words that several parts share.
    ("stream", ""),
    ("telemetry", "config"),
    // The WebSocket stack.
    ("socket", ""),
    // The stations.
    ("inference", "ground"),
    ("store", "ground"),
    ("push", "ground store"),
    ("session", "ground inference push"),
    // Behind the road: follows the committed log, keeps the store within its bounds.
    ("upkeep", "ground store"),
    // Follows the committed log and tells what a person should know.
    ("alert", "ground push store upkeep"),
    // Follows it too, and counts how devices and versions are.
    ("monitor", "ground store upkeep"),
    // What can serve, and who says so: loads versions, keeps their status, makes engines.
    ("registry", "ground inference store"),
    // Which version a device gets, and what that comes to: asked by the road, reads the committed log.
    ("experiment", "ground inference push registry store"),
    // The road.
    ("pipeline", "ground stations experiment upkeep"),
    // The doors: the road and the handles of the stations.
    ("ingest", "ground stations pipeline"),
    (
        "http",
        "ground stations pipeline ingest registry experiment alert monitor",
    ),
    // The stored log run again, and written out for others.
    ("replay", "ground inference store"),
    ("export", "ground store"),
    // Wiring.
    ("app", "*"),
    // The device's side: speaks the protocol, knows nothing of the server.
    ("client", ""),
    // Very many devices at once, cheaply.
    ("load", ""),
    // Commands: start the server, be its client, read its log.
    (
        "cli",
        "app client config export inference load replay store stream telemetry",
    ),
    ("main", "cli"),
    // Declares the modules.
    ("lib", "*"),
];
const GROUPS: &[(&str, &str)] = &[
    ("ground", "config socket stream telemetry"),
    ("stations", "inference push session store"),
];

/// Modules that may name the crate `tidegate_models`: who runs a model, who checks a reading against a
/// schema or tells it, who wires, who simulates rigs, who runs a log again.
const SEES_MODELS: &[&str] = &[
    "app",
    "cli",
    "http",
    "inference",
    "ingest",
    "registry",
    "replay",
];

/// Crates that do no I/O, and what they must therefore not name, in code or manifest.
const PURE_CRATES: &[&str] = &["experiments", "models", "protocol"];
const IMPURE: &[&str] = &[
    "axum",
    "hyper",
    "rumqttc",
    "sqlx",
    "tokio",
    "tokio-tungstenite",
];

/// The server may use the statistics; they use nothing of ours.
const STATISTICS: &str = "experiments";

/// The only file that names bincode, so that the crate can be replaced.
const BINCODE_HOME: &str = "protocol/src/codec.rs";

/// Lines in a Rust file, tests included.
const MAX_LINES: usize = 600;

/// What users read of promises and of running it. The tests that they name show what they say.
const GUARANTEES: &str = "docs/GUARANTEES.md";
const OPERATIONS: &str = "docs/OPERATIONS.md";

/// Left behind in code: unfinished, switched off, or meant for one debugging session.
const LEFTOVERS: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore"];

/// Left behind in any text; put together here so that this file passes its own test.
const LEFTOVER_WORDS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("issue", " #"),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let modules = top_modules();
    let mut broken = Vec::new();
    for file in rust_files(&["src"]) {
        let module = top_module_of(&file);
        let Some(allowed) = allowed_imports(&module) else {
            broken.push(format!(
                "{}: module `{module}` has no row in MAY_IMPORT",
                file.name
            ));
            continue;
        };
        let refused = |name: &&String| !allowed.contains("*") && !allowed.contains(name.as_str());
        for import in imports(&file, &modules).iter().filter(refused) {
            broken.push(format!(
                "{}: `{module}` must not import `{import}`",
                file.name
            ));
        }
    }
    assert_none(&broken);
}

#[test]
fn only_the_modules_listed_see_the_models() {
    let mut broken = Vec::new();
    for file in rust_files(&["src"]) {
        let module = top_module_of(&file);
        if names_crate(&file.code, "tidegate_models") && !SEES_MODELS.contains(&module.as_str()) {
            broken.push(format!(
                "{}: `{module}` must not name tidegate_models",
                file.name
            ));
        }
    }
    assert_none(&broken);
}

#[test]
fn the_pure_crates_do_no_io() {
    let mut broken = Vec::new();
    for folder in PURE_CRATES {
        for dependency in dependencies(&root().join(folder).join("Cargo.toml")) {
            if IMPURE.contains(&dependency.as_str()) {
                broken.push(format!(
                    "{folder}/Cargo.toml: must not depend on {dependency}"
                ));
            }
        }
        for file in rust_files(&[&format!("{folder}/src")]) {
            for name in IMPURE
                .iter()
                .filter(|name| names_crate(&file.code, &name.replace('-', "_")))
            {
                broken.push(format!("{}: must not name {name}", file.name));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn the_statistics_use_nothing_of_ours() {
    let manifest = root().join(STATISTICS).join("Cargo.toml");
    let ours = dependencies(&manifest).into_iter();
    let broken: Vec<String> = ours
        .filter(|name| name.starts_with("tidegate"))
        .map(|name| format!("{STATISTICS}/Cargo.toml: must not depend on {name}"))
        .collect();
    assert_none(&broken);
}

#[test]
fn one_file_names_bincode() {
    let files = rust_files(&[
        "src",
        "protocol",
        "models",
        "experiments",
        "examples",
        "benches",
        "tests",
    ]);
    let broken: Vec<String> = files
        .iter()
        .filter(|file| file.name != BINCODE_HOME && names_crate(&file.code, "bincode"))
        .map(|file| format!("{}: bincode is named in {BINCODE_HOME} only", file.name))
        .collect();
    assert_none(&broken);
}

#[test]
fn every_rust_file_opens_with_its_purpose() {
    let broken: Vec<String> = rust_files(&["."])
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        // A module's own tests say it in their names.
        .filter(|file| !file.name.ends_with("tests.rs"))
        .map(|file| format!("{}: must open with `//! `", file.name))
        .collect();
    assert_none(&broken);
}

#[test]
fn files_stay_short() {
    let broken: Vec<String> = rust_files(&["."])
        .iter()
        .map(|file| (&file.name, file.text.lines().count()))
        .filter(|(_, lines)| *lines >= MAX_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines, split it below {MAX_LINES}"))
        .collect();
    assert_none(&broken);
}

#[test]
fn nothing_is_left_behind() {
    let mut broken = Vec::new();
    for file in rust_files(&["."]) {
        for mark in LEFTOVERS.iter().filter(|mark| file.code.contains(**mark)) {
            broken.push(format!("{}: holds `{mark}`", file.name));
        }
    }
    for path in files_below(&root())
        .into_iter()
        .filter(|path| is_text(path))
    {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for word in LEFTOVER_WORDS.iter().filter(|word| text.contains(**word)) {
            broken.push(format!("{}: holds `{word}`", name_of(&path)));
        }
    }
    assert_none(&broken);
}

#[test]
fn every_dependency_is_accounted_for() {
    let record = "docs/decisions/0004-dependencies.md";
    let text = fs::read_to_string(root().join(record)).expect("the record exists");
    let broken: Vec<String> = external_dependencies()
        .into_iter()
        .filter(|name| !text.contains(&format!("| `{name}` |")))
        .map(|name| format!("{record}: has no row for `{name}`"))
        .collect();
    assert_none(&broken);
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let functions = documents::functions();
    let mut broken = Vec::new();
    for page in [GUARANTEES, OPERATIONS] {
        let named = documents::tests_named(&documents::document(page));
        assert!(!named.is_empty(), "{page} names no test");
        let missing = named.difference(&functions);
        // A metric has as many underscores as a test.
        let missing = missing.filter(|name| !name.starts_with("tidegate_"));
        broken.extend(missing.map(|name| format!("{page}: there is no test `{name}`")));
    }
    assert_none(&broken);
}

#[test]
fn every_key_and_every_metric_is_explained() {
    let text = documents::document(OPERATIONS);
    let keys = documents::config_keys();
    let metrics = documents::metrics();
    // A row of a table: the key, or the metric with its labels.
    let has_row = |name: &&String| {
        ["`", "{"]
            .iter()
            .any(|end| text.contains(&format!("\n| `{name}{end}")))
    };
    let missing = keys.iter().chain(&metrics).filter(|name| !has_row(name));
    let broken: Vec<String> = missing
        .map(|name| format!("{OPERATIONS}: has no row for `{name}`"))
        .collect();
    assert_none(&broken);
}

#[test]
fn dashboards_and_prometheus_rules_name_metrics_that_exist() {
    let metrics = documents::metrics();
    let mut broken = Vec::new();
    let mut named = 0;
    for path in files_below(&root().join("deploy")) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for name in documents::metrics_named(&text) {
            named += 1;
            // What Prometheus makes of a histogram.
            let series = ["_bucket", "_sum", "_count"];
            let plain = series.iter().find_map(|end| name.strip_suffix(end));
            if !metrics.contains(&name) && !plain.is_some_and(|name| metrics.contains(name)) {
                broken.push(format!("{}: there is no metric `{name}`", name_of(&path)));
            }
        }
    }
    assert!(named > 20, "deploy/ names {named} metrics");
    assert_none(&broken);
}

fn allowed_imports(module: &str) -> Option<BTreeSet<&str>> {
    let (own, words) = MAY_IMPORT.iter().find(|(name, _)| *name == module)?;
    let mut allowed = BTreeSet::from([*own]);
    for word in words.split_whitespace() {
        match GROUPS.iter().find(|(group, _)| *group == word) {
            Some((_, members)) => allowed.extend(members.split_whitespace()),
            None => _ = allowed.insert(word),
        }
    }
    Some(allowed)
}

/// What the workspace takes from outside.
fn external_dependencies() -> Vec<String> {
    let named = keys_of(&root().join("Cargo.toml"), |section| {
        section == "workspace.dependencies"
    });
    named
        .into_iter()
        .filter(|name| !name.starts_with("tidegate-"))
        .collect()
}

/// Names in the `[dependencies]` tables of a manifest (not those for tests).
fn dependencies(manifest: &Path) -> Vec<String> {
    keys_of(manifest, |section| {
        section == "dependencies" || section.ends_with(".dependencies")
    })
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n  {}\n", broken.join("\n  "));
}
