//! Log lines, with the feature `log`; without it they cost nothing.

use dataplane_common::DropReason;

use crate::skb::Skb;

/// A frame was dropped by TC. The number is the place of the reason in the list of drop reasons.
#[inline(always)]
pub(crate) fn dropped(skb: Skb, reason: DropReason) {
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &aya_ebpf::programs::TcContext::new(skb.0),
        "dropped for reason {}: {} bytes on interface {}",
        reason as u32,
        skb.size().bytes,
        skb.ifindex()
    );
    #[cfg(not(feature = "log"))]
    let _ = (skb, reason);
}
