//! Where a command writes what it was asked for: standard output, or a file that appears whole or not at all.
//!
//! A file is written beside its place under another name and moved there when it is complete and synced. One that is there already
//! stays unless the user insists.

use anyhow::{Context, bail};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 * 1024;

/// A target that is being written.
pub enum Output {
    /// Standard output.
    Standard(BufWriter<io::Stdout>),
    /// A file on its way.
    File {
        /// Under its other name.
        file: BufWriter<NamedTempFile>,
        /// Where it goes.
        path: PathBuf,
        /// Whether one that is there is replaced.
        force: bool,
    },
}

impl Output {
    /// `-` is standard output.
    ///
    /// # Errors
    /// A file that is there already (without `force`), or a folder that cannot be written.
    pub fn open(path: &Path, force: bool) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard(BufWriter::with_capacity(
                BUFFER,
                io::stdout(),
            )));
        }
        if path.exists() && !force {
            bail!("{}: there already; --force replaces it", path.display());
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let file = temporary(folder)
            .with_context(|| format!("{}: cannot write here", folder.display()))?;
        Ok(Self::File {
            file: BufWriter::with_capacity(BUFFER, file),
            path: path.to_owned(),
            force,
        })
    }

    /// Everything is written: the file takes its place.
    ///
    /// # Errors
    /// A full disk, or a file that appeared meanwhile (without `force`).
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Standard(mut out) => out.flush().context("standard output"),
            Self::File { file, path, force } => {
                let name = path.display().to_string();
                let file = file.into_inner().map_err(io::IntoInnerError::into_error);
                let file = file.with_context(|| name.clone())?;
                file.as_file().sync_all().with_context(|| name.clone())?;
                let moved = if force {
                    file.persist(path)
                } else {
                    file.persist_noclobber(path)
                };
                moved.map(drop).map_err(|error| error.error).context(name)
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

/// Readable by those whom the user's umask allows, as a file that a program writes is.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tidegate-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut output = Output::open(&path, false).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert!(names(dir.path()).is_empty(), "nothing is left behind");
        let mut output = Output::open(&path, false).unwrap();
        output.write_all(b"whole").unwrap();
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_file_that_is_there_stays_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let early = Output::open(&path, false).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(early.finish().is_err(), "it appeared meanwhile");
        let refused = Output::open(&path, false).err().unwrap().to_string();
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        Output::open(&path, true).unwrap().finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
