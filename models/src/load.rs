//! A folder becomes a [`Zoo`]: manifests read, weights' shapes checked, hashes taken, golden runs reproduced.
//!
//! The same code reads a directory ([`Zoo::load`]) and the table compiled into the crate ([`Zoo::embedded`]). Loading is all or
//! nothing: the first mistake refuses the zoo and names file, field and reason. Files whose name starts with a dot are not seen.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::autoencoder::Autoencoder;
use crate::manifest::{Mistake, is_name, is_version};
use crate::mewma::Mewma;
use crate::{Architecture, EndpointManifest, Model, ModelManifest, Version, golden};

/// Largest file of a zoo, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most files in a zoo.
pub const MAX_FILES: usize = 4096;

const MAX_DEPTH: usize = 4;

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
        let files = EMBEDDED
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), Cow::Borrowed(*bytes)));
        Self::from_files(&files.collect())
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

/// What an architecture is built from.
pub struct Parts<'a> {
    /// Values in a reading.
    pub features: usize,
    /// The manifest; the architecture's own parameters are in it.
    pub manifest: &'a ModelManifest,
    /// The path of the manifest, for [`LoadError::Manifest`].
    pub file: String,
    /// `weights.safetensors`, where the folder has one.
    pub weights: Option<&'a [u8]>,
    /// The path of the weights, for [`LoadError::Weights`].
    pub weights_file: String,
}

/// One arm an architecture.
fn build(parts: &Parts<'_>) -> Result<Arc<dyn Model>, LoadError> {
    match &parts.manifest.architecture {
        Architecture::Mewma(config) => {
            let chart = Mewma::new(config, parts.features, parts.manifest.calibration);
            chart
                .map(|chart| Arc::new(chart) as Arc<dyn Model>)
                .map_err(|mistake| at(&parts.file, mistake))
        }
        Architecture::Autoencoder(config) => Ok(Arc::new(Autoencoder::new(
            config,
            parts.features,
            parts.manifest.calibration,
            parts.weights,
            &parts.weights_file,
        )?)),
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
    let weights = files.get("weights.safetensors").map(Cow::as_ref);
    let weights_file = format!("{path}/weights.safetensors");
    let model = build(&Parts {
        features: endpoint.features.len(),
        manifest: &manifest,
        file,
        weights,
        weights_file,
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
    read_below(dir, "", MAX_DEPTH, &mut files)?;
    Ok(files)
}

fn read_below(dir: &Path, prefix: &str, depth: usize, files: &mut Files) -> Result<(), LoadError> {
    let unreadable = |path: &Path, source| LoadError::Io {
        path: path.to_owned(),
        source,
    };
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
        let about = fs::metadata(&path).map_err(|source| unreadable(&path, source))?;
        if about.is_dir() && depth == 0 {
            return Err(folder(
                &relative,
                "lies deeper than <endpoint>/<model>/<version>",
            ));
        } else if about.is_dir() {
            read_below(&path, &format!("{relative}/"), depth - 1, files)?;
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
            let bytes = fs::read(&path).map_err(|source| unreadable(&path, source))?;
            files.insert(relative, bytes.into());
        }
    }
    Ok(())
}

fn load_endpoint(name: &str, files: &Files) -> Result<Endpoint, LoadError> {
    let file = format!("{name}/endpoint.toml");
    let manifest = EndpointManifest::parse(text(files, "endpoint.toml", &file)?)
        .map_err(|mistake| at(&file, mistake))?;
    if manifest.name != name {
        return Err(at(
            &file,
            Mistake::new(
                "name",
                format!("\"{}\" differs from its folder \"{name}\"", manifest.name),
            ),
        ));
    }
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
        return Err(at(
            &file,
            Mistake::new(
                "default",
                format!("\"{}\" is not in the folder", manifest.default),
            ),
        ));
    }
    Ok(Endpoint { manifest, versions })
}

/// The folders directly inside, sorted, each once.
fn folders(files: &Files) -> Vec<&str> {
    let mut names: Vec<_> = files
        .keys()
        .filter_map(|path| path.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    names.dedup();
    names
}

fn below(files: &Files, name: &str) -> Files {
    let inside = |(path, bytes): (&String, &Cow<'static, [u8]>)| {
        Some((
            path.strip_prefix(name)?.strip_prefix('/')?.to_owned(),
            bytes.clone(),
        ))
    };
    files.iter().filter_map(inside).collect()
}

fn text<'f>(files: &'f Files, name: &str, path: &str) -> Result<&'f str, LoadError> {
    let bytes = files.get(name).ok_or_else(|| folder(path, "is missing"))?;
    std::str::from_utf8(bytes).map_err(|_| folder(path, "is not UTF-8 text"))
}

fn at(file: &str, mistake: Mistake) -> LoadError {
    LoadError::Manifest {
        file: file.to_owned(),
        mistake,
    }
}

fn folder(path: &str, reason: &str) -> LoadError {
    LoadError::Folder {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
