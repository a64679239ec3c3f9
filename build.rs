//! Puts the dashboard where the binary embeds it from; without a built one, a page that says how to build it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let page = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("page");
    let built = root.join("ui/dist");
    // The folder must exist for cargo to watch it; it is ignored by git.
    fs::create_dir_all(&built)?;
    println!("cargo:rerun-if-changed=ui/dist");
    println!("cargo:rerun-if-changed=src/http/no_page.html");
    if page.exists() {
        fs::remove_dir_all(&page)?;
    }
    fs::create_dir_all(&page)?;
    if built.join("index.html").is_file() {
        copy(&built, &page)
    } else {
        fs::copy(root.join("src/http/no_page.html"), page.join("index.html")).map(drop)
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
