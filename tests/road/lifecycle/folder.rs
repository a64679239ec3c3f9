//! A folder of models that a test changes.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A copy of the zoo's `pump-health`.
pub struct Folder(TempDir);

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

impl Folder {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let zoo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/zoo/pump-health");
        copy(Path::new(zoo), &dir.path().join("pump-health"));
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where a version lies.
    pub fn version(&self, version: &str) -> PathBuf {
        self.path().join("pump-health").join(version)
    }

    /// Copies `mewma/1.0.0` under another number, all at once.
    pub fn add(&self, number: &str) {
        self.add_with(number, |_| {});
    }

    /// The same, with files that `change` has changed.
    pub fn add_with(&self, number: &str, change: impl FnOnce(&Path)) {
        let aside = self.version(&format!("mewma/.{number}-copying"));
        copy(&self.version("mewma/1.0.0"), &aside);
        replace(
            &aside.join("model.toml"),
            "version = \"1.0.0\"",
            &format!("version = \"{number}\""),
        );
        change(&aside);
        fs::rename(&aside, self.version(&format!("mewma/{number}"))).expect("its place");
    }

    /// Changes a text in a file of a version.
    pub fn edit(&self, version: &str, file: &str, from: &str, to: &str) {
        replace(&self.version(version).join(file), from, to);
    }
}

/// Changes a text in a file.
pub fn replace(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("a file");
    let changed = text.replacen(from, to, 1);
    assert_ne!(text, changed, "{from:?} is in {}", file.display());
    fs::write(file, changed).expect("a file");
}
