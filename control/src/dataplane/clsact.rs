//! Programs as filters of a clsact qdisc, where the kernel has no TCX.

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    links::Link as _,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use super::pins::{Mark, Pins};
use crate::{error::Result, failpoint::failpoint};

/// The place of our filters in a clsact qdisc: known, so that they are found again.
pub(super) const PRIORITY: u16 = 0x6d6c;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Attaches by a filter: in the place of the one that is there, if there is one. On a parent, the
/// pins remember whose the qdisc is.
pub(super) fn attach(
    program: &mut SchedClassifier,
    of_parent: Option<&Pins>,
    ifname: &str,
    hook: TcAttachType,
) -> Result<()> {
    let there = SchedClassifierLink::attached(ifname, hook, PRIORITY, HANDLE, None)?;
    let id = if let Ok(id) = program.attach_to_link(there) {
        id
    } else {
        add_qdisc(of_parent, ifname)?;
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program.attach_with_options(ifname, hook, TcAttachOptions::Netlink(options))?
    };
    // Dropped, it would detach; it has to outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    failpoint!("clsact.filter");
    Ok(())
}

/// Adds the qdisc if it is not there. The mark comes first: killed in between, the daemon takes a
/// qdisc for its own that is not there, and not one of its own for somebody else's.
fn add_qdisc(of_parent: Option<&Pins>, ifname: &str) -> Result<()> {
    let unmarked = of_parent.filter(|pins| !pins.has(Mark::MadeClsact));
    if let Some(pins) = unmarked {
        pins.mark(Mark::MadeClsact, true)?;
        failpoint!("clsact.marked");
    }
    match tc::qdisc_add_clsact(ifname) {
        Ok(()) => failpoint!("clsact.qdisc"),
        Err(e) => {
            if let Some(pins) = unmarked {
                pins.mark(Mark::MadeClsact, false)?;
            }
            // It is there already.
            if !matches!(e, TcError::NetlinkError(_)) {
                return Err(ProgramError::from(e).into());
            }
        }
    }
    Ok(())
}

/// Takes our filter off; what is not there need not be taken off.
pub(super) fn detach(ifname: &str, hook: TcAttachType) -> Result<()> {
    let there = SchedClassifierLink::attached(ifname, hook, PRIORITY, HANDLE, None)?;
    if there.detach().is_ok() {
        failpoint!("clsact.unfiltered");
    }
    Ok(())
}
