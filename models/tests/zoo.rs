//! The zoo as users get it: it loads, its golden runs hold, its identity is exact, and each mistake in it is named.
//!
//! `TIDEGATE_BLESS=1 cargo test -p tidegate-models --test zoo` writes the golden run of `mewma/1.0.0` anew.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_models::load::{Files, hash_folder, load_version, read_folder};
use tidegate_models::{EndpointManifest, Zoo, golden};

fn zoo_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo")
}

fn endpoint() -> EndpointManifest {
    let text = fs::read_to_string(zoo_dir().join("pump-health/endpoint.toml")).unwrap();
    EndpointManifest::parse(&text).unwrap()
}

fn mewma_files() -> Files {
    read_folder(&zoo_dir().join("pump-health/mewma/1.0.0")).unwrap()
}

/// The endpoint and `mewma` alone, with one text replaced in one file.
fn refusal(file: &str, from: &str, to: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let version = dir.path().join("pump-health/mewma/1.0.0");
    fs::create_dir_all(&version).unwrap();
    fs::copy(
        zoo_dir().join("pump-health/endpoint.toml"),
        dir.path().join("pump-health/endpoint.toml"),
    )
    .unwrap();
    for (name, bytes) in mewma_files() {
        fs::write(version.join(name), bytes).unwrap();
    }
    Zoo::load(dir.path()).expect("the untouched copy loads");
    let path = dir.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} holds no {from}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    Zoo::load(dir.path())
        .expect_err("a mistake is refused")
        .to_string()
}

#[test]
fn golden_runs_hold() {
    const PATH: &str = "pump-health/mewma/1.0.0";
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        let version = load_version(&endpoint(), PATH, &mewma_files(), false).unwrap();
        let mut readings = golden::generate(&endpoint().features, 11, 24);
        readings[5][2] = f32::NAN;
        readings[12..]
            .iter_mut()
            .for_each(|reading| reading[7] -= 60.0);
        let text = golden::record(&version, &endpoint(), 7, 420, &readings);
        fs::write(zoo_dir().join(PATH).join("golden.json"), text).unwrap();
    }
    load_version(&endpoint(), PATH, &mewma_files(), true).unwrap();
}

#[test]
fn the_embedded_zoo_is_the_folder() {
    let (embedded, loaded) = (Zoo::embedded().unwrap(), Zoo::load(&zoo_dir()).unwrap());
    let ids = |zoo: &Zoo| -> Vec<_> {
        zoo.endpoints["pump-health"]
            .versions
            .values()
            .map(|v| (v.id().to_owned(), v.hash))
            .collect()
    };
    assert_eq!(ids(&embedded), ids(&loaded));
    let served = embedded.endpoints["pump-health"].default_version();
    assert_eq!(
        (served.id(), served.name(), served.version()),
        ("mewma/1.0.0", "mewma", "1.0.0")
    );
    assert_eq!(served.hash_hex().len(), 64);
}

#[test]
fn a_silence_above_max_gap_s_makes_the_model_forget() {
    let zoo = Zoo::embedded().unwrap();
    let endpoint = &zoo.endpoints["pump-health"];
    let version = endpoint.default_version();
    let mut state = version.new_state();
    for reading in golden::generate(&endpoint.manifest.features, 3, 500) {
        version.step(&mut state, &reading, 1.0);
    }
    let next = &golden::generate(&endpoint.manifest.features, 4, 1)[0];
    let fold = |silence| {
        let mut state = state.clone();
        (version.step(&mut state, next, silence), state)
    };
    assert_eq!(fold(1.0), fold(-5.0));
    assert_eq!(fold(1.0), fold(f64::NAN));
    assert_ne!(fold(1.0), fold(version.manifest.max_gap_s + 1.0));
}

#[test]
fn a_hash_is_stable_and_changes_with_any_byte_or_name() {
    let files = mewma_files();
    let hash = hash_folder(&files);
    assert_eq!(hash, hash_folder(&files.clone()));
    for (name, bytes) in &files {
        for at in (0..bytes.len()).step_by(97) {
            let mut changed = files.clone();
            changed.get_mut(name).unwrap().to_mut()[at] ^= 1;
            assert_ne!(hash, hash_folder(&changed), "{name} byte {at}");
        }
        let mut renamed = files.clone();
        let bytes = renamed.remove(name).unwrap();
        renamed.insert(format!("{name}x"), bytes);
        assert_ne!(hash, hash_folder(&renamed));
    }
    // A byte moved from one file to the next is another folder.
    let pair = |a: &str, b: &str| -> Files {
        [("a", a), ("b", b)]
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec().into()))
            .into()
    };
    assert_ne!(hash_folder(&pair("xy", "z")), hash_folder(&pair("x", "yz")));
}

#[test]
fn a_mistake_in_an_endpoint_names_file_field_and_reason() {
    let cases = [
        (
            "name = \"pump-health\"",
            "name = \"samples\"",
            "name: \"samples\" is a word of the API",
        ),
        (
            "name = \"pump-health\"",
            "name = \"pump\"",
            "name: \"pump\" differs from its folder",
        ),
        ("revision = 1", "revision = 0", "revision: starts at 1"),
        (
            "revision = 1",
            "revision = \"one\"",
            "revision: invalid type: string",
        ),
        ("revision = 1\n", "", "revision: missing field"),
        (
            "revision = 1",
            "revision = 1\ncolour = 2",
            "colour: unknown field",
        ),
        (
            "task = \"anomaly\"",
            "task = \"guess\"",
            "task: unknown variant `guess`",
        ),
        (
            "mewma/1.0.0",
            "mewma/1.0",
            "default: \"1.0\" is not of the form major.minor.patch",
        ),
        (
            "mewma/1.0.0",
            "mewma/2.0.0",
            "default: \"mewma/2.0.0\" is not in the folder",
        ),
        (
            "accelerometer_2_rms",
            "accelerometer_1_rms",
            "features[1].name: \"accelerometer_1_rms\" is named twice",
        ),
        (
            "name = \"current\"",
            "name = \"Current\"",
            "features[2].name: \"Current\" is not of the form",
        ),
        (
            "range = [0.0, 2.0]",
            "range = [2.0, 0.0]",
            "features[0].range: is two finite numbers, the lower first",
        ),
        (
            "hard_range = [-1.0, 100.0]",
            "hard_range = [0.5, 1.0]",
            "features[0].hard_range: does not contain range",
        ),
        ("unit = \"A\"", "unit = 3", "features[2].unit: invalid type"),
        ("revision = 1", "revision = ", "line 4: "),
    ];
    for (from, to, expected) in cases {
        let text = refusal("pump-health/endpoint.toml", from, to);
        assert!(
            text.starts_with(&format!("pump-health/endpoint.toml: {expected}")),
            "{text}"
        );
    }
}

#[test]
fn a_mistake_in_a_model_names_file_field_and_reason() {
    let cases = [
        (
            "kind = \"mewma\"",
            "kind = \"oracle\"",
            "architecture.kind: \"oracle\" is not an architecture",
        ),
        ("kind = \"mewma\"\n", "", "architecture.kind: is missing"),
        (
            "lambda = 0.1 ",
            "lambda = 2.0 ",
            "architecture.lambda: is not in 0.001..=1",
        ),
        (
            "lambda = 0.1 ",
            "lambda = \"x\" ",
            "architecture.lambda: invalid type",
        ),
        ("margin = 1.5\n", "", "architecture.margin: missing field"),
        (
            "margin = 1.5",
            "margin = 1.5\nluck = 7",
            "architecture.luck: unknown field",
        ),
        (
            "calibration = 400",
            "calibration = 20",
            "calibration: at lambda 0.1 at least 80 are needed",
        ),
        (
            "calibration = 400",
            "calibration = 4000000",
            "calibration: is above 100000",
        ),
        (
            "max_gap_s = 600.0",
            "max_gap_s = -1.0",
            "max_gap_s: is not a positive number of seconds",
        ),
        (
            "version = \"1.0.0\"",
            "version = \"1.0.1\"",
            "name, version: \"mewma/1.0.1\" differs from its folder",
        ),
        (
            "created = \"2026-11-23\"",
            "created = \"2026-13-23\"",
            "created: \"2026-13-23\" is not of the form",
        ),
        (
            "preprocessing = \"standardise-per-stream\"",
            "preprocessing = \"fft\"",
            "preprocessing: is neither \"none\" nor a list",
        ),
        (
            "data = \"none\"",
            "data = \"a rig\"",
            "training.hash: is not 64 hexadecimal digits",
        ),
        (
            "licence = \"MIT OR Apache-2.0\"",
            "licence = \"\"",
            "licence: is empty",
        ),
    ];
    for (from, to, expected) in cases {
        let text = refusal("pump-health/mewma/1.0.0/model.toml", from, to);
        assert!(
            text.starts_with(&format!("pump-health/mewma/1.0.0/model.toml: {expected}")),
            "{text}"
        );
    }
}

#[test]
fn a_version_that_answers_otherwise_than_its_golden_run_is_refused() {
    let text = refusal(
        "pump-health/mewma/1.0.0/model.toml",
        "lambda = 0.1 ",
        "lambda = 0.12 ",
    );
    assert!(
        text.starts_with("pump-health/mewma/1.0.0/golden.json: outputs[0][0]: expected"),
        "{text}"
    );
    let text = refusal(
        "pump-health/mewma/1.0.0/golden.json",
        "\"readings\"",
        "\"reading\"",
    );
    assert!(
        text.starts_with("pump-health/mewma/1.0.0/golden.json: json: unknown field"),
        "{text}"
    );
}

#[test]
fn folders_out_of_form_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = Zoo::load(dir.path()).unwrap_err().to_string();
    assert_eq!(
        text,
        ".: holds no endpoint: expected <endpoint>/endpoint.toml"
    );
    let missing = dir.path().join("nowhere");
    assert!(
        Zoo::load(&missing)
            .unwrap_err()
            .to_string()
            .starts_with(&missing.display().to_string())
    );
    fs::create_dir_all(dir.path().join("pump-health/mewma/latest")).unwrap();
    fs::copy(
        zoo_dir().join("pump-health/endpoint.toml"),
        dir.path().join("pump-health/endpoint.toml"),
    )
    .unwrap();
    fs::write(dir.path().join("pump-health/mewma/latest/model.toml"), "").unwrap();
    let text = Zoo::load(dir.path()).unwrap_err().to_string();
    assert_eq!(
        text,
        "pump-health/mewma/latest: a version's folder has the form major.minor.patch"
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_within_the_folder_and_refused_out_of_it() {
    use std::os::unix::fs::symlink;
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("model.toml"), "here").unwrap();
    symlink("model.toml", dir.path().join("golden.json")).unwrap();
    let files = tidegate_models::load::read_folder(dir.path()).unwrap();
    assert_eq!(&*files["golden.json"], b"here");
    fs::write(outside.path().join("secret"), "there").unwrap();
    symlink(
        outside.path().join("secret"),
        dir.path().join("weights.bin"),
    )
    .unwrap();
    let refused = tidegate_models::load::read_folder(dir.path()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "weights.bin: is a link that leads out of the folder"
    );
}
