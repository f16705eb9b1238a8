//! What changes, in this namespace and in those that we follow.

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
    sys::{AsyncSocket, SocketAddr},
};

use super::Link;
use crate::{error::Result, task::Task};

/// A stream of changes.
pub(crate) struct Watch {
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Of the daemon's own namespace alone.
    is_own: bool,
    _connection: Task,
}

/// Watches links come, change and go, in this namespace and in those that have an ID in it, filters
/// and qdiscs go, and namespaces go.
pub(crate) fn watch() -> Result<Watch> {
    let groups = [MulticastGroup::Link, MulticastGroup::Nsid, MulticastGroup::Tc];
    let (mut connection, _, events) = rtnetlink::new_multicast_connection(&groups)?;
    let socket = connection.socket_mut().socket_mut();
    socket.set_listen_all_namespaces(true)?;
    // A burst of a thousand links is about a megabyte of events.
    socket.set_rx_buf_sz(4 << 20)?;
    Ok(Watch { events, is_own: false, _connection: Task::spawn(connection) })
}

/// Watches links leave this namespace for others. An event of [`watch`] does not say of which
/// namespace it is, and the owner of another one can make links there that look like one of this.
pub(crate) fn watch_own() -> Result<Watch> {
    let (mut connection, _, events) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    connection.socket_mut().socket_mut().set_rx_buf_sz(4 << 20)?;
    Ok(Watch { events, is_own: true, _connection: Task::spawn(connection) })
}

/// What has changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A link came or changed. In whose namespace it is, the event does not say.
    Link(Box<Link>),
    /// A link was moved from the daemon's own namespace ([`watch_own`]).
    Moved(Moved),
    /// A link has gone.
    Gone(Box<Link>),
    /// A filter or a qdisc of the link with this index has gone, in whichever namespace.
    Filter(u32),
    /// A namespace has gone.
    NetnsGone,
    /// The kernel dropped events (ENOBUFS): anything may have changed.
    Lost,
}

/// Where a link was moved to (`net/core/dev.c`, `__dev_change_net_namespace`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moved {
    /// The index of the link that it sits on.
    pub(crate) lower: u32,
    /// The ID of the other namespace in this one.
    pub(crate) netns: i32,
    /// Its index there.
    pub(crate) index: u32,
}

impl Moved {
    fn of(message: &LinkMessage) -> Option<Self> {
        let (mut lower, mut netns, mut index) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Link(it) => lower = Some(*it),
                LinkAttribute::NewNetnsId(it) => netns = Some(*it),
                LinkAttribute::NewIfIndex(it) => index = u32::try_from(*it).ok(),
                _ => {}
            }
        }
        Some(Self { lower: lower?, netns: netns?, index: index? })
    }
}

impl Watch {
    /// Waits for the next change; `None` if the watch has ended and has to be begun again.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, _) = self.events.next().await?;
            return Some(match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    Change::Link(Box::new(Link::from(&link)))
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    match Moved::of(&link).filter(|_| self.is_own) {
                        Some(moved) => Change::Moved(moved),
                        None => Change::Gone(Box::new(Link::from(&link))),
                    }
                }
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::DelTrafficFilter(tc)
                    | RouteNetlinkMessage::DelQueueDiscipline(tc),
                ) => Change::Filter(u32::try_from(tc.header.index).unwrap_or_default()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNsId(_)) => Change::NetnsGone,
                NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Change::Lost,
                _ => continue,
            });
        }
    }
}
