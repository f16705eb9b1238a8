//! XDP on a parent: where it runs, and whether it sees VLAN tags.

use super::{
    audit::xdp_on,
    state::{Problem, State},
};
use crate::{
    dataplane::{Mark, Pins, XdpIn},
    error::{ErrorKind, Result},
    ethtool,
    model::XdpMode,
    netlink::{Link, LinkKind, Netlink},
    netns::Netns,
};

/// Where XDP has to be attached.
pub(crate) fn wanted_xdp(mode: XdpMode, link: &Link) -> Option<XdpIn> {
    // A NIC has a device behind it; what software made has none.
    let physical =
        || std::path::Path::new("/sys/class/net").join(&link.name).join("device").exists();
    match mode {
        XdpMode::Native => Some(XdpIn::Native),
        XdpMode::Generic => Some(XdpIn::Generic),
        XdpMode::Off => None,
        XdpMode::Auto => (link.kind == LinkKind::Device && physical()).then_some(XdpIn::Native),
    }
}

impl State {
    /// Attaches XDP as `xdp` says, and notes what stands against it.
    pub(crate) fn decide_xdp(
        &mut self,
        iface: &str,
        link: &Link,
        xdp: Option<XdpIn>,
    ) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        let forced = parent.record.value.spec.xdp.is_forced();
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        parent.problems.remove(&Problem::Xdp);
        let attached = plane.attach_xdp(&link.name, link.index, xdp, &xdp_on(link));
        let before = parent.xdp;
        parent.xdp = attached.is_ok().then_some(xdp).flatten();
        parent.xdp_for = Some(link.index);
        // Whether a veth child takes frames from XDP is found out when it is looked at.
        let look_again = parent.xdp.is_some() && before.is_none();
        if let Err(e) = attached {
            let level = if forced { "cannot be had" } else { "is off" };
            parent.problems.insert(Problem::Xdp, format!("XDP {level}: {e}"));
            if e.kind != ErrorKind::Conflict && !forced {
                tracing::info!(parent = iface, "XDP is off: {e}");
            }
        } else if let Some(xdp) = xdp
            && plane.settings().xdp_sees_tags == 0
        {
            let problem = format!(
                "XDP ({}) leaves untagged frames to TC, because an offload may hide their VLAN tag; switch it off \
                 (for a veth: `ethtool -K PEER tx-vlan-offload off` at the other end), then add the parent again",
                xdp.name()
            );
            parent.problems.insert(Problem::Xdp, problem);
        }
        if look_again {
            self.suspect_children(iface);
            self.kick.notify_one();
        }
        Ok(())
    }

    /// True if no offload hides VLAN tags from XDP on this interface.
    pub(crate) async fn sees_tags(&self, iface: &str, link: &Link) -> bool {
        if link.kind != LinkKind::Veth {
            return match ethtool::offloads_rx_tags(&link.name) {
                Ok(false) => true,
                Ok(true) => self.keep_rx_tags(iface, &link.name).unwrap_or_else(|e| {
                    tracing::warn!(parent = iface, "cannot switch receive VLAN offload off: {e}");
                    false
                }),
                Err(_) => false,
            };
        }
        // What a veth receives has the form that its peer sends.
        let Some(peer) = link.lower else { return false };
        let keeps = |links: Vec<Link>| {
            let peer = links.into_iter().find(|other| {
                other.index == peer
                    && other.lower == Some(link.index)
                    && other.kind == LinkKind::Veth
            });
            peer.and_then(|peer| ethtool::offloads_tx_tags(&peer.name).ok()).map(|hides| !hides)
        };
        let Some(id) = link.lower_netns else {
            return self.netlink.links().await.ok().and_then(keeps).unwrap_or(false);
        };
        for netns in Netns::all().unwrap_or_default() {
            // The same indexes are in use in other namespaces, too.
            if !matches!(self.netlink.id_of(&netns).await, Ok(Some(other)) if other == id) {
                continue;
            }
            let Ok(inside) = Netlink::inside(&netns) else { continue };
            let Ok(links) = inside.links().await else { continue };
            return netns.inside(|| keeps(links)).ok().flatten().unwrap_or(false);
        }
        false
    }

    /// Switches receive VLAN offload off. That it has to be given back is noted first: whoever is
    /// killed in between gives it back once too often, and not never.
    fn keep_rx_tags(&self, iface: &str, ifname: &str) -> Result<bool> {
        let pins = Pins::new(&self.bpffs, iface);
        pins.mark(Mark::KeptRxTags, true)?;
        let kept = ethtool::keep_rx_tags(ifname);
        if matches!(kept, Ok(true)) {
            tracing::info!(
                parent = iface,
                "receive VLAN offload is off, so that XDP sees tags; it is on again after parent rm"
            );
        } else {
            pins.mark(Mark::KeptRxTags, false)?;
        }
        kept
    }
}
