//! Compiles `zoo/` into the crate: writes one table of (path, bytes) for `load.rs`. Dot files stay out, as they do when a
//! folder is read at run time, so a version has one hash wherever it comes from.

use std::fs;
use std::path::{Path, PathBuf};
use std::{env, fmt::Write};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("zoo");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root).expect("collected below the root");
        let name = name.to_string_lossy().replace('\\', "/");
        writeln!(table, "    ({name:?}, include_bytes!({file:?})),").expect("a string takes it");
    }
    table.push_str("]\n");
    let target = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("zoo.rs");
    fs::write(target, table).expect("OUT_DIR is writable");
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    // Cargo looks at a folder's own time only; naming each one makes added files count.
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir).expect("zoo/ is readable").flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
