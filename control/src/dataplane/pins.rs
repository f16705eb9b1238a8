//! Where maps, programs and links of a parent are pinned.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use nix::libc;

use dataplane_common::abi;

use crate::error::{Context, Result};

/// The pins of one parent: `BPFFS/maclane/vABI/PARENT/`.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
}

/// A folder with this name says that an offload has to be given back.
const KEPT_RX_TAGS: &str = "rxvlan";

/// The parents that have pins.
pub(crate) fn parents(bpffs: &Path) -> Vec<String> {
    let entries = fs::read_dir(root(bpffs)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.map(|name| name.replace("%2e", ".")).collect()
}

/// The folder below a BPF file system that holds the pins of every parent.
pub(crate) fn root(bpffs: &Path) -> PathBuf {
    bpffs.join("maclane").join(format!("v{}", abi::VERSION))
}

impl Pins {
    /// The pins of a parent. The BPF file system allows no dots in names
    /// (`kernel/bpf/inode.c`, `bpf_lookup`).
    pub(crate) fn new(bpffs: &Path, parent: &str) -> Self {
        Self { dir: root(bpffs).join(parent.replace('.', "%2e")) }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes that a NIC's receive VLAN offload was switched off for this parent.
    pub(crate) fn note_kept_rx_tags(&self) -> Result<()> {
        self.create()?;
        Ok(fs::DirBuilder::new().recursive(true).create(self.dir.join(KEPT_RX_TAGS))?)
    }

    /// True if [`Self::note_kept_rx_tags`] was.
    pub(crate) fn kept_rx_tags(&self) -> bool {
        self.dir.join(KEPT_RX_TAGS).exists()
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
        self.dir.join("links").join(name)
    }

    /// Makes the folders, closed to everybody else: the BPF file system itself is not.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in ["programs", "links"] {
            let dir = self.dir.join(dir);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).doing(|| {
                format!(
                    "cannot make {}; mount a BPF file system with `mount -t bpf bpf /sys/fs/bpf`",
                    dir.display()
                )
            })?;
        }
        Ok(())
    }

    /// Removes everything: links go first, so that no program runs on maps that are gone.
    pub(crate) fn remove(&self) -> Result<()> {
        for link in fs::read_dir(self.dir.join("links")).into_iter().flatten().flatten() {
            let path = link.path();
            detach(&path).doing(|| format!("cannot detach the link {}", path.display()))?;
        }
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
        other => other,
    }
}

/// Commands of bpf(2) (`include/uapi/linux/bpf.h`) that aya does not have.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches a pinned link and removes its pin; one that is not there is detached.
///
/// Without its pin alone a link is detached some time later (`kernel/bpf/syscall.c`,
/// `bpf_link_put`), and until then nothing else can take its place.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: name.as_ptr().addr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `get` is what the command reads, and `name` outlives it.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of_val(&get)) };
    let Ok(fd) = RawFd::try_from(fd) else { return unpin(path) };
    if fd < 0 {
        return unpin(path);
    }
    // SAFETY: the kernel has just given out this descriptor, so nothing else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let raw = link.as_raw_fd();
    // SAFETY: the command reads the descriptor. A link whose interface is gone is detached
    // already, which is the only way for this to fail.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const raw, size_of_val(&raw)) };
    unpin(path)
}
