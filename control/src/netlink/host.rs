//! What the host itself has and knows of addresses.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily,
    address::AddressAttribute,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};

use super::{Netlink, list};
use crate::error::Result;

/// A route of the main table through one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostRoute {
    /// Where to; never everything.
    pub(crate) destination: IpNetwork,
    /// The index of the interface.
    pub(crate) ifindex: u32,
}

impl Netlink {
    /// The addresses of the namespace's links, with the index of the link.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>> {
        let messages = list("list addresses", || self.handle.address().get().execute()).await?;
        let own = messages.iter().filter_map(|message| {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            // IPv6 has one only where it differs, on a point-to-point link.
            let other = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            let address = IpNetwork::new(local.or(other)?, message.header.prefix_len).ok()?;
            Some((message.header.index, address))
        });
        Ok(own.collect())
    }

    /// The routes of the main table that are not for everything.
    pub(crate) async fn routes(&self) -> Result<Vec<HostRoute>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let ask = || {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                self.handle.route().get(message).execute().into_stream()
            };
            routes.extend(list("list routes", ask).await?.iter().filter_map(route));
        }
        Ok(routes)
    }
}

fn route(message: &RouteMessage) -> Option<HostRoute> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let destination = IpNetwork::new(destination?, header.destination_prefix_length).ok()?;
    (destination.prefix() > 0).then_some(HostRoute { destination, ifindex: ifindex? })
}
