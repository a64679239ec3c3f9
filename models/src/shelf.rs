//! One version of a folder at a time, with every mistake in it: for a repository whose versions come and go one by one.
//!
//! [`crate::Zoo`] is all or nothing; here a mistake stays with its version. Reads no folder by itself: the caller brings the files.

use crate::load::{Endpoint, Files, LoadError, at, below, folder, folders, load_version, text};
use crate::{EndpointManifest, ModelManifest, Version, Zoo, golden};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::load::read_endpoint;

/// Everything in the files of a whole folder that can be loaded, and what is wrong with the rest. An endpoint's default may be missing.
pub fn survey(files: &Files) -> (Zoo, Vec<LoadError>) {
    let (mut endpoints, mut mistakes) = (BTreeMap::new(), Vec::new());
    for name in folders(files) {
        let own = below(files, name);
        let manifest = match read_endpoint(name, &own) {
            Ok(manifest) => manifest,
            Err(mistake) => {
                mistakes.push(mistake);
                continue;
            }
        };
        let mut versions = BTreeMap::new();
        for model in folders(&own) {
            let of_model = below(&own, model);
            for version in folders(&of_model) {
                let path = format!("{name}/{model}/{version}");
                match examine(&manifest, &path, &below(&of_model, version)) {
                    Ok(loaded) => _ = versions.insert(loaded.id().to_owned(), Arc::new(loaded)),
                    Err(more) => mistakes.extend(more),
                }
            }
        }
        endpoints.insert(name.to_owned(), Endpoint { manifest, versions });
    }
    (Zoo { endpoints }, mistakes)
}

/// The `model/version` that the files' own manifest names.
///
/// # Errors
/// A manifest that is missing or cannot be read; `path` is what the mistake names.
pub fn name_of(path: &str, files: &Files) -> Result<String, LoadError> {
    let file = format!("{path}/model.toml");
    let manifest = ModelManifest::parse(text(files, "model.toml", &file)?)
        .map_err(|mistake| at(&file, mistake))?;
    Ok(format!("{}/{}", manifest.name, manifest.version))
}

/// Loads the version whose files these are and folds its golden run. `path` is `endpoint/model/version`.
///
/// # Errors
/// Every mistake that can be told from the others, not only the first.
pub fn examine(
    endpoint: &EndpointManifest,
    path: &str,
    files: &Files,
) -> Result<Version, Vec<LoadError>> {
    let golden_file = format!("{path}/golden.json");
    let golden = text(files, "golden.json", &golden_file);
    let version = match (load_version(endpoint, path, files, false), &golden) {
        (Ok(version), Ok(_)) => version,
        (version, golden) => {
            let mut mistakes: Vec<LoadError> = version.err().into_iter().collect();
            mistakes.extend(golden.as_ref().err().map(|_| missing(&golden_file)));
            return Err(mistakes);
        }
    };
    let run = golden.unwrap_or_default();
    match golden::verify(&version, endpoint, run) {
        Ok(()) => Ok(version),
        Err(mistake) => Err(vec![LoadError::Golden {
            file: golden_file,
            mistake,
        }]),
    }
}

fn missing(file: &str) -> LoadError {
    folder(
        file,
        "is missing or no text: a version brings readings with the answers it gave",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::embedded;

    fn files_of(version: &str) -> Files {
        let prefix = format!("pump-health/{version}/");
        let files = embedded().into_iter();
        files
            .filter_map(|(path, bytes)| Some((path.strip_prefix(&prefix)?.to_owned(), bytes)))
            .collect()
    }

    fn endpoint() -> EndpointManifest {
        let files = embedded();
        let text = &files["pump-health/endpoint.toml"];
        let only = Files::from([("endpoint.toml".to_owned(), text.clone())]);
        read_endpoint("pump-health", &only).unwrap()
    }

    const PATH: &str = "pump-health/autoencoder/1.0.0";

    #[test]
    fn a_whole_version_is_loaded_and_knows_its_name() {
        let files = files_of("autoencoder/1.0.0");
        let version = examine(&endpoint(), PATH, &files).unwrap();
        assert_eq!(version.id(), "autoencoder/1.0.0");
        assert_eq!(name_of("folder", &files).unwrap(), "autoencoder/1.0.0");
    }

    #[test]
    fn every_mistake_of_a_version_is_named() {
        let mut files = files_of("autoencoder/1.0.0");
        files.remove("golden.json");
        files.remove("weights.safetensors");
        let mistakes = examine(&endpoint(), PATH, &files).unwrap_err();
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("weights.safetensors"), "{told:?}");
        assert!(told[1].contains("golden.json"), "{told:?}");
    }

    #[test]
    fn a_survey_keeps_what_loads_beside_what_does_not() {
        let mut files = embedded();
        assert!(survey(&files).1.is_empty());
        files.remove("pump-health/mewma/1.0.0/golden.json");
        let (zoo, mistakes) = survey(&files);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let versions = &zoo.endpoints["pump-health"].versions;
        assert!(versions.contains_key("autoencoder/1.0.0"));
        assert!(!versions.contains_key("mewma/1.0.0"));
    }

    #[test]
    fn a_version_in_the_folder_of_another_is_refused() {
        let files = files_of("autoencoder/1.0.0");
        let mistakes = examine(&endpoint(), "pump-health/autoencoder/2.0.0", &files).unwrap_err();
        assert!(mistakes[0].to_string().contains("differs"), "{mistakes:?}");
    }
}
