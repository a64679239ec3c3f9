//! Where versions come from: a folder of models, or the ones built into the binary.
//!
//! A look at the folder reads names, sizes and times of change, no file. A version is read only when two looks at it found the same and its
//! manifest is there, so that one that is being copied is left alone; names that begin with a dot are not seen, so that whoever puts one
//! there under such a name and renames it is never seen halfway.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tidegate_models::load::{self, Files, LoadError, read_folder};

/// Most files that a look counts; a folder with more is refused.
const MAX_FILES: usize = load::MAX_FILES;
/// Folders inside each other below a version.
const MAX_DEPTH: usize = 4;

/// Name, size and time of change of every file.
pub type Stamp = Vec<(String, u64, Option<SystemTime>)>;

/// What is there, without having read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Of each endpoint the stamp of its own files, and its versions (`model/version`).
    pub endpoints: BTreeMap<String, (Stamp, BTreeMap<String, Stamp>)>,
}

impl Look {
    /// Whether an endpoint's own files look as they did in `other`.
    pub fn is_endpoint_still(&self, other: &Self, name: &str) -> bool {
        let stamp = |look: &Self| look.endpoints.get(name).map(|(stamp, _)| stamp.clone());
        stamp(self).is_some() && stamp(self) == stamp(other)
    }

    /// Whether a version looks as it did in `other`.
    pub fn is_still(&self, other: &Self, name: &str, version: &str) -> bool {
        let stamp = |look: &Self| {
            let versions = look.endpoints.get(name).map(|(_, versions)| versions)?;
            versions.get(version).cloned()
        };
        stamp(self).is_some() && stamp(self) == stamp(other)
    }
}

/// Where versions come from.
#[derive(Debug)]
pub enum Source {
    /// A folder, which may change.
    Folder(PathBuf),
    /// Files that do not change.
    Fixed(Files),
}

impl Source {
    /// The folder, or the models built into the binary.
    pub fn of(dir: Option<&Path>) -> Self {
        dir.map_or_else(
            || Self::Fixed(load::embedded()),
            |dir| Self::Folder(dir.to_owned()),
        )
    }

    /// Whether it may change.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    /// What is there.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn look(&self) -> Result<Look, LoadError> {
        match self {
            Self::Folder(dir) => look(dir),
            Self::Fixed(files) => Ok(look_at(files)),
        }
    }

    /// The files of an endpoint itself.
    ///
    /// # Errors
    /// Files that cannot be read or are too large.
    pub fn endpoint(&self, name: &str) -> Result<Files, LoadError> {
        match self {
            Self::Folder(dir) => {
                let path = dir.join(name).join("endpoint.toml");
                let mut files = Files::new();
                if path.is_file() {
                    let unreadable = |source| LoadError::Io {
                        path: path.clone(),
                        source,
                    };
                    let bytes = fs::read(&path).map_err(unreadable)?;
                    files.insert("endpoint.toml".into(), bytes.into());
                }
                Ok(files)
            }
            Self::Fixed(files) => Ok(below(files, name)),
        }
    }

    /// The files of a version.
    ///
    /// # Errors
    /// Files that cannot be read or are too large.
    pub fn version(&self, name: &str, version: &str) -> Result<Files, LoadError> {
        match self {
            Self::Folder(dir) => read_folder(&dir.join(name).join(version)),
            Self::Fixed(files) => Ok(below(files, &format!("{name}/{version}"))),
        }
    }
}

fn below(files: &Files, name: &str) -> Files {
    let inside = files.iter().filter_map(|(path, bytes)| {
        let rest = path.strip_prefix(name)?.strip_prefix('/')?;
        Some((rest.to_owned(), bytes.clone()))
    });
    inside.collect()
}

fn look_at(files: &Files) -> Look {
    let mut look = Look::default();
    for (path, bytes) in files {
        let parts: Vec<&str> = path.splitn(4, '/').collect();
        let stamp = |name: &str| (name.to_owned(), bytes.len() as u64, None);
        match parts[..] {
            [endpoint, file] => {
                let (own, _) = look.endpoints.entry(endpoint.to_owned()).or_default();
                own.push(stamp(file));
            }
            [endpoint, model, version, file] => {
                let (_, versions) = look.endpoints.entry(endpoint.to_owned()).or_default();
                let files = versions.entry(format!("{model}/{version}")).or_default();
                files.push(stamp(file));
            }
            _ => {}
        }
    }
    look
}

fn look(dir: &Path) -> Result<Look, LoadError> {
    let mut look = Look::default();
    for (endpoint, path) in entries(dir)? {
        if !path.is_dir() {
            continue;
        }
        let mut own = Stamp::new();
        let mut versions = BTreeMap::new();
        for (model, path) in entries(&path)? {
            if path.is_dir() {
                for (version, path) in entries(&path)? {
                    let mut stamp = Stamp::new();
                    note(&path, "", MAX_DEPTH, &mut stamp)?;
                    versions.insert(format!("{model}/{version}"), stamp);
                }
            } else if model == "endpoint.toml" {
                note(&path, &model, 0, &mut own)?;
            }
        }
        look.endpoints.insert(endpoint, (own, versions));
    }
    Ok(look)
}

/// What lies in a folder, dot files left out, by name.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, LoadError> {
    let unreadable = |source| LoadError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
        if found.len() > MAX_FILES {
            return Err(unreadable(std::io::Error::other(format!(
                "more than {MAX_FILES} files"
            ))));
        }
    }
    found.sort();
    Ok(found)
}

fn note(path: &Path, name: &str, depth: usize, stamp: &mut Stamp) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Io {
        path: path.to_owned(),
        source,
    };
    // One that is taken away meanwhile is noticed by the next look.
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(unreadable)?,
    };
    if !about.is_dir() {
        stamp.push((name.to_owned(), about.len(), about.modified().ok()));
    } else if depth > 0 {
        for (inside, path) in entries(path)? {
            let separator = if name.is_empty() { "" } else { "/" };
            note(
                &path,
                &format!("{name}{separator}{inside}"),
                depth - 1,
                stamp,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_look_sees_endpoints_and_versions_and_no_dot_folders() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "e/endpoint.toml", "x");
        write(dir.path(), "e/m/1.0.0/model.toml", "x");
        write(dir.path(), "e/m/1.0.0/data/part", "x");
        write(dir.path(), "e/m/.1.1.0-copying/model.toml", "x");
        write(dir.path(), ".git/config", "x");
        let look = Source::Folder(dir.path().to_owned()).look().unwrap();
        assert_eq!(look.endpoints.keys().collect::<Vec<_>>(), ["e"]);
        let (own, versions) = &look.endpoints["e"];
        assert_eq!(own.len(), 1);
        let names: Vec<_> = versions["m/1.0.0"].iter().map(|file| &*file.0).collect();
        assert_eq!(names, ["data/part", "model.toml"]);
        assert_eq!(versions.len(), 1);
    }

    #[test]
    fn a_version_that_grows_is_not_still() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "e/m/1.0.0/model.toml", "x");
        let source = Source::Folder(dir.path().to_owned());
        let first = source.look().unwrap();
        assert!(source.look().unwrap().is_still(&first, "e", "m/1.0.0"));
        write(dir.path(), "e/m/1.0.0/model.toml", "xy");
        let second = source.look().unwrap();
        assert!(!second.is_still(&first, "e", "m/1.0.0"));
        assert!(!second.is_still(&first, "e", "m/2.0.0"), "it is not there");
    }

    #[test]
    fn the_built_in_models_are_looked_at_like_a_folder() {
        let source = Source::of(None);
        let look = source.look().unwrap();
        let (_, versions) = &look.endpoints["pump-health"];
        assert!(versions.contains_key("mewma/1.0.0"));
        let files = source.version("pump-health", "mewma/1.0.0").unwrap();
        assert!(files.contains_key("model.toml") && files.contains_key("golden.json"));
        assert!(!source.changes());
    }
}
