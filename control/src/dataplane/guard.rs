//! `maclane_guard` on macvlan children: one instance of a small program for each, which carries
//! the child's port.

use std::path::PathBuf;

use aya::{
    EbpfLoader,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use dataplane_common::abi;

use super::{Dataplane, TcKind, attach, pins, program};
use crate::{
    error::{Context, Error, Result},
    netns::Netns,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MACLANE_GUARD_OBJECT"));

fn link_name(port: u16) -> String {
    format!("guard_{port}")
}

impl Dataplane {
    /// Sees to it that a guard is on a child. Returns false where the kernel has no TCX: a clsact
    /// qdisc does not follow a link into another namespace.
    /// With `last`, no filter of the child's owner runs after it.
    pub(crate) fn attach_guard(
        &mut self,
        port: u16,
        netns: &Netns,
        ifname: &str,
        last: bool,
    ) -> Result<bool> {
        if self.tc != TcKind::Tcx {
            return Ok(false);
        }
        let path = self.pins.link(&link_name(port));
        let doing = || format!("cannot attach {} to {ifname}", program::GUARD);
        let hook = TcAttachType::Egress;
        let there = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        if let Some(link) = there
            && netns.inside(|| attach::is_on(&link, ifname, hook))?
        {
            return Ok(true);
        }
        pins::detach(&path)?;
        let mut ebpf = self.guards.load(port, last).doing(doing)?;
        let program = ebpf.program_mut(program::GUARD);
        let program = program.ok_or_else(|| Error::failed("the object has no guard"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load().doing(doing)?;
        netns
            .inside(|| attach::tcx(program, &path, ifname, hook, LinkOrder::last()))?
            .doing(doing)?;
        Ok(true)
    }

    /// Removes the guard of a port.
    pub(crate) fn forget_guard(&mut self, port: u16) -> Result<()> {
        Ok(pins::detach(&self.pins.link(&link_name(port)))?)
    }
}

/// The ports, where a loader can refer to them.
static PORTS: [u32; abi::PORTS as usize] = {
    let mut ports = [0; abi::PORTS as usize];
    let mut port = 0;
    while port < abi::PORTS {
        ports[port as usize] = port;
        port += 1;
    }
    ports
};

static LAST: [u32; 2] = [0, 1];

/// Loads guards. One loader for all of them: aya reads the kernel's own types, some megabytes,
/// whenever it makes one.
pub(super) struct Guards(EbpfLoader<'static>);

impl Guards {
    /// A loader of guards that count in the map that is pinned at `stats`.
    pub(super) fn new(stats: PathBuf) -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_pin_path(abi::map::STATS, stats);
        Self(loader)
    }

    fn load(&mut self, port: u16, last: bool) -> Result<aya::Ebpf> {
        let port = PORTS.get(usize::from(port));
        let port = port.ok_or_else(|| Error::failed("the port is out of range"))?;
        let last = &LAST[usize::from(last)];
        let loader = self.0.override_global("GUARD_PORT", port, true);
        Ok(loader.override_global("GUARD_LAST", last, true).load(OBJECT)?)
    }
}
