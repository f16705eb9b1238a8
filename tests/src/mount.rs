//! File systems of a test's own.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted file system, which is taken away on drop.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// A file system in memory with room for that many bytes.
    #[track_caller]
    #[must_use]
    pub fn tmpfs(path: &Path, bytes: u64) -> Self {
        Self::new("tmpfs", path, &format!("size={bytes},mode=0700"))
    }

    /// A folder as it is, but read-only.
    #[track_caller]
    #[must_use]
    pub fn read_only(path: &Path) -> Self {
        let nothing: Option<&str> = None;
        let bind = |flags| mount(Some(path), path, nothing, MsFlags::MS_BIND | flags, nothing);
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(error) = bind(MsFlags::empty()).and_then(|()| bind(read_only)) {
            panic!("cannot mount {} read-only: {error}", path.display());
        }
        Self { path: path.to_owned() }
    }

    /// A BPF file system.
    #[track_caller]
    #[must_use]
    pub fn bpffs(path: &Path) -> Self {
        Self::new("bpf", path, "mode=0700")
    }

    #[track_caller]
    fn new(kind: &str, path: &Path, options: &str) -> Self {
        std::fs::create_dir_all(path).expect("a folder to mount on");
        let mounted = mount(Some(kind), path, Some(kind), MsFlags::empty(), Some(options));
        if let Err(error) = mounted {
            panic!("cannot mount {kind} on {}: {error}", path.display());
        }
        Self { path: path.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path.display());
        }
    }
}
