//! Puts the dashboard where the binary embeds it from; without a built one, a page that says how to build it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let page = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("page");
    let built = root.join("ui/dist");
    // The folder must exist for cargo to watch it; it is ignored by git.
    fs::create_dir_all(&built)?;
    println!("cargo:rerun-if-changed=ui/dist");
    println!("cargo:rerun-if-changed=src/http/no_page.html");
    warn_of_an_old_page(&root)?;
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

/// A page that was built before its source changed is embedded all the same, and said.
fn warn_of_an_old_page(root: &Path) -> io::Result<()> {
    let (source, page) = (root.join("ui/src"), root.join("ui/dist/index.html"));
    if !source.is_dir() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed=ui/src");
    if page.is_file() && newest(&source)? > page.metadata()?.modified()? {
        println!(
            "cargo:warning=ui/dist is older than ui/src: the binary gets the old page; build it with `npm --prefix ui run build`"
        );
    }
    Ok(())
}

/// When anything below a folder changed last.
fn newest(dir: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let changed = match entry.file_type()?.is_dir() {
            true => self::newest(&entry.path())?,
            false => entry.metadata()?.modified()?,
        };
        newest = newest.max(changed);
    }
    Ok(newest)
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
