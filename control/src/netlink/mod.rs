//! Links, addresses and routes, through the kernel's route netlink. The only module that knows
//! rtnetlink.

mod filters;
mod host;
mod link;
mod watch;

use std::{net::IpAddr, time::Duration};

use futures::{TryStream, TryStreamExt};
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, RouteMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, MacVlanMode},
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        nsid::{NsidAttribute, NsidMessage},
        route::RouteScope,
    },
};
use tokio::time::timeout;

pub(crate) use self::{
    host::HostRoute,
    link::{Link, LinkKind},
    watch::{Change, Moved, Watch, watch, watch_own},
};
use crate::{
    error::{Error, Result},
    model::{Mac, Mode, Route},
    netns::Netns,
    task::Task,
};

/// A netlink socket of one namespace.
pub(crate) struct Netlink {
    handle: Handle,
    _connection: Task,
}

impl From<rtnetlink::Error> for Error {
    fn from(e: rtnetlink::Error) -> Self {
        match e {
            rtnetlink::Error::NetlinkError(message) => message.to_io().into(),
            other => Self::failed(other.to_string()),
        }
    }
}

/// How long the kernel may take for one answer. It answers at once, unless others hold its lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for an answer, but not for ever: one for which there is no room the kernel drops.
async fn within<T, E: Into<Error>>(
    doing: &str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    match timeout(PATIENCE, answer).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(unanswered(doing)),
    }
}

/// Asks for a list, and once more if there is no answer: asking changes nothing.
async fn list<T, A>(doing: &str, ask: impl Fn() -> A) -> Result<Vec<T>>
where
    A: TryStream<Ok = T, Error = rtnetlink::Error>,
{
    if let Ok(done) = timeout(PATIENCE, ask().try_collect()).await {
        return Ok(done?);
    }
    tracing::warn!("{}", unanswered(doing));
    within(doing, ask().try_collect()).await
}

fn unanswered(doing: &str) -> Error {
    Error::failed(format!(
        "cannot {doing}: the kernel has not answered within {} s; its answer was lost, or others keep it busy: try again",
        PATIENCE.as_secs()
    ))
}

/// What a link is made with.
pub(crate) struct NewLink<'a> {
    /// Its name in its namespace.
    pub(crate) name: &'a str,
    /// Its namespace.
    pub(crate) netns: &'a Netns,
    /// Its MAC; absent: the kernel's choice.
    pub(crate) mac: Option<Mac>,
    /// Its MTU in bytes; absent: the kernel's choice.
    pub(crate) mtu: Option<u32>,
}

impl NewLink<'_> {
    fn describe<T>(&self, builder: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let builder = builder.name(self.name.to_owned()).setns_by_fd(self.netns.raw_fd());
        let builder = match self.mac {
            Some(mac) => builder.address(mac.0.to_vec()),
            None => builder,
        };
        match self.mtu {
            Some(mtu) => builder.mtu(mtu),
            None => builder,
        }
    }
}

fn kernel_mode(mode: Mode) -> MacVlanMode {
    match mode {
        Mode::Private => MacVlanMode::Private,
        Mode::Auto | Mode::Vepa => MacVlanMode::Vepa,
        Mode::Bridge => MacVlanMode::Bridge,
        Mode::Passthru => MacVlanMode::Passthrough,
    }
}

impl Netlink {
    /// A socket of the daemon's namespace.
    pub(crate) fn own() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, _connection: Task::spawn(connection) })
    }

    /// A socket of another namespace; it keeps that namespace alive.
    pub(crate) fn inside(netns: &Netns) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = netns.inside(|| {
            let _runtime = runtime.enter();
            rtnetlink::new_connection()
        })??;
        Ok(Self { handle, _connection: Task::spawn(connection) })
    }

    /// Every link of the namespace.
    pub(crate) async fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            list("list links", || self.handle.link().get().execute()).await?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// The link with this name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut answers = self.handle.link().get().match_name(name).execute();
        match within("look at a link", answers.try_next()).await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(e) if e.errno == Some(Errno::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The MACs in the unicast filter of a link: those of its macvlan children that are up, in
    /// whatever namespace, and those added by hand.
    pub(crate) async fn filter_list(&self, ifindex: u32) -> Result<Vec<Mac>> {
        let ask = || {
            let get = self.handle.neighbours().get();
            let mut request = get.set_address_family(AddressFamily::Bridge);
            request.message_mut().header.ifindex = ifindex;
            request.execute()
        };
        let all: Vec<NeighbourMessage> = list("read a link's filter of MACs", ask).await?;
        let own = all.into_iter().filter(|entry| {
            entry.header.ifindex == ifindex && entry.header.flags.contains(NeighbourFlags::Own)
        });
        Ok(own
            .filter_map(|entry| {
                entry.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                    _ => None,
                })
            })
            .map(Mac)
            .filter(|mac| !mac.is_multicast())
            .collect())
    }

    /// Adds a MAC to the unicast filter of a link, so that its NIC takes frames for it.
    pub(crate) async fn filter_add(&self, ifindex: u32, mac: Mac) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(ifindex, &mac.0)
            .flags(NeighbourFlags::Own)
            .state(NeighbourState::Permanent)
            .replace();
        within("add a MAC to a link's filter", request.execute()).await
    }

    /// Removes a MAC from the unicast filter of a link.
    pub(crate) async fn filter_remove(&self, ifindex: u32, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Own;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let request = self.handle.neighbours().del(message);
        within("remove a MAC from a link's filter", request.execute()).await
    }

    /// Makes a macvlan link on `parent`, directly in its namespace.
    pub(crate) async fn add_macvlan(
        &self,
        parent: u32,
        mode: Mode,
        new: &NewLink<'_>,
    ) -> Result<()> {
        let builder = LinkMacVlan::new(new.name, parent, kernel_mode(mode));
        let request = self.handle.link().add(new.describe(builder).build());
        within("make a macvlan link", request.execute()).await
    }

    /// Makes a veth pair: `host_end` here, the other end directly in its namespace.
    pub(crate) async fn add_veth(&self, host_end: &str, new: &NewLink<'_>) -> Result<()> {
        let peer = new.describe(LinkMessageBuilder::<LinkUnspec>::new()).build();
        let mut builder =
            LinkVeth::new(host_end, new.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        if let Some(mtu) = new.mtu {
            builder = builder.mtu(mtu);
        }
        within("make a veth pair", self.handle.link().add(builder.build()).execute()).await
    }

    /// Makes an 802.1Q sub-interface that is up, or none.
    pub(crate) async fn add_vlan(&self, name: &str, base: u32, vlan: u16) -> Result<()> {
        let message = LinkVlan::new(name, base, vlan).up().build();
        within("make a sub-interface", self.handle.link().add(message).execute()).await
    }

    /// Changes the mode of a macvlan link of this namespace, live.
    pub(crate) async fn set_mode(&self, ifindex: u32, mode: Mode) -> Result<()> {
        // Without a name: kernels before 6.3 take one for a rename, and refuse it while the link is
        // up, be it the name that the link has.
        let message = LinkMessageBuilder::<LinkMacVlan>::new_with_info_kind(InfoKind::MacVlan)
            .index(ifindex)
            .mode(kernel_mode(mode))
            .build();
        let request = self.handle.link().change(message).set_flags(NLM_F_REQUEST | NLM_F_ACK);
        within("change the mode of a link", request.execute()).await
    }

    /// Gives a link another name; it has to be down on kernels before 6.3.
    pub(crate) async fn rename(&self, ifindex: u32, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).name(name.to_owned()).build();
        within("rename a link", self.handle.link().set(message).execute()).await
    }

    /// Brings a link up and gives it an alias.
    pub(crate) async fn set_up(&self, ifindex: u32, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).alias(alias).up().build();
        within("bring a link up", self.handle.link().set(message).execute()).await
    }

    /// Takes a link down and gives it an alias.
    pub(crate) async fn set_down(&self, ifindex: u32, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).alias(alias).down().build();
        within("take a link down", self.handle.link().set(message).execute()).await
    }

    /// Makes a link take frames for every MAC (`IFF_PROMISC`), or no longer.
    pub(crate) async fn set_promiscuous(&self, ifindex: u32, on: bool) -> Result<()> {
        let link = LinkUnspec::new_with_index(ifindex);
        let mut message = link.build();
        message.header.change_mask = LinkFlags::Promisc;
        message.header.flags = if on { LinkFlags::Promisc } else { LinkFlags::empty() };
        within("set a link's promiscuous mode", self.handle.link().set(message).execute()).await
    }

    /// Gives a link an alias, and leaves it as it is otherwise.
    pub(crate) async fn set_alias(&self, ifindex: u32, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).alias(alias).build();
        within("give a link an alias", self.handle.link().set(message).execute()).await
    }

    /// Removes a link; one that is gone already is removed.
    pub(crate) async fn delete(&self, ifindex: u32) -> Result<()> {
        match within("remove a link", self.handle.link().del(ifindex).execute()).await {
            Err(e) if e.errno == Some(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address. IPv6 without duplicate address detection: the address is usable at
    /// once, and who hands it out answers for it.
    pub(crate) async fn add_address(&self, ifindex: u32, address: IpNetwork) -> Result<()> {
        let handle = self.handle.address();
        let mut request = handle.add(ifindex, address.ip(), address.prefix()).replace();
        if address.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        within("give a link an address", request.execute()).await
    }

    /// Adds a route through a link.
    pub(crate) async fn add_route(&self, ifindex: u32, route: &Route) -> Result<()> {
        let destination = route.destination;
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.network(), destination.prefix())
            .map_err(|e| Error::invalid(e.to_string()))?
            .output_interface(ifindex);
        if let Some(gateway) = route.gateway {
            builder = builder.gateway(gateway).map_err(|e| Error::invalid(e.to_string()))?;
        } else {
            builder = builder.scope(RouteScope::Link);
        }
        let request = self.handle.route().add(builder.build()).replace();
        within("add a route", request.execute()).await
    }

    /// Makes events of another namespace reach [`watch`], by giving it an ID in this one.
    pub(crate) async fn follow(&self, netns: &Netns) -> Result<()> {
        let message = nsid_message(netns, Some(NsidAttribute::Id(-1)));
        let given = self.nsid(RouteNetlinkMessage::NewNsId(message));
        match within("give a network namespace an ID", given).await {
            // It has an ID already.
            Err(e) if e.errno == Some(Errno::EEXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The ID that another namespace has in this one, if it has one.
    pub(crate) async fn id_of(&self, netns: &Netns) -> Result<Option<i32>> {
        let message = nsid_message(netns, None);
        let id = self.nsid(RouteNetlinkMessage::GetNsId(message));
        Ok(within("read the ID of a network namespace", id).await?.filter(|id| *id >= 0))
    }

    async fn nsid(&self, message: RouteNetlinkMessage) -> std::io::Result<Option<i32>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let failed = |e: rtnetlink::Error| std::io::Error::other(e.to_string());
        let mut answers = self.handle.clone().request(request).map_err(failed)?;
        let mut id = None;
        while let Some(answer) = futures::StreamExt::next(&mut answers).await {
            match answer.payload {
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                    id = message.attributes.iter().find_map(|attribute| match attribute {
                        NsidAttribute::Id(id) => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(id)
    }
}

fn nsid_message(netns: &Netns, more: Option<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    let fd = u32::try_from(netns.raw_fd()).unwrap_or_default();
    message.attributes = [NsidAttribute::Fd(fd)].into_iter().chain(more).collect();
    message
}

/// The MAC in a link message, if it has one of six bytes.
fn mac_of(message: &LinkMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

fn has(message: &LinkMessage, flag: LinkFlags) -> bool {
    message.header.flags.contains(flag)
}
