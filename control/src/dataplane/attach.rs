//! Attaching the programs to interfaces, and replacing them without a gap.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    xdp::XdpLink,
};

use super::{Dataplane, pins, program};
use crate::{
    error::{Context, Error, Result},
    kernel,
    model::TcMode,
};

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcKind {
    /// TCX links, from Linux 6.6 on.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl TcKind {
    /// What was asked for, or the best that the running kernel has.
    pub(crate) fn of(mode: TcMode) -> Self {
        match mode {
            TcMode::Tcx => Self::Tcx,
            TcMode::Auto if kernel::has_tcx() => Self::Tcx,
            TcMode::Auto | TcMode::Clsact => Self::Clsact,
        }
    }

    /// Its name, as users see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpIn {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl XdpIn {
    /// Its name, as users see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Which links this process has seen to: name → index of the interface.
#[derive(Default)]
pub(super) struct Attached {
    links: BTreeMap<String, u32>,
}

const XDP_LINK: &str = "xdp";
const INGRESS_LINK: &str = "ingress";
const EGRESS_LINK: &str = "egress";

/// The place of our filters in a clsact qdisc: known, so that they are found again.
const CLSACT: (u16, TcHandle) = (0x6d6c, TcHandle::new(0, 1));

/// A folder in the BPF file system says that the clsact qdisc is ours to remove.
const CLSACT_MARK: &str = "clsact";

fn port_link(port: u16) -> String {
    format!("port_{port}")
}

impl Dataplane {
    /// Sees to it that the programs are on the parent's TC hooks: ours first on the way in and
    /// last on the way out, nearest to the wire.
    pub(crate) fn attach_tc(&mut self, ifname: &str, ifindex: u32) -> Result<()> {
        for (link, name, hook, order) in [
            (INGRESS_LINK, program::INGRESS, TcAttachType::Ingress, LinkOrder::first()),
            (EGRESS_LINK, program::EGRESS, TcAttachType::Egress, LinkOrder::last()),
        ] {
            self.attach_one(link, name, (ifname, ifindex), hook, order)?;
        }
        Ok(())
    }

    /// Sees to it that the program for frames of a veth child is on its host end.
    pub(crate) fn attach_host_end(&mut self, port: u16, ifname: &str, ifindex: u32) -> Result<()> {
        let hook = TcAttachType::Ingress;
        let order = LinkOrder::first();
        self.attach_one(&port_link(port), program::PORT, (ifname, ifindex), hook, order)
    }

    /// Takes the program off a host end that is gone.
    pub(crate) fn forget_host_end(&mut self, port: u16) -> Result<()> {
        let link = port_link(port);
        self.attached.links.remove(&link);
        Ok(pins::detach(&self.pins.link(&link))?)
    }

    fn attach_one(
        &mut self,
        link: &str,
        name: &str,
        (ifname, ifindex): (&str, u32),
        hook: TcAttachType,
        order: LinkOrder,
    ) -> Result<()> {
        let of_parent = link == INGRESS_LINK || link == EGRESS_LINK;
        if self.attached.links.get(link) == Some(&ifindex)
            && (!of_parent || self.is_attached(name, ifname, hook))
        {
            return Ok(());
        }
        let path = self.pins.link(link);
        let mark = self.pins.dir().join(CLSACT_MARK);
        let kind = self.tc;
        let program = self.tc(name)?;
        match kind {
            TcKind::Tcx => tcx(program, &path, ifname, hook, order),
            TcKind::Clsact => clsact(program, of_parent.then_some(&mark), ifname, hook),
        }
        .doing(|| format!("cannot attach {name} to {ifname}"))?;
        self.attached.links.insert(link.into(), ifindex);
        Ok(())
    }

    /// True if a program is where it was attached, as far as the kernel can say.
    fn is_attached(&mut self, name: &str, ifname: &str, hook: TcAttachType) -> bool {
        let id = self.tc(name).ok().and_then(|program| Some(program.info().ok()?.id()));
        self.tc != TcKind::Tcx
            || SchedClassifier::query_tcx(ifname, hook)
                .is_ok_and(|(_, programs)| programs.iter().any(|p| Some(p.id()) == id))
    }

    /// Forgets what was attached to an interface that is gone.
    pub(crate) fn forget_attached(&mut self) {
        self.attached.links.remove(INGRESS_LINK);
        self.attached.links.remove(EGRESS_LINK);
    }

    /// Sees to it that XDP is on the parent, or off it. `on_it` are the programs that netlink shows
    /// there now.
    ///
    /// # Errors
    ///
    /// [`crate::error::ErrorKind::Conflict`] if a program is there that is not ours: it is left alone.
    pub(crate) fn attach_xdp(
        &mut self,
        ifname: &str,
        ifindex: u32,
        mode: Option<XdpIn>,
        on_it: &[(u32, XdpIn)],
    ) -> Result<()> {
        let path = self.pins.link(XDP_LINK);
        let Some(mode) = mode else { return Ok(pins::detach(&path)?) };
        let pinned = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        let ours = pinned.as_ref().and_then(|link| link.info().ok()).map(|info| info.program_id());
        if let Some((foreign, _)) = on_it.iter().find(|(id, _)| Some(*id) != ours) {
            return Err(Error::conflict(format!(
                "an XDP program that is not maclane's (ID {foreign}) is attached to {ifname} and stays; \
                 remove it (`ip link set dev {ifname} xdp off`), or use --xdp off: TC does the whole job"
            )));
        }
        let program = self.xdp()?;
        let doing = || format!("cannot attach {} to {ifname} ({})", program::XDP, mode.name());
        match pinned {
            Some(link) if on_it.iter().any(|(_, there)| *there == mode) => {
                let link = XdpLink::try_from(link).doing(doing)?;
                let id = program.attach_to_link(link).doing(doing)?;
                program.take_link(id).doing(doing)?;
            }
            old => {
                drop(old);
                pins::detach(&path)?;
                let mode = match mode {
                    XdpIn::Native => XdpMode::Driver,
                    XdpIn::Generic => XdpMode::Skb,
                };
                let id = program.attach_to_if_index(ifindex, mode).doing(doing)?;
                // aya falls back to netlink without a word; such a link cannot be pinned, and is
                // gone again when it is dropped here.
                let link = FdLink::try_from(program.take_link(id).doing(doing)?).doing(doing)?;
                link.pin(&path).doing(doing)?;
            }
        }
        Ok(())
    }

    /// Takes everything off and removes every pin.
    pub(crate) fn unload(self, ifname: Option<&str>) -> Result<()> {
        if let (Some(ifname), TcKind::Clsact) = (ifname, self.tc) {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let link = SchedClassifierLink::attached(ifname, hook, CLSACT.0, CLSACT.1, None)?;
                // What is not there need not be taken off.
                let _ = aya::programs::links::Link::detach(link);
            }
        }
        self.pins.remove()
    }

    /// True if the receive VLAN offload of the parent has to be given back.
    pub(crate) fn kept_rx_tags(&self) -> bool {
        self.pins.kept_rx_tags()
    }

    /// True if the clsact qdisc of the parent is ours to remove.
    pub(crate) fn made_clsact(&self) -> bool {
        self.pins.dir().join(CLSACT_MARK).exists()
    }
}

/// True if the program of a link is on an interface of this namespace.
pub(super) fn is_on(link: &FdLink, ifname: &str, hook: TcAttachType) -> bool {
    let Ok(info) = link.info() else { return false };
    SchedClassifier::query_tcx(ifname, hook)
        .is_ok_and(|(_, programs)| programs.iter().any(|p| p.id() == info.program_id()))
}

/// Attaches by TCX: into the pinned link if that is on the interface, so that no frame passes
/// without a program.
pub(super) fn tcx(
    program: &mut SchedClassifier,
    path: &Path,
    ifname: &str,
    hook: TcAttachType,
    order: LinkOrder,
) -> Result<()> {
    if let Ok(pinned) = PinnedLink::from_pin(path) {
        let link = FdLink::from(pinned);
        if is_on(&link, ifname, hook)
            && let Ok(link) = SchedClassifierLink::try_from(link)
            && let Ok(id) = program.attach_to_link(link)
        {
            program.take_link(id)?;
            return Ok(());
        }
        pins::detach(path)?;
    }
    let id = program.attach_with_options(ifname, hook, TcAttachOptions::TcxOrder(order))?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(path)?;
    Ok(())
}

/// Attaches by a filter: in the place of the one that is there, if there is one.
fn clsact(
    program: &mut SchedClassifier,
    mark: Option<&PathBuf>,
    ifname: &str,
    hook: TcAttachType,
) -> Result<()> {
    let (priority, handle) = CLSACT;
    let there = SchedClassifierLink::attached(ifname, hook, priority, handle, None)?;
    let id = if let Ok(id) = program.attach_to_link(there) {
        id
    } else {
        match tc::qdisc_add_clsact(ifname) {
            Ok(()) => drop(mark.map(std::fs::create_dir)),
            Err(TcError::NetlinkError(_)) => {}
            Err(e) => return Err(ProgramError::from(e).into()),
        }
        let options = NlOptions { priority, handle, classid: None };
        program.attach_with_options(ifname, hook, TcAttachOptions::Netlink(options))?
    };
    // Dropped, it would detach; it has to outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}
