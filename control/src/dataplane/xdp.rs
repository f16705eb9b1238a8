//! XDP on the parent.

use aya::programs::{
    XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{Dataplane, program};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

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

/// The name of its link.
pub(super) const LINK: &str = "xdp";

impl Dataplane {
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
        let path = self.pins.link(LINK);
        let Some(mode) = mode else { return Ok(self.held.detach(&path)?) };
        let pinned = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        let ours = pinned.as_ref().and_then(|link| link.info().ok()).map(|info| info.program_id());
        if let Some((foreign, _)) = on_it.iter().find(|(id, _)| Some(*id) != ours) {
            return Err(Error::conflict(format!(
                "an XDP program that is not maclane's (ID {foreign}) is attached to {ifname} and stays; \
                 remove it (`ip link set dev {ifname} xdp off`), or use --xdp off: TC does the whole job"
            )));
        }
        if let Some(why) = &self.xdp_refused {
            return Err(Error::failed(why.clone()));
        }
        let doing = || format!("cannot attach {} to {ifname} ({})", program::XDP, mode.name());
        match pinned {
            Some(link) if on_it.iter().any(|(_, there)| *there == mode) => {
                let link = XdpLink::try_from(link).doing(doing)?;
                let program = self.xdp()?;
                let id = program.attach_to_link(link).doing(doing)?;
                program.take_link(id).doing(doing)?;
                failpoint!("xdp.replaced");
            }
            old => {
                drop(old);
                self.held.detach(&path)?;
                let program = self.xdp()?;
                let mode = match mode {
                    XdpIn::Native => XdpMode::Driver,
                    XdpIn::Generic => XdpMode::Skb,
                };
                let id = program.attach_to_if_index(ifindex, mode).doing(doing)?;
                // aya falls back to netlink without a word; such a link cannot be pinned, and is
                // gone again when it is dropped here.
                let link = FdLink::try_from(program.take_link(id).doing(doing)?).doing(doing)?;
                failpoint!("xdp.attached");
                link.pin(&path).doing(doing)?;
                failpoint!("xdp.pinned");
            }
        }
        self.held.hold(&path)
    }

    /// True if the program of XDP is among those that netlink shows on the parent.
    pub(crate) fn has_xdp(&self, on_it: &[(u32, XdpIn)]) -> bool {
        let ours = self.held.program_id_of(&self.pins.link(LINK));
        on_it.iter().any(|(id, _)| Some(*id) == ours)
    }
}
