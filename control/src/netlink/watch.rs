//! What changes, in this namespace and in those that we follow.

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket, SocketAddr},
};

use crate::error::Result;

/// A stream of "something about links has changed".
///
/// It does not say what: the kernel drops events when there are too many (ENOBUFS), so whoever
/// listens has to look at everything anyway.
pub(crate) struct Watch {
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Watches links come, change and go, in this namespace and in those that have an ID in it, and
/// namespaces go.
pub(crate) fn watch() -> Result<Watch> {
    let groups = [MulticastGroup::Link, MulticastGroup::Nsid];
    let (mut connection, _, events) = rtnetlink::new_multicast_connection(&groups)?;
    let socket = connection.socket_mut().socket_mut();
    socket.set_listen_all_namespaces(true)?;
    // A burst of a thousand links is about a megabyte of events.
    socket.set_rx_buf_sz(4 << 20)?;
    Ok(Watch { events, connection: tokio::spawn(connection) })
}

impl Watch {
    /// Waits for the next change. False if the watch has ended and has to be begun again.
    pub(crate) async fn changed(&mut self) -> bool {
        while let Some((message, _)) = self.events.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(_)
                    | RouteNetlinkMessage::DelLink(_)
                    | RouteNetlinkMessage::DelNsId(_),
                )
                | NetlinkPayload::Overrun(_)
                | NetlinkPayload::Error(_) => return true,
                _ => {}
            }
        }
        false
    }
}
