//! The clsact qdisc of a link, and the filters in it.

use nix::errno::Errno;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Netlink, list, within};
use crate::{dataplane::Filter, error::Result};

impl Netlink {
    /// The filters on the way in and on the way out of a link that are programs.
    pub(crate) async fn filters(&self, ifindex: u32) -> Result<Vec<Filter>> {
        let (ingress, egress) = self.filter_messages(ifindex).await?;
        let ingress = ingress.iter().filter_map(|message| filter(message, true));
        Ok(ingress.chain(egress.iter().filter_map(|message| filter(message, false))).collect())
    }

    async fn filter_messages(&self, ifindex: u32) -> Result<(Vec<TcMessage>, Vec<TcMessage>)> {
        let index = i32::try_from(ifindex).unwrap_or_default();
        let get = || self.handle.traffic_filter(index).get();
        let ingress = list("list filters on the way in", || get().ingress().execute()).await?;
        let egress = list("list filters on the way out", || get().egress().execute()).await?;
        Ok((ingress, egress))
    }

    /// Removes the clsact qdisc of a link, unless somebody has filters in it; one that is gone is
    /// removed.
    pub(crate) async fn delete_clsact(&self, ifindex: u32) -> Result<()> {
        let (ingress, egress) = self.filter_messages(ifindex).await.unwrap_or_default();
        if !ingress.is_empty() || !egress.is_empty() {
            return Ok(());
        }
        let index = i32::try_from(ifindex).unwrap_or_default();
        let mut request = self.handle.qdisc().del(index);
        let message = request.message_mut();
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle { major: 0xffff, minor: 0 };
        message.attributes.push(TcAttribute::Kind("clsact".into()));
        match within("remove a clsact qdisc", request.execute()).await {
            Err(e) if matches!(e.errno, Some(Errno::EINVAL | Errno::ENOENT)) => Ok(()),
            other => other,
        }
    }
}

fn filter(message: &TcMessage, ingress: bool) -> Option<Filter> {
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let program = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })?;
    // Priority and protocol (`net/sched/cls_api.c`, `tcf_fill_node`).
    let priority = u16::try_from(message.header.info >> 16).ok()?;
    Some(Filter { ingress, priority, program })
}
