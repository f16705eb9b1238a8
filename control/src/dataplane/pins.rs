//! Where maps, programs and links of a parent are pinned.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use dataplane_common::abi;

use super::held::detach;
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

/// The pins of one parent: `BPFFS/maclane/vABI/PARENT/`.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
}

/// The names of the links of the parent itself.
pub(super) const PARENT_LINKS: [&str; 3] = ["ingress", "egress", "xdp"];

/// What has to be undone, or be known after a restart: each is a folder, because the BPF file
/// system holds no files of others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// An offload has to be given back.
    KeptRxTags,
    /// The VLAN filter has to be switched on again.
    VlanFilterOff,
    /// Promiscuous mode has to be switched off again.
    Promiscuous,
    /// The clsact qdisc is ours to remove.
    MadeClsact,
    /// Programs are filters of clsact qdiscs.
    Filters,
}

impl Mark {
    /// All of them.
    const ALL: [Self; 5] =
        [Self::KeptRxTags, Self::VlanFilterOff, Self::Promiscuous, Self::MadeClsact, Self::Filters];

    fn name(self) -> &'static str {
        match self {
            Self::KeptRxTags => "rxvlan",
            Self::VlanFilterOff => "vlanfilter",
            Self::Promiscuous => "promisc",
            Self::MadeClsact => "clsact",
            Self::Filters => "filters",
        }
    }
}

/// The parents that have pins, of this version or of another one.
pub(crate) fn parents(bpffs: &Path) -> Vec<String> {
    let mut names: Vec<String> = versions(bpffs)
        .flat_map(|version| entries(&version))
        .filter_map(|path| Some(path.file_name()?.to_str()?.replace("%2e", ".")))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The folders of every version, ours too.
fn versions(bpffs: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(&bpffs.join("maclane")).filter(|path| {
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

impl Pins {
    /// The pins of a parent. The BPF file system allows no dots in names
    /// (`kernel/bpf/inode.c`, `bpf_lookup`).
    pub(crate) fn new(bpffs: &Path, parent: &str) -> Self {
        let version = bpffs.join("maclane").join(format!("v{}", abi::VERSION));
        Self { dir: version.join(parent.replace('.', "%2e")) }
    }

    /// The pins that a maclane with another layout has left for the same parent.
    fn of_other_versions(&self) -> impl Iterator<Item = Self> {
        let (parent, version) = (self.dir.file_name(), self.dir.parent());
        let root = version.and_then(Path::parent).and_then(Path::parent);
        let all = root.into_iter().flat_map(versions).filter(move |v| Some(&**v) != version);
        let theirs = all.filter_map(move |version| Some(Self { dir: version.join(parent?) }));
        theirs.filter(|pins| pins.dir.exists())
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps every other daemon from these pins for as long as the result lives.
    pub(crate) fn lock(&self, parent: &str) -> Result<File> {
        self.create()?;
        let doing = || format!("cannot lock {}", self.dir.display());
        let dir = File::open(&self.dir).doing(doing)?;
        match dir.try_lock() {
            Ok(()) => Ok(dir),
            Err(TryLockError::WouldBlock) => Err(Error::conflict(format!(
                "another maclane daemon serves {parent} ({} is locked); stop it, or remove the parent there first",
                self.dir.display()
            ))),
            Err(TryLockError::Error(e)) => Err(Error::from(e).context(doing())),
        }
    }

    /// Sets or removes a mark.
    pub(crate) fn mark(&self, mark: Mark, set: bool) -> Result<()> {
        let path = self.dir.join(mark.name());
        let done = if set {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)
        } else {
            fs::remove_dir(&path)
        };
        match done {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.doing(|| format!("cannot mark {}", path.display())),
        }
    }

    /// True if a mark is set.
    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.dir.join(mark.name()).exists()
    }

    /// A map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("programs").join(name)
    }

    /// A link.
    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// The folder of the links.
    pub(super) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// The names of the links that are pinned.
    pub(super) fn link_names(&self) -> impl Iterator<Item = String> + use<> {
        entries(&self.links()).filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
    }

    /// Makes the folders, closed to everybody else: the BPF file system itself is not.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in ["programs", "links"] {
            let dir = self.dir.join(dir);
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).doing(|| {
                format!(
                    "cannot make {}; mount a BPF file system with `mount -t bpf bpf /sys/fs/bpf`",
                    dir.display()
                )
            })?;
        }
        failpoint!("pins.created");
        Ok(())
    }

    /// Takes over the links and marks of another layout: they are pinned here from now on, where
    /// each gets its new program in the place of the old one.
    pub(crate) fn take_over(&self) -> Result<()> {
        for old in self.of_other_versions() {
            tracing::info!(from = %old.dir.display(), "taking over the programs of another version");
            self.create()?;
            for mark in Mark::ALL.into_iter().filter(|mark| old.has(*mark)) {
                self.mark(mark, true)?;
            }
            for name in old.link_names() {
                let (from, to) = (old.link(&name), self.link(&name));
                let doing = || format!("cannot take over {}", from.display());
                if !to.exists() {
                    let link = super::sys::get(&from).doing(doing)?;
                    super::sys::pin(link.as_fd(), &to).doing(doing)?;
                    failpoint!("upgrade.pinned");
                }
                unpin(&from).doing(doing)?;
                failpoint!("upgrade.unpinned");
            }
        }
        Ok(())
    }

    /// Takes the programs off an interface that is not the parent any more, where no dataplane is
    /// loaded that would do it.
    pub(crate) fn leave_parent(&self) -> Result<()> {
        for link in PARENT_LINKS {
            detach(&self.link(link), None)?;
        }
        Ok(())
    }

    /// True if another layout has left something.
    pub(crate) fn has_other_versions(&self) -> bool {
        self.of_other_versions().next().is_some()
    }

    /// Removes what another layout has left, once nothing of it is in use any more.
    pub(crate) fn remove_other_versions(&self) -> Result<()> {
        self.of_other_versions().try_for_each(|old| old.remove())
    }

    /// Removes everything: links go first, so that no program runs on maps that are gone.
    pub(crate) fn remove(&self) -> Result<()> {
        for name in self.link_names() {
            let path = self.link(&name);
            detach(&path, None).doing(|| format!("cannot detach the link {}", path.display()))?;
        }
        failpoint!("pins.links_gone");
        for dir in [self.dir.join("links"), self.dir.join("programs"), self.dir.clone()] {
            let removed = remove_dir(&dir);
            removed.doing(|| format!("cannot remove the pins in {}", dir.display()))?;
        }
        // The folders above are removed with the last parent.
        if let Some(version) = self.dir.parent() {
            let _ = fs::remove_dir(version);
            let _ = version.parent().map(fs::remove_dir);
        }
        Ok(())
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir(path)? } else { fs::remove_file(path)? }
    }
    fs::remove_dir(dir)
}

/// Removes a pin; one that is not there is removed.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            failpoint!("pins.unpinned");
            other
        }
    }
}
