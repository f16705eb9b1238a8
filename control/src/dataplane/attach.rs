//! Attaching the TC programs to interfaces, and replacing them without a gap.

use std::{collections::BTreeMap, path::Path};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};

use super::{
    Dataplane, clsact, held,
    pins::{Mark, PARENT_LINKS},
    program, sys,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
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

/// Which links this process has seen to: name → index of the interface.
#[derive(Default)]
pub(super) struct Attached {
    links: BTreeMap<String, u32>,
}

const INGRESS_LINK: &str = PARENT_LINKS[0];
const EGRESS_LINK: &str = PARENT_LINKS[1];
pub(super) const PORT_LINK: &str = "port_";

/// A filter of a clsact qdisc, as netlink shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    /// On the way in, not on the way out.
    pub(crate) ingress: bool,
    /// Its priority.
    pub(crate) priority: u16,
    /// The ID of its program.
    pub(crate) program: u32,
}

fn port_link(port: u16) -> String {
    format!("{PORT_LINK}{port}")
}

impl Dataplane {
    /// Sees to it that the programs are on the parent's TC hooks: ours first on the way in and
    /// last on the way out, nearest to the wire. `filters` are those that netlink shows there.
    ///
    /// # Errors
    ///
    /// [`crate::error::ErrorKind::Conflict`] if the programs of another maclane are there.
    pub(crate) fn attach_tc(
        &mut self,
        ifname: &str,
        ifindex: u32,
        filters: &[Filter],
    ) -> Result<()> {
        for (link, name, hook, order) in [
            (INGRESS_LINK, program::INGRESS, TcAttachType::Ingress, LinkOrder::first()),
            (EGRESS_LINK, program::EGRESS, TcAttachType::Egress, LinkOrder::last()),
        ] {
            let filter = our_filter(filters, matches!(hook, TcAttachType::Ingress));
            if self.tc == TcKind::Clsact && filter.is_none() {
                self.attached.links.remove(link);
            }
            if !self.is_attached(link, ifindex) {
                self.check_alone(ifname, hook, filter)?;
            }
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

    /// True if the filter of a host end, which was attached, is not among those that netlink shows
    /// there; it is attached again, then, when its child is looked at.
    pub(crate) fn has_lost_filter(&mut self, port: u16, filters: &[Filter]) -> bool {
        our_filter(filters, true).is_none()
            && self.attached.links.remove(&port_link(port)).is_some()
    }

    /// Has the program of a host end attached again, in the place of the filter that may be there.
    pub(crate) fn suspect_filter(&mut self, port: u16) {
        self.attached.links.remove(&port_link(port));
    }

    /// Takes the program off a host end that is gone.
    pub(crate) fn forget_host_end(&mut self, port: u16) -> Result<()> {
        let link = port_link(port);
        self.attached.links.remove(&link);
        Ok(self.held.detach(&self.pins.link(&link))?)
    }

    fn attach_one(
        &mut self,
        link: &str,
        name: &str,
        (ifname, ifindex): (&str, u32),
        hook: TcAttachType,
        order: LinkOrder,
    ) -> Result<()> {
        if self.is_attached(link, ifindex) {
            return Ok(());
        }
        let doing = || format!("cannot attach {name} to {ifname}");
        let path = self.pins.link(link);
        let of_parent = !link.starts_with(PORT_LINK);
        let pins = self.pins.clone();
        match self.tc {
            TcKind::Tcx => {
                tcx(self.tc(name)?, &path, ifname, hook, order).doing(doing)?;
                self.held.hold(&path).doing(doing)?;
                if self.pins.has(Mark::Filters) {
                    clsact::detach(ifname, hook).doing(doing)?;
                }
            }
            TcKind::Clsact => {
                self.pins.mark(Mark::Filters, true)?;
                let program = self.tc(name)?;
                clsact::attach(program, of_parent.then_some(&pins), ifname, hook).doing(doing)?;
                self.held.detach(&path).doing(doing)?;
            }
        }
        self.attached.links.insert(link.into(), ifindex);
        Ok(())
    }

    /// True if a program is where it was attached, as far as the kernel can say.
    fn is_attached(&self, link: &str, ifindex: u32) -> bool {
        self.attached.links.get(link) == Some(&ifindex)
            && (self.tc == TcKind::Clsact
                || self.held.interface_of(&self.pins.link(link)) == Some(ifindex))
    }

    /// Refuses a parent that another maclane serves: one with other pins, whose programs go on
    /// whether it runs or not.
    fn check_alone(&self, ifname: &str, hook: TcAttachType, filter: Option<&Filter>) -> Result<()> {
        let of_tcx = SchedClassifier::query_tcx(ifname, hook).map(|(_, programs)| programs);
        let ids = of_tcx.unwrap_or_default().into_iter().map(|program| program.id());
        for id in ids.chain(filter.map(|filter| filter.program)) {
            let Ok(program) = sys::program(id) else { continue };
            if program::TC.contains(&program.name.as_str()) && !self.is_ours(&program, id) {
                return Err(Error::conflict(format!(
                    "the programs of another maclane are on {ifname} ({}, ID {id}); remove the parent with its \
                     daemon first, or, if that is gone, remove its pins below the BPF file system (`bpftool link show`)",
                    program.name
                )));
            }
        }
        Ok(())
    }

    /// True for a program on our maps, or in one of our links: that of another version.
    fn is_ours(&self, program: &sys::Program, id: u32) -> bool {
        let ports = self.held.map_id(&self.pins.map(dataplane_common::abi::map::PORTS));
        ports.is_some_and(|id| program.maps.contains(&id))
            || [INGRESS_LINK, EGRESS_LINK].iter().any(|link| {
                self.held.program_id_of(&self.pins.link(link)) == Some(id)
            })
            // A filter has no link that would say so.
            || self.pins.has(Mark::Filters)
    }

    /// Takes the programs off an interface that is not the parent any more: it is gone, or it is in
    /// another namespace, where they would send frames to the wrong interfaces.
    pub(crate) fn leave_parent(&mut self) -> Result<()> {
        for link in PARENT_LINKS {
            self.attached.links.remove(link);
            self.held.detach(&self.pins.link(link))?;
        }
        Ok(())
    }

    /// Takes our filters off the parent; TCX links end with their pins.
    pub(crate) fn remove_filters(&self, ifname: &str) -> Result<()> {
        if self.pins.has(Mark::Filters) {
            clsact::detach(ifname, TcAttachType::Ingress)?;
            clsact::detach(ifname, TcAttachType::Egress)?;
        }
        Ok(())
    }

    /// Takes everything off and removes every pin.
    pub(crate) fn unload(self) -> Result<()> {
        // What is held would go on.
        let Self { held, pins, .. } = self;
        drop(held);
        pins.remove()
    }
}

/// Our filter on the way in, or on the way out.
fn our_filter(filters: &[Filter], ingress: bool) -> Option<&Filter> {
    filters.iter().find(|f| f.ingress == ingress && f.priority == clsact::PRIORITY)
}

/// True if the program of a link is on an interface of this namespace.
fn is_on(link: &FdLink, ifname: &str, hook: TcAttachType) -> bool {
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
            failpoint!("tcx.replaced");
            return Ok(());
        }
        held::detach(path, None)?;
    }
    let id = program.attach_with_options(ifname, hook, TcAttachOptions::TcxOrder(order))?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    failpoint!("tcx.attached");
    link.pin(path)?;
    failpoint!("tcx.pinned");
    Ok(())
}
