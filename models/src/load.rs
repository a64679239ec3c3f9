//! A folder becomes a [`Zoo`]: manifests read, weights' shapes checked, hashes taken, golden runs reproduced.
//!
//! The same code reads a directory ([`Zoo::load`]) and the table compiled into the crate ([`Zoo::embedded`]). Loading is all or
//! nothing: the first mistake refuses the zoo and names file, field and reason. Files whose name starts with a dot are not seen.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::autoencoder::Autoencoder;
use crate::declared::Declared;
use crate::manifest::{Mistake, OnnxConfig, WindowLayout, check, is_name, is_version};
use crate::mewma::Mewma;
use crate::network::linear;
use crate::network::mlp::Mlp;
use crate::network::pca::Pca;
use crate::network::recurrent::Recurrent;
use crate::network::tcn::Tcn;
use crate::network::trees::Trees;
use crate::onnx;
use crate::preprocess::Pipeline;
use crate::weights::Weights;
use crate::{Architecture, EndpointManifest, Model, ModelManifest, Network, Task, Version, golden};

/// Largest file of a zoo, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most bytes of all files together.
pub const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Most files in a zoo.
pub const MAX_FILES: usize = 4096;

const MAX_DEPTH: usize = 4;

const WEIGHTS: &str = "weights.safetensors";

static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/zoo.rs"));

/// Why a zoo was refused. Each text names the file; a path is relative to the zoo's folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The folder or a file in it cannot be read; check path and permissions.
    #[error("{}: {source}", path.display())]
    Io {
        /// As given or found.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder is not laid out as a zoo.
    #[error("{path}: {reason}")]
    Folder {
        /// The file or folder in question.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest holds a mistake; fix the field.
    #[error("{file}: {mistake}")]
    Manifest {
        /// Such as `pump-health/endpoint.toml`.
        file: String,
        /// Field and reason.
        mistake: Mistake,
    },
    /// Weights are missing, unreadable or of another shape than the manifest says.
    #[error("{file}: {tensor}: {reason}")]
    Weights {
        /// Such as `pump-health/autoencoder/1.0.0/weights.safetensors`.
        file: String,
        /// The tensor's name, or `file` for the whole.
        tensor: String,
        /// Both shapes, where it is about shapes.
        reason: String,
    },
    /// A graph cannot be read or run; what is in its way is named.
    #[error("{file}: {}{reason}", node.as_ref().map(|node| format!("{node}: ")).unwrap_or_default())]
    Onnx {
        /// Such as `rig-state/forest/1.0.0/model.onnx`.
        file: String,
        /// The node or other place in the graph.
        node: Option<String>,
        /// What is wrong there.
        reason: String,
    },
    /// The version does not reproduce its recorded run: do not serve it.
    #[error("{file}: {mistake}")]
    Golden {
        /// Such as `pump-health/mewma/1.0.0/golden.json`.
        file: String,
        /// Field (such as `outputs[3]`) and reason.
        mistake: Mistake,
    },
}

/// An endpoint and its versions.
#[derive(Debug)]
pub struct Endpoint {
    /// What its `endpoint.toml` says.
    pub manifest: EndpointManifest,
    /// By id, such as `mewma/1.0.0`.
    pub versions: BTreeMap<String, Arc<Version>>,
}

impl Endpoint {
    /// The version that serves while no status says otherwise; loading made sure that it exists.
    pub fn default_version(&self) -> &Arc<Version> {
        &self.versions[&self.manifest.default]
    }
}

/// Every endpoint of a models folder.
#[derive(Debug)]
pub struct Zoo {
    /// By name.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Zoo {
    /// Reads a folder `<endpoint>/{endpoint.toml, <model>/<version>/{model.toml, weights.safetensors?, golden.json}}`.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::from_files(&read_folder(dir)?)
    }

    /// The zoo compiled into the crate.
    pub fn embedded() -> Result<Self, LoadError> {
        Self::from_files(&embedded())
    }

    fn from_files(files: &Files) -> Result<Self, LoadError> {
        let mut endpoints = BTreeMap::new();
        for name in folders(files) {
            endpoints.insert(name.to_owned(), load_endpoint(name, &below(files, name))?);
        }
        if endpoints.is_empty() {
            return Err(folder(
                ".",
                "holds no endpoint: expected <endpoint>/endpoint.toml",
            ));
        }
        Ok(Self { endpoints })
    }
}

/// Bytes by path, `/` between the parts, relative to some folder.
pub type Files = BTreeMap<String, Cow<'static, [u8]>>;

/// The files of the zoo compiled into the crate.
pub fn embedded() -> Files {
    let files = EMBEDDED
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), Cow::Borrowed(*bytes)));
    files.collect()
}

/// What an architecture is built from.
struct Parts<'a> {
    endpoint: &'a EndpointManifest,
    manifest: &'a ModelManifest,
    /// The version's folder, for errors.
    path: &'a str,
    files: &'a Files,
}

/// One arm an architecture.
fn build(parts: &Parts<'_>) -> Result<Arc<dyn Model>, LoadError> {
    let (manifest, features) = (parts.manifest, parts.endpoint.features.len());
    check_features(parts).map_err(|mistake| parts.manifest_mistake(mistake))?;
    match &manifest.architecture {
        Architecture::Mewma(config) => {
            let chart = Mewma::new(config, features, manifest.calibration);
            chart
                .map(|chart| Arc::new(chart) as Arc<dyn Model>)
                .map_err(|mistake| parts.manifest_mistake(mistake))
        }
        Architecture::Autoencoder(config) => Ok(Arc::new(Autoencoder::new(
            config,
            features,
            manifest.calibration,
            parts.bytes(WEIGHTS),
            &parts.file(WEIGHTS),
        )?)),
        _ => {
            let network = |pipeline: &Pipeline| network(parts, pipeline).map_err(Refused::Whole);
            let chain = Declared::new(parts.endpoint, manifest, network);
            let chain = chain.map_err(|refused| match refused {
                Refused::Whole(error) => error,
                Refused::Key(mistake) => parts.manifest_mistake(mistake),
            })?;
            Ok(Arc::new(chain))
        }
    }
}

/// A mistake in the manifest, whose file is to be added, or any other.
enum Refused {
    Whole(LoadError),
    Key(Mistake),
}

impl From<Mistake> for Refused {
    fn from(mistake: Mistake) -> Self {
        Self::Key(mistake)
    }
}

/// The network of a declared version, for the rows that `pipeline` makes.
fn network(parts: &Parts<'_>, pipeline: &Pipeline) -> Result<Arc<dyn Network>, LoadError> {
    let inputs = pipeline.width();
    let file = parts.file(WEIGHTS);
    let weights = || Weights::read(parts.bytes(WEIGHTS), &file);
    Ok(match &parts.manifest.architecture {
        Architecture::Linear(config) => Arc::new(linear::network(config, inputs, weights()?)?),
        Architecture::Mlp(config) => Arc::new(Mlp::new(config, inputs, weights()?)?),
        Architecture::Gru(config) => Arc::new(Recurrent::gru(config, inputs, weights()?)?),
        Architecture::Lstm(config) => Arc::new(Recurrent::lstm(config, inputs, weights()?)?),
        Architecture::Tcn(config) => Arc::new(Tcn::new(config, inputs, weights()?)?),
        Architecture::Pca(config) => Arc::new(Pca::new(config, inputs, weights()?)?),
        Architecture::Trees(config) => Arc::new(Trees::new(config, inputs, weights()?)?),
        Architecture::Onnx(config) => Arc::new(graph(parts, config, pipeline)?),
        other => {
            let reason = format!("\"{}\" is not a network of this build", other.kind());
            return Err(parts.manifest_mistake(Mistake::new("architecture.kind", reason)));
        }
    })
}

/// The graph of `kind = "onnx"`; its inputs may be one a feature, its window one row a reading.
fn graph(
    parts: &Parts<'_>,
    config: &OnnxConfig,
    pipeline: &Pipeline,
) -> Result<onnx::Plan, LoadError> {
    let features = &parts.endpoint.features;
    let columns = pipeline.columns().iter();
    let options = onnx::Options {
        inputs: Some(pipeline.width()),
        features: columns
            .map(|column| features[*column].name.clone())
            .collect(),
        outputs: config.outputs.clone(),
        states: config
            .states
            .iter()
            .map(|pair| (pair.input.clone(), pair.output.clone()))
            .collect(),
        dims: config.dims.clone(),
        layout: config.layout.map(|layout| match layout {
            WindowLayout::RowsFirst => onnx::Layout::RowsFirst,
            WindowLayout::ChannelsFirst => onnx::Layout::ChannelsFirst,
        }),
    };
    onnx::compile(parts.files, &config.file, &options).map_err(|error| LoadError::Onnx {
        file: parts.file(&config.file),
        node: (error.place != config.file).then_some(error.place),
        reason: error.reason,
    })
}

/// The features a version names are those of its endpoint, in their order; a detector that answers by itself tells anomalies.
fn check_features(parts: &Parts<'_>) -> Result<(), Mistake> {
    let (manifest, task) = (parts.manifest, parts.endpoint.task);
    if !manifest.architecture.is_declared() && task != Task::Anomaly {
        let kind = manifest.architecture.kind();
        let reason = format!(
            "\"{kind}\" answers anomaly, the endpoint asks for {}",
            task.as_str()
        );
        return Err(Mistake::new("architecture.kind", reason));
    }
    let Some(named) = &manifest.features else {
        return Ok(());
    };
    let known = &parts.endpoint.features;
    for (index, (name, feature)) in named.iter().zip(known).enumerate() {
        check(
            *name == feature.name,
            &format!("features[{index}]"),
            &format!("\"{name}\", the endpoint has \"{}\" there", feature.name),
        )?;
    }
    check(
        named.len() == known.len(),
        "features",
        &format!("are {}, the endpoint has {}", named.len(), known.len()),
    )
}

impl Parts<'_> {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Cow::as_ref)
    }

    fn manifest_mistake(&self, mistake: Mistake) -> LoadError {
        at(&self.file("model.toml"), mistake)
    }
}

/// Loads one version from the files of its folder. `golden` says whether its recorded run is checked.
pub fn load_version(
    endpoint: &EndpointManifest,
    path: &str,
    files: &Files,
    golden: bool,
) -> Result<Version, LoadError> {
    let file = format!("{path}/model.toml");
    let manifest = ModelManifest::parse(text(files, "model.toml", &file)?)
        .map_err(|mistake| at(&file, mistake))?;
    let expected = format!("{}/{}/{}", endpoint.name, manifest.name, manifest.version);
    if expected != path {
        let mistake = Mistake::new(
            "name, version",
            format!(
                "\"{}/{}\" differs from its folder",
                manifest.name, manifest.version
            ),
        );
        return Err(at(&file, mistake));
    }
    let model = build(&Parts {
        endpoint,
        manifest: &manifest,
        path,
        files,
    })?;
    let version = Version::new(
        endpoint.name.as_str().into(),
        manifest,
        hash_folder(files),
        model,
    );
    if golden {
        let file = format!("{path}/golden.json");
        golden::verify(&version, endpoint, text(files, "golden.json", &file)?)
            .map_err(|mistake| LoadError::Golden { file, mistake })?;
    }
    Ok(version)
}

/// The identity of a folder: SHA-256 over its files, sorted by path, each as path length (u64 LE), path, length (u64 LE), bytes.
pub fn hash_folder(files: &Files) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (path, bytes) in files {
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

/// Every file below `dir`, dot files left out; bounded in depth, number and size.
pub fn read_folder(dir: &Path) -> Result<Files, LoadError> {
    let mut files = Files::new();
    let root = fs::canonicalize(dir).map_err(|source| unreadable(dir, source))?;
    read_below(&root, dir, "", MAX_DEPTH, (&mut files, &mut 0))?;
    Ok(files)
}

fn unreadable(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A file's bytes, at most one more than allowed: it may grow while it is read.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_below(
    root: &Path,
    dir: &Path,
    prefix: &str,
    depth: usize,
    (files, total): (&mut Files, &mut u64),
) -> Result<(), LoadError> {
    for entry in fs::read_dir(dir).map_err(|source| unreadable(dir, source))? {
        let path = entry.map_err(|source| unreadable(dir, source))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') {
            continue;
        }
        let relative = format!("{prefix}{name}");
        let real = fs::canonicalize(&path).map_err(|source| unreadable(&path, source))?;
        // Some deployments link every file, within the folder.
        if !real.starts_with(root) {
            return Err(folder(&relative, "is a link that leads out of the folder"));
        }
        let about = fs::metadata(&real).map_err(|source| unreadable(&path, source))?;
        if about.is_dir() && depth == 0 {
            return Err(folder(
                &relative,
                "lies deeper than <endpoint>/<model>/<version>",
            ));
        } else if about.is_dir() {
            let prefix = format!("{relative}/");
            read_below(root, &path, &prefix, depth - 1, (&mut *files, &mut *total))?;
        } else if !about.is_file() {
            return Err(folder(&relative, "is neither a file nor a folder"));
        } else if about.len() > MAX_FILE_BYTES {
            return Err(folder(
                &relative,
                &format!("is larger than {MAX_FILE_BYTES} bytes"),
            ));
        } else if files.len() == MAX_FILES {
            return Err(folder(
                &relative,
                &format!("is one of more than {MAX_FILES} files"),
            ));
        } else {
            let bytes = read_file(&real).map_err(|source| unreadable(&path, source))?;
            *total += bytes.len() as u64;
            if *total > MAX_BYTES {
                let reason = format!("all files together are larger than {MAX_BYTES} bytes");
                return Err(folder(&relative, &reason));
            }
            files.insert(relative, bytes.into());
        }
    }
    Ok(())
}

/// Reads the text of an `endpoint.toml` that lies in the folder `name`.
///
/// # Errors
/// What is wrong with it, by field.
pub fn read_endpoint(name: &str, files: &Files) -> Result<EndpointManifest, LoadError> {
    let file = format!("{name}/endpoint.toml");
    let manifest = EndpointManifest::parse(text(files, "endpoint.toml", &file)?)
        .map_err(|mistake| at(&file, mistake))?;
    if manifest.name != name {
        let reason = format!("\"{}\" differs from its folder \"{name}\"", manifest.name);
        return Err(at(&file, Mistake::new("name", reason)));
    }
    Ok(manifest)
}

fn load_endpoint(name: &str, files: &Files) -> Result<Endpoint, LoadError> {
    let manifest = read_endpoint(name, files)?;
    let mut versions = BTreeMap::new();
    for model in folders(files) {
        if !is_name(model) {
            return Err(folder(
                &format!("{name}/{model}"),
                "a model's folder has the form [a-z0-9-]{1,64}",
            ));
        }
        let of_model = below(files, model);
        for version in folders(&of_model) {
            let path = format!("{name}/{model}/{version}");
            if !is_version(version) {
                return Err(folder(
                    &path,
                    "a version's folder has the form major.minor.patch",
                ));
            }
            let loaded = load_version(&manifest, &path, &below(&of_model, version), true)?;
            versions.insert(loaded.id().to_owned(), Arc::new(loaded));
        }
    }
    if !versions.contains_key(&manifest.default) {
        let reason = format!("\"{}\" is not in the folder", manifest.default);
        let file = format!("{name}/endpoint.toml");
        return Err(at(&file, Mistake::new("default", reason)));
    }
    Ok(Endpoint { manifest, versions })
}

/// The folders directly inside, sorted, each once.
pub(crate) fn folders(files: &Files) -> Vec<&str> {
    let mut names: Vec<_> = files
        .keys()
        .filter_map(|path| path.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    names.dedup();
    names
}

pub(crate) fn below(files: &Files, name: &str) -> Files {
    let inside = |(path, bytes): (&String, &Cow<'static, [u8]>)| {
        Some((
            path.strip_prefix(name)?.strip_prefix('/')?.to_owned(),
            bytes.clone(),
        ))
    };
    files.iter().filter_map(inside).collect()
}

pub(crate) fn text<'f>(files: &'f Files, name: &str, path: &str) -> Result<&'f str, LoadError> {
    let bytes = files.get(name).ok_or_else(|| folder(path, "is missing"))?;
    std::str::from_utf8(bytes).map_err(|_| folder(path, "is not UTF-8 text"))
}

pub(crate) fn at(file: &str, mistake: Mistake) -> LoadError {
    LoadError::Manifest {
        file: file.to_owned(),
        mistake,
    }
}

pub(crate) fn folder(path: &str, reason: &str) -> LoadError {
    LoadError::Folder {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
