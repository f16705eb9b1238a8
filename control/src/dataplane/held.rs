//! What a parent has pinned is held open as well: it goes on when a pin, or the whole BPF file
//! system, is taken away under the daemon, and is pinned again from what is held.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use dataplane_common::abi;

use super::{pins::Pins, sys};
use crate::{
    error::{Context, Result},
    failpoint::failpoint,
};

/// Pins, each with an open descriptor.
#[derive(Default)]
pub(super) struct Held(BTreeMap<PathBuf, OwnedFd>);

impl Held {
    /// Holds what is pinned at a path.
    pub(super) fn hold(&mut self, path: &Path) -> Result<()> {
        let held = sys::get(path).doing(|| format!("cannot open {}", path.display()))?;
        self.0.insert(path.to_owned(), held);
        Ok(())
    }

    /// Detaches a link and removes its pin; one that is not there is detached.
    pub(super) fn detach(&mut self, path: &Path) -> io::Result<()> {
        detach(path, self.0.remove(path))
    }

    /// Puts another program into the place of a link's.
    pub(super) fn update(&self, path: &Path, program: &impl AsFd) -> io::Result<()> {
        let link = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        sys::update(link.as_fd(), program.as_fd())
    }

    /// The index of the interface that a link is on; `None` if it is not there or on none.
    pub(super) fn interface_of(&self, path: &Path) -> Option<u32> {
        self.0.get(path).and_then(|link| sys::interface_of(link.as_fd()))
    }

    /// The program of a link.
    pub(super) fn program_of(&self, path: &Path) -> Option<sys::Program> {
        sys::program(self.program_id_of(path)?).ok()
    }

    /// The ID of the program of a link.
    pub(super) fn program_id_of(&self, path: &Path) -> Option<u32> {
        sys::program_of(self.0.get(path)?.as_fd()).ok()
    }

    /// The ID of a map.
    pub(super) fn map_id(&self, path: &Path) -> Option<u32> {
        sys::map_id(self.0.get(path)?.as_fd()).ok()
    }

    /// The ID of the program in a program array of one entry.
    pub(super) fn program_in(&self, path: &Path) -> Option<u32> {
        sys::program_in(self.0.get(path)?.as_fd(), 0)
    }

    /// The names of the links that are on no interface any more.
    pub(super) fn detached<'a>(&'a self, pins: &Pins) -> impl Iterator<Item = &'a str> + use<'a> {
        let gone = |link: &OwnedFd| sys::interface_of(link.as_fd()).is_none();
        self.links(pins).filter(move |(_, link)| gone(link)).map(|(name, _)| name)
    }

    /// The names of the links.
    pub(super) fn link_names<'a>(&'a self, pins: &Pins) -> impl Iterator<Item = &'a str> + use<'a> {
        self.links(pins).map(|(name, _)| name)
    }

    /// The links by their names.
    fn links<'a>(&'a self, pins: &Pins) -> impl Iterator<Item = (&'a str, &'a OwnedFd)> + use<'a> {
        let folder = pins.links();
        let is_in =
            move |path: &Path| path.parent().map(Path::as_os_str) == Some(folder.as_os_str());
        let links = self.0.iter().filter(move |(path, _)| is_in(path));
        links.filter_map(|(path, link)| Some((path.file_name()?.to_str()?, link)))
    }

    /// Pins what is held and not pinned any more; how much that was.
    pub(super) fn repin(&self, pins: &Pins) -> Result<usize> {
        pin_missing(self.0.iter(), pins)
    }

    /// The same for maps alone.
    pub(super) fn repin_maps(&self, pins: &Pins) -> Result<usize> {
        let maps = abi::map::ALL.iter().filter_map(|name| self.0.get_key_value(&pins.map(name)));
        pin_missing(maps, pins)
    }
}

/// Pins what is not pinned.
fn pin_missing<'a>(
    held: impl Iterator<Item = (&'a PathBuf, &'a OwnedFd)>,
    pins: &Pins,
) -> Result<usize> {
    let missing: Vec<_> = held.filter(|(path, _)| !path.exists()).collect();
    if !missing.is_empty() {
        pins.create()?;
    }
    for (path, held) in &missing {
        let pinned = sys::pin(held.as_fd(), path);
        pinned.doing(|| format!("cannot pin {} again", path.display()))?;
    }
    Ok(missing.len())
}

/// Detaches a link and removes its pin; one that is not there is detached.
///
/// Without its pin alone a link is detached some time later (`kernel/bpf/syscall.c`,
/// `bpf_link_put`), and until then nothing else can take its place.
pub(super) fn detach(path: &Path, held: Option<OwnedFd>) -> io::Result<()> {
    if let Some(link) = held.or_else(|| sys::get(path).ok()) {
        sys::detach(link.as_fd());
        failpoint!("pins.detached");
    }
    super::pins::unpin(path)
}
