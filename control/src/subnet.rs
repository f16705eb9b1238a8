//! The IP configuration of a network: subnets, and which of their addresses children get.

mod pool;

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::pool::Pool;
use crate::error::{Error, Result};

/// Who routes for a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// Its first address.
    #[default]
    First,
    /// Nobody: children get no default route.
    None,
    /// This one.
    At(IpAddr),
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::None => f.write_str("none"),
            Self::At(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for Gateway {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "first" => Ok(Self::First),
            "none" => Ok(Self::None),
            ip => ip.parse().map(Self::At).map_err(|_| {
                Error::invalid(format!(
                    "\"{text}\" is not a gateway; write its address, as in 192.168.50.1, or \"none\""
                ))
            }),
        }
    }
}

/// A subnet of a network, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubnetSpec {
    /// The subnet.
    #[schema(value_type = String)]
    pub(crate) subnet: IpNetwork,
    /// Who routes for it: an address, `first` (its first one) or `none`.
    #[serde(default)]
    #[schema(value_type = String)]
    pub(crate) gateway: Gateway,
    /// The part of it that children get addresses of; absent: all of it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) ip_range: Option<IpNetwork>,
}

impl SubnetSpec {
    /// All of a subnet, with its first address as gateway.
    pub(crate) fn new(subnet: IpNetwork) -> Self {
        Self { subnet, gateway: Gateway::First, ip_range: None }
    }

    /// The address of the gateway. A subnet of one or two addresses has no first one to spare.
    pub(crate) fn gateway(&self) -> Option<IpAddr> {
        match self.gateway {
            Gateway::At(ip) => Some(ip),
            Gateway::None => None,
            Gateway::First => {
                let hosts = Pool::new(self.subnet, self.subnet);
                (hosts.size() > 2 || !hosts.has(self.subnet.network())).then(|| hosts.first())
            }
        }
    }

    /// What children get addresses of.
    pub(crate) fn pool(&self) -> Pool {
        Pool::new(self.subnet, self.ip_range.unwrap_or(self.subnet))
    }

    /// Refuses an address that no station of the subnet may have.
    pub(crate) fn station(&self, ip: IpAddr, what: &str) -> Result<()> {
        let subnet = self.subnet;
        if !subnet.contains(ip) {
            return Err(Error::invalid(format!(
                "{what} {ip} is not in {subnet}; take one of that subnet's addresses"
            )));
        }
        if !Pool::new(subnet, subnet).has(ip) {
            return Err(Error::invalid(format!(
                "{what} {ip} is the address of {subnet} itself or its broadcast address; take another one"
            )));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let subnet = self.subnet;
        if subnet.ip() != subnet.network() {
            return Err(Error::invalid(format!(
                "{subnet} is not a subnet but an address in one; write {}/{}",
                subnet.network(),
                subnet.prefix()
            )));
        }
        if subnet.prefix() == 0 || subnet.ip().is_multicast() || subnet.ip().is_unspecified() {
            return Err(Error::invalid(format!(
                "{subnet} cannot be a subnet of hosts; take one such as 192.168.50.0/24 or fd00:50::/64"
            )));
        }
        if let Gateway::At(ip) = self.gateway {
            self.station(ip, "the gateway")?;
        }
        let Some(range) = self.ip_range else { return Ok(()) };
        if range.is_ipv4() != subnet.is_ipv4()
            || !subnet.contains(range.network())
            || range.prefix() < subnet.prefix()
        {
            return Err(Error::invalid(format!(
                "the range {range} is not inside of {subnet}; take a part of that subnet"
            )));
        }
        Ok(())
    }
}

/// True if two subnets share an address.
pub(crate) fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// Refuses subnets, with addresses that are kept back, that make no sense together.
pub(crate) fn check(subnets: &[SubnetSpec], kept_back: &BTreeMap<String, IpAddr>) -> Result<()> {
    for (number, subnet) in subnets.iter().enumerate() {
        subnet.check()?;
        if let Some(other) = subnets[..number].iter().find(|s| overlap(s.subnet, subnet.subnet)) {
            return Err(Error::invalid(format!(
                "the subnets {} and {} overlap; take others, or one that holds both",
                other.subnet, subnet.subnet
            )));
        }
    }
    for (name, ip) in kept_back {
        let subnet = subnets.iter().find(|s| s.subnet.contains(*ip)).ok_or_else(|| {
            Error::invalid(format!(
                "the address {ip} that is kept back for \"{name}\" is in no subnet of the network; \
                 leave it out, or add its subnet"
            ))
        })?;
        subnet.station(*ip, &format!("the address that is kept back for \"{name}\","))?;
        if subnet.gateway == Gateway::At(*ip) {
            return Err(Error::invalid(format!(
                "{ip} is the gateway, and cannot be kept back for \"{name}\" as well; leave one of them out"
            )));
        }
        if let Some((other, _)) = kept_back.iter().find(|(n, other)| *other == ip && *n != name) {
            return Err(Error::invalid(format!(
                "{ip} is kept back for \"{name}\" and for \"{other}\"; leave one of them out"
            )));
        }
    }
    Ok(())
}

/// Puts gateways and ranges to the subnets that they are in, as Docker's command line does; `none`
/// as a gateway is for the subnets that get no other.
pub(crate) fn assemble(
    subnets: &[IpNetwork],
    gateways: &[Gateway],
    ranges: &[IpNetwork],
) -> Result<Vec<SubnetSpec>> {
    let mut assembled: Vec<SubnetSpec> = subnets.iter().copied().map(SubnetSpec::new).collect();
    if gateways.contains(&Gateway::None) {
        for subnet in &mut assembled {
            subnet.gateway = Gateway::None;
        }
    }
    for gateway in gateways {
        let Gateway::At(ip) = gateway else { continue };
        let subnet = find(&mut assembled, *ip, format_args!("the gateway {ip}"))?;
        if let Gateway::At(other) = subnet.gateway {
            return Err(Error::invalid(format!(
                "{} has the gateways {other} and {ip}; leave one of them out",
                subnet.subnet
            )));
        }
        subnet.gateway = *gateway;
    }
    for range in ranges {
        let subnet = find(&mut assembled, range.network(), format_args!("the range {range}"))?;
        if let Some(other) = subnet.ip_range.replace(*range) {
            return Err(Error::invalid(format!(
                "{} has the ranges {other} and {range}; leave one of them out, or take one that holds both",
                subnet.subnet
            )));
        }
    }
    Ok(assembled)
}

/// The subnet that an address is in.
fn find<'a>(
    subnets: &'a mut [SubnetSpec],
    ip: IpAddr,
    what: fmt::Arguments<'_>,
) -> Result<&'a mut SubnetSpec> {
    subnets.iter_mut().find(|subnet| subnet.subnet.contains(ip)).ok_or_else(|| {
        Error::invalid(format!("{what} is in no --subnet; add its subnet, or leave it out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn subnet(subnet: &str, gateway: &str, range: &str) -> SubnetSpec {
        let ip_range = (!range.is_empty()).then(|| net(range));
        SubnetSpec { subnet: net(subnet), gateway: gateway.parse().unwrap(), ip_range }
    }

    #[test]
    fn gateways_and_ranges_find_their_subnets() {
        let subnets = [net("192.168.50.0/24"), net("fd00:50::/64"), net("10.0.0.0/8")];
        let gateways = [Gateway::At(ip("fd00:50::ff")), Gateway::None, Gateway::At(ip("10.0.0.9"))];
        let assembled = assemble(&subnets, &gateways, &[net("10.1.0.0/16")]).unwrap();
        let expected = [
            subnet("192.168.50.0/24", "none", ""),
            subnet("fd00:50::/64", "fd00:50::ff", ""),
            subnet("10.0.0.0/8", "10.0.0.9", "10.1.0.0/16"),
        ];
        assert_eq!(assembled, expected);
        for (gateways, ranges) in [
            (vec![Gateway::At(ip("172.16.0.1"))], vec![]),
            (vec![], vec![net("172.16.0.0/24")]),
            (vec![Gateway::At(ip("10.0.0.1")), Gateway::At(ip("10.0.0.2"))], vec![]),
            (vec![], vec![net("10.0.0.0/24"), net("10.0.1.0/24")]),
        ] {
            assert!(assemble(&subnets, &gateways, &ranges).is_err(), "{gateways:?} {ranges:?}");
        }
    }

    #[test]
    fn the_first_address_is_the_gateway() {
        for (subnet, gateway) in [
            ("192.168.50.0/24", Some("192.168.50.1")),
            ("192.168.50.128/25", Some("192.168.50.129")),
            ("fd00:50::/64", Some("fd00:50::1")),
            ("192.168.50.4/30", Some("192.168.50.5")),
            ("192.168.50.4/31", None),
            ("192.168.50.4/32", None),
            ("fd00::/127", None),
        ] {
            assert_eq!(SubnetSpec::new(net(subnet)).gateway(), gateway.map(ip), "{subnet}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = BTreeMap::new();
        for good in [
            vec![subnet("192.168.50.0/24", "first", "192.168.50.128/25")],
            vec![subnet("192.168.50.0/24", "192.168.50.254", "192.168.50.0/24")],
            vec![subnet("fd00:50::/64", "none", "fd00:50::1:0/112")],
            vec![subnet("10.0.0.0/8", "first", ""), subnet("192.168.0.0/16", "first", "")],
            vec![subnet("10.0.0.6/31", "10.0.0.6", "")],
        ] {
            assert!(check(&good, &none).is_ok(), "{good:?}");
        }
        for bad in [
            vec![subnet("192.168.50.9/24", "first", "")],
            vec![subnet("0.0.0.0/0", "first", "")],
            vec![subnet("224.0.0.0/8", "first", "")],
            vec![subnet("192.168.50.0/24", "192.168.51.1", "")],
            vec![subnet("192.168.50.0/24", "192.168.50.0", "")],
            vec![subnet("192.168.50.0/24", "192.168.50.255", "")],
            vec![subnet("192.168.50.0/24", "fd00::1", "")],
            vec![subnet("192.168.50.0/24", "first", "192.168.51.0/25")],
            vec![subnet("192.168.50.0/24", "first", "192.168.0.0/16")],
            vec![subnet("192.168.50.0/24", "first", "fd00::/64")],
            vec![subnet("10.0.0.0/8", "first", ""), subnet("10.1.0.0/16", "first", "")],
        ] {
            assert!(check(&bad, &none).is_err(), "{bad:?}");
        }
        let subnets = [subnet("192.168.50.0/24", "192.168.50.1", "")];
        let aux = |list: &[(&str, &str)]| -> BTreeMap<String, IpAddr> {
            list.iter().map(|(name, address)| ((*name).to_owned(), ip(address))).collect()
        };
        assert!(check(&subnets, &aux(&[("router", "192.168.50.9")])).is_ok());
        for bad in [
            &[("router", "192.168.51.9")][..],
            &[("router", "192.168.50.255")],
            &[("router", "192.168.50.1")],
            &[("a", "192.168.50.9"), ("b", "192.168.50.9")],
        ] {
            assert!(check(&subnets, &aux(bad)).is_err(), "{bad:?}");
        }
    }
}
