//! `maclane_guard` on macvlan children: one instance of a small program for each, which carries
//! the child's port.

use std::path::Path;

use aya::{
    EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType},
};
use dataplane_common::abi;

use super::{Dataplane, Pins, TcKind, attach, program};
use crate::{
    error::{Context, Error, Result},
    failpoint,
    netns::Netns,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MACLANE_GUARD_OBJECT"));

const LINK: &str = "guard_";

fn link_name(port: u16) -> String {
    format!("{LINK}{port}")
}

impl Dataplane {
    /// Sees to it that a guard is on a child. Returns false where the kernel has no TCX (a clsact
    /// qdisc does not follow a link into another namespace) or does not take the program.
    /// With `last`, no filter of the child's owner runs after it.
    pub(crate) fn attach_guard(
        &mut self,
        port: u16,
        netns: &Netns,
        (ifname, ifindex): (&str, u32),
        last: bool,
    ) -> Result<bool> {
        let path = self.pins.link(&link_name(port));
        if self.tc != TcKind::Tcx || self.guards.refused.is_some() {
            // One of a daemon that attached otherwise.
            self.held.detach(&path)?;
            return Ok(false);
        }
        if self.held.interface_of(&path) == Some(ifindex) && self.is_current(&path) {
            return Ok(true);
        }
        let doing = || format!("cannot attach {} to {ifname}", program::GUARD);
        let mut ebpf = self.guards.load(port, last).doing(doing)?;
        let program = guard_of(&mut ebpf)?;
        let order = LinkOrder::last();
        netns
            .inside(|| attach::tcx(program, &path, ifname, TcAttachType::Egress, order))?
            .doing(doing)?;
        self.held.hold(&path)?;
        Ok(true)
    }

    /// True if the program of a link is what we would put there: it has the same instructions, and
    /// counts in our maps.
    fn is_current(&self, path: &Path) -> bool {
        let stats = self.held.map_id(&self.pins.map(abi::map::STATS));
        self.held.program_of(path).is_some_and(|program| {
            Some(program.tag) == self.guards.tag
                && stats.is_some_and(|stats| program.maps.contains(&stats))
        })
    }

    /// Removes the guard of a port.
    pub(crate) fn forget_guard(&mut self, port: u16) -> Result<()> {
        Ok(self.held.detach(&self.pins.link(&link_name(port)))?)
    }

    /// Why no guard can be had, if the kernel does not take the program.
    pub(crate) fn guard_refused(&self) -> Option<&str> {
        self.guards.refused.as_deref()
    }
}

fn guard_of(ebpf: &mut aya::Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(program::GUARD);
    let program = program.ok_or_else(|| Error::failed("the object has no guard"))?;
    Ok(program.try_into()?)
}

/// The port of a link of a child: that of a guard, or of the program on a host end.
pub(super) fn port_of(link: &str) -> Option<u16> {
    link.strip_prefix(LINK).or_else(|| link.strip_prefix(attach::PORT_LINK))?.parse().ok()
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
pub(super) struct Guards {
    loader: EbpfLoader<'static>,
    /// The hash of the instructions of a guard.
    tag: Option<[u8; 8]>,
    /// Why the kernel takes none.
    refused: Option<String>,
}

impl Guards {
    /// A loader of guards that use the pinned maps of a parent. It loads one to see whether the
    /// kernel takes it.
    pub(super) fn new(pins: &Pins) -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in abi::map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut guards = Self { loader, tag: None, refused: None };
        match guards.sample() {
            Ok(tag) => guards.tag = Some(tag),
            Err(e) => guards.refused = Some(e.to_string()),
        }
        guards
    }

    fn sample(&mut self) -> Result<[u8; 8]> {
        let mut ebpf = self.load(abi::PORT_FIRST_CHILD, true)?;
        Ok(guard_of(&mut ebpf)?.info()?.tag().to_ne_bytes())
    }

    fn load(&mut self, port: u16, last: bool) -> Result<aya::Ebpf> {
        let port = PORTS.get(usize::from(port));
        let port = port.ok_or_else(|| Error::failed("the port is out of range"))?;
        let last = &LAST[usize::from(last)];
        let loader = self.loader.override_global("GUARD_PORT", port, true);
        let mut ebpf = loader.override_global("GUARD_LAST", last, true).load(OBJECT)?;
        let doing = || format!("the kernel does not take the program {}", program::GUARD);
        failpoint::refuse(program::GUARD).doing(doing)?;
        guard_of(&mut ebpf)?.load().doing(doing)?;
        Ok(ebpf)
    }
}
