//! `maclane_guard` on macvlan children: one instance of a small program for each, which carries
//! the child's port and leads to `maclane_macvlan`.

use std::path::Path;

use aya::{
    EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType},
};
use dataplane_common::abi;

use super::{Dataplane, Pins, TcKind, attach, program};
use crate::{
    error::{Context, Error, Result},
    failpoint::{self, failpoint},
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
        // A guard finds its maps by their pins, and would get new ones of its own.
        self.held.repin_maps(&self.pins)?;
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
    /// leads where ours do.
    fn is_current(&self, path: &Path) -> bool {
        let guards = self.held.map_id(&self.pins.map(abi::map::GUARDS));
        self.held.program_of(path).is_some_and(|program| {
            Some(program.tag) == self.guards.tag
                && guards.is_some_and(|guards| program.maps.contains(&guards))
        })
    }

    /// Makes all guards, those too that are attached already, lead to the program for what macvlan
    /// children send. True if they did not.
    pub(super) fn lead_guards(&mut self) -> Result<bool> {
        if self.guards.refused.is_some() {
            return Ok(false);
        }
        let program = self.tc(program::MACVLAN)?;
        let (id, program) = (program.info()?.id(), program.fd()?.try_clone()?);
        if self.held.program_in(&self.pins.map(abi::map::GUARDS)) == Some(id) {
            return Ok(false);
        }
        let led = self.guards.array.set(0, &program, 0);
        led.doing(|| format!("cannot lead the guards to {}", program::MACVLAN))?;
        failpoint!("guards.led");
        Ok(true)
    }

    /// Removes guards that lead to what another layout has left, which is about to be removed: an empty array
    /// would end what their children send.
    pub(super) fn drop_old_guards(&mut self) -> Result<()> {
        let links: Vec<String> = self.held.link_names(&self.pins).map(String::from).collect();
        for path in links.iter().filter(|l| l.starts_with(LINK)).map(|l| self.pins.link(l)) {
            if !self.is_current(&path) {
                self.held.detach(&path)?;
            }
        }
        Ok(())
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
    /// Where they lead.
    array: ProgramArray<MapData>,
    /// The hash of the instructions of a guard.
    tag: Option<[u8; 8]>,
    /// Why there can be none.
    refused: Option<String>,
}

impl Guards {
    /// A loader of guards that use the pinned array of a parent. It loads one to see whether the
    /// kernel takes it. Guards that are attached already go on leading where they did.
    pub(super) fn new(pins: &Pins) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in [abi::map::GUARDS, abi::map::STATS, abi::map::DROPS] {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = object(&mut loader, abi::PORT_FIRST_CHILD, true)?;
        let array = ebpf.take_map(abi::map::GUARDS);
        let array = array.ok_or_else(|| Error::failed("the object has no array of guards"))?;
        let mut guards = Self { loader, array: array.try_into()?, tag: None, refused: None };
        match load(&mut ebpf).and_then(|()| Ok(guard_of(&mut ebpf)?.info()?.tag())) {
            // As the kernel has it, a row of bytes.
            Ok(tag) => guards.tag = Some(tag.to_be_bytes()),
            Err(e) => guards.refused = Some(e.to_string()),
        }
        Ok(guards)
    }

    /// There will be none.
    pub(super) fn refuse(&mut self, why: &Error) {
        self.refused.get_or_insert_with(|| why.to_string());
    }

    fn load(&mut self, port: u16, last: bool) -> Result<aya::Ebpf> {
        let mut ebpf = object(&mut self.loader, port, last)?;
        load(&mut ebpf)?;
        Ok(ebpf)
    }
}

/// The object of the guard of a port; its program is not loaded yet.
fn object(loader: &mut EbpfLoader<'static>, port: u16, last: bool) -> Result<aya::Ebpf> {
    let port = PORTS.get(usize::from(port));
    let port = port.ok_or_else(|| Error::failed("the port is out of range"))?;
    let last = &LAST[usize::from(last)];
    let loader = loader.override_global("GUARD_PORT", port, true);
    Ok(loader.override_global("GUARD_LAST", last, true).load(OBJECT)?)
}

/// Loads the program of a guard.
fn load(ebpf: &mut aya::Ebpf) -> Result<()> {
    let doing = || format!("the kernel does not take the program {}", program::GUARD);
    failpoint::refuse(program::GUARD).doing(doing)?;
    guard_of(ebpf)?.load().doing(doing)
}
