//! What the host itself has to do with the addresses of a network.

use ipnetwork::IpNetwork;

use super::state::State;
use crate::{
    error::{Error, Result},
    model::NetworkSpec,
    netlink::{HostRoute, Link},
    subnet::overlap,
};

impl State {
    /// Looks at the host's own addresses: no child gets one of them.
    pub(crate) async fn look_at_host(&mut self) -> Result<()> {
        let addresses = self.netlink.addresses().await?;
        self.host_addresses = addresses.into_iter().map(|(_, address)| address.ip()).collect();
        Ok(())
    }

    /// Refuses subnets that the host reaches through something else than the network's parent.
    pub(crate) async fn check_routes(&self, spec: &NetworkSpec) -> Result<()> {
        match self.routes_elsewhere(spec).await?.into_iter().next() {
            Some(text) => Err(Error::conflict(text)),
            None => Ok(()),
        }
    }

    /// The subnets of a network that the host reaches through something else than its parent, with
    /// the way out.
    pub(crate) async fn routes_elsewhere(&self, spec: &NetworkSpec) -> Result<Vec<String>> {
        let iface = &spec.parent;
        let parent = self.parent(iface)?;
        // On a parent that leads nowhere the host is not.
        let is_apart = parent.record.value.isolated || spec.subnets.is_empty();
        let Some(parent) = parent.link.as_ref().filter(|_| !is_apart) else {
            return Ok(Vec::new());
        };
        let (routes, links) = (self.netlink.routes().await?, self.netlink.links().await?);
        let elsewhere = |subnet: IpNetwork| {
            let route = deciding(&routes, subnet).find(|r| !leads_to(parent, r.ifindex, &links))?;
            let name = links.iter().find(|link| link.index == route.ifindex);
            let name = name.map_or_else(|| route.ifindex.to_string(), |link| link.name.clone());
            let destination = route.destination;
            Some(format!(
                "the host routes {destination} through {name}, and would not find {subnet} on {iface}; take another \
                 subnet, or `ip route add {subnet} dev {iface}` if it is there{}",
                if destination.prefix() > subnet.prefix() { " and remove that route" } else { "" }
            ))
        };
        Ok(spec.subnets.iter().filter_map(|s| elsewhere(s.subnet)).collect())
    }
}

/// The routes that decide where the host looks for addresses of a subnet: the narrowest of those
/// that hold all of it, and those for a part of it.
fn deciding(routes: &[HostRoute], subnet: IpNetwork) -> impl Iterator<Item = &HostRoute> {
    let around = move |route: &&HostRoute| route.destination.prefix() <= subnet.prefix();
    let about = move || routes.iter().filter(move |r| overlap(r.destination, subnet));
    let narrowest = about().filter(around).map(|route| route.destination.prefix()).max();
    about().filter(move |r| !around(r) || Some(r.destination.prefix()) == narrowest)
}

/// True for the parent itself, what sits on it (an 802.1Q sub-interface, somebody's macvlan link of
/// the host), and the bridge that it is a port of.
fn leads_to(parent: &Link, ifindex: u32, links: &[Link]) -> bool {
    let sits_on_it = |link: &Link| {
        link.index == ifindex && link.lower == Some(parent.index) && link.lower_netns.is_none()
    };
    ifindex == parent.index || parent.controller == Some(ifindex) || links.iter().any(sits_on_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_route_around_a_subnet_and_those_inside_decide() {
        let route = |(text, ifindex): (&str, u32)| HostRoute {
            destination: text.parse().unwrap(),
            ifindex,
        };
        let routes = [
            ("10.0.0.0/8", 1),
            ("10.7.0.0/16", 2),
            ("10.7.5.0/24", 3),
            ("10.7.5.128/25", 4),
            ("10.8.0.0/16", 5),
            ("fd00::/8", 6),
        ]
        .map(route);
        let decide = |subnet: &str| -> Vec<u32> {
            deciding(&routes, subnet.parse().unwrap()).map(|route| route.ifindex).collect()
        };
        assert_eq!(decide("10.7.6.0/24"), [2]);
        assert_eq!(decide("10.7.5.0/24"), [3, 4]);
        assert_eq!(decide("10.7.0.0/16"), [2, 3, 4]);
        assert_eq!(decide("10.9.0.0/16"), [1]);
        assert_eq!(decide("192.168.0.0/16"), [0; 0]);
        assert_eq!(decide("fd00:7::/64"), [6]);
    }
}
