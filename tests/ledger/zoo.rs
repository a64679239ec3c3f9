//! The models that the harness serves: those of the repository with a calibration of a few readings instead of hundreds.
//!
//! A seed lasts seconds; with the built-in calibration most answers would only count readings, and a wrong state would show
//! late. Written once a run, golden runs included, and loaded by the servers and by the reference alike.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tidegate_models::load::{load_version, read_folder};
use tidegate_models::{EndpointManifest, Version, Zoo, golden};

/// The endpoint that every device speaks to.
pub const ENDPOINT: &str = "pump-health";
/// Who serves a new stream.
pub const DEFAULT: &str = "mewma/1.0.0";
/// Whom a device may ask for instead.
pub const OTHER: &str = "autoencoder/1.0.0";

/// Readings that a calibration takes.
const CALIBRATION: u32 = 40;
/// Fits such a calibration: the average settles within a few readings.
const LAMBDA: &str = "lambda = 0.25";

/// A folder of models and what it holds.
pub struct SmallZoo {
    dir: TempDir,
    pub zoo: Zoo,
}

impl SmallZoo {
    /// Writes and loads it.
    pub fn write() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/zoo");
        let target = dir.path().join(ENDPOINT);
        fs::create_dir_all(&target).expect("a folder");
        let endpoint = source.join(ENDPOINT).join("endpoint.toml");
        fs::copy(&endpoint, target.join("endpoint.toml")).expect("the endpoint");
        let manifest = fs::read_to_string(endpoint).expect("the endpoint");
        let manifest = EndpointManifest::parse(&manifest).expect("a manifest");
        for id in [DEFAULT, OTHER] {
            write_version(id, &source.join(ENDPOINT), &target, &manifest);
        }
        let zoo = Zoo::load(dir.path()).expect("a whole zoo");
        Self { dir, zoo }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A version by `model/version`.
    pub fn version(&self, id: &str) -> &Version {
        &self.zoo.endpoints[ENDPOINT].versions[id]
    }
}

fn write_version(id: &str, source: &Path, target: &Path, endpoint: &EndpointManifest) {
    let (source, target) = (source.join(id), target.join(id));
    fs::create_dir_all(&target).expect("a folder");
    let manifest = fs::read_to_string(source.join("model.toml")).expect("a manifest");
    let manifest = manifest
        .replace("calibration = 400", &format!("calibration = {CALIBRATION}"))
        .replace("lambda = 0.1", LAMBDA);
    fs::write(target.join("model.toml"), manifest).expect("the manifest");
    let weights = source.join("weights.safetensors");
    if weights.exists() {
        fs::copy(weights, target.join("weights.safetensors")).expect("the weights");
    }
    let files = read_folder(&target).expect("the folder");
    let path = format!("{ENDPOINT}/{id}");
    let version = load_version(endpoint, &path, &files, false).expect("a version");
    let readings = golden::generate(&endpoint.features, 2, 16);
    let text = golden::record(&version, endpoint, 1, 2 * CALIBRATION, &readings);
    fs::write(target.join("golden.json"), text).expect("the golden run");
}
