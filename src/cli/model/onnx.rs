//! A bare `.onnx` file becomes the files of a version.
//!
//! The seam to the models crate: whatever reads a graph there gives the manifest's text here; everything behind it is the same as
//! for a folder.

use anyhow::bail;
use std::path::Path;
use tidegate_models::EndpointManifest;
use tidegate_models::load::Files;

/// What a bare file does not say.
pub struct Named<'a> {
    /// The model's name.
    pub name: Option<&'a str>,
    /// Its version.
    pub version: Option<&'a str>,
}

/// Whether this is a bare graph and no folder.
pub fn is_bare(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension == "onnx")
}

/// The files of a version around a bare graph: the graph, a manifest, a golden run.
///
/// # Errors
/// A build that reads no graphs.
pub fn files_of(
    path: &Path,
    named: &Named<'_>,
    endpoint: &EndpointManifest,
) -> anyhow::Result<Files> {
    let (Some(name), Some(version)) = (named.name, named.version) else {
        bail!(
            "{}: a bare graph needs --name and --version",
            path.display()
        );
    };
    bail!(
        "{}: this build reads no ONNX: give {}/{name}/{version} as a folder with a model.toml",
        path.display(),
        endpoint.name
    )
}
