//! A cpio archive, from which a kernel boots.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

/// An archive in the kernel's format (`Documentation/driver-api/early-userspace/buffer-format.rst`).
pub(crate) struct Archive {
    out: BufWriter<File>,
    written: BTreeSet<PathBuf>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { out: BufWriter::new(file), written: BTreeSet::new(), inode: 1 })
    }

    /// Adds a folder and those above it.
    pub(crate) fn dir(&mut self, path: &Path) -> Result<()> {
        let above: Vec<_> = path.ancestors().collect();
        for dir in above.into_iter().rev().filter(|dir| dir.parent().is_some()) {
            self.entry(dir, ModeFileType::Directory, 0o755, &[])?;
        }
        Ok(())
    }

    /// Adds a file with these bytes.
    pub(crate) fn bytes(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        self.dir(path.parent().unwrap_or(path))?;
        self.entry(path, ModeFileType::Regular, mode, bytes)
    }

    /// Adds a copy of a file.
    pub(crate) fn copy(&mut self, path: &Path, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.bytes(path, 0o755, &bytes)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &Path, to: &str) -> Result<()> {
        self.dir(path.parent().unwrap_or(path))?;
        self.entry(path, ModeFileType::Symlink, 0o777, to.as_bytes())
    }

    /// True if there is an entry of that path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.written.contains(path)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<()> {
        trailer(&mut self.out)?;
        Ok(self.out.flush()?)
    }

    fn entry(&mut self, path: &Path, kind: ModeFileType, mode: u32, bytes: &[u8]) -> Result<()> {
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        let name = path.strip_prefix("/").unwrap_or(path);
        let name = name.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
        let entry = Builder::new(name).ino(self.inode).mode(mode).set_mode_file_type(kind);
        self.inode += 1;
        let mut entry = entry.write(&mut self.out, size);
        entry.write_all(bytes)?;
        entry.finish()?;
        Ok(())
    }
}
