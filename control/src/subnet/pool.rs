//! The addresses that a subnet has to give, and the first of them that is free.
//!
//! Nothing here grows with a pool: a /8 or a /48 costs what is taken of it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;

/// Addresses in a row, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    first: IpAddr,
    last: IpAddr,
}

impl Pool {
    /// What may be given out of `range`, a part of `subnet` or all of it: never the subnet's own
    /// address (for IPv6 that of any router, RFC 4291, section 2.6.1), nor its broadcast address.
    /// Subnets of one or two addresses have neither (RFC 3021, RFC 6164).
    pub(crate) fn new(subnet: IpNetwork, range: IpNetwork) -> Self {
        let (mut first, mut last) = (range.network(), range.broadcast());
        if host_bits(subnet) > 1 {
            if first == subnet.network() {
                first = after(first);
            }
            if subnet.is_ipv4() && last == subnet.broadcast() {
                last = before(last);
            }
        }
        Self { first, last }
    }

    /// Its lowest address.
    pub(crate) fn first(self) -> IpAddr {
        self.first
    }

    /// Whether it has an address.
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        (self.first..=self.last).contains(&ip)
    }

    /// The lowest address that is not `taken`.
    pub(crate) fn first_free(self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        if self.is_empty() {
            return None;
        }
        let mut free = self.first;
        for ip in taken.range(self.first..=self.last) {
            if *ip != free {
                break;
            }
            if free == self.last {
                return None;
            }
            free = after(free);
        }
        Some(free)
    }

    /// How many addresses it has.
    pub(crate) fn size(self) -> u128 {
        if self.is_empty() { 0 } else { number(self.last) - number(self.first) + 1 }
    }

    /// True for a range of nothing but the subnet's own address, say.
    fn is_empty(self) -> bool {
        self.first > self.last
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// Bits of a subnet's addresses that tell its hosts apart.
fn host_bits(subnet: IpNetwork) -> u8 {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    bits - subnet.prefix()
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn after(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

fn before(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_sub(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_sub(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(subnet: &str, range: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), range.parse().unwrap())
    }

    #[test]
    fn the_first_and_the_last_address_are_those_that_hosts_may_have() {
        for (subnet, range, first, last) in [
            ("192.168.32.0/24", "192.168.32.0/24", "192.168.32.1", "192.168.32.254"),
            ("192.168.32.0/24", "192.168.32.128/25", "192.168.32.128", "192.168.32.254"),
            ("192.168.32.0/24", "192.168.32.64/26", "192.168.32.64", "192.168.32.127"),
            ("192.168.32.0/24", "192.168.32.7/32", "192.168.32.7", "192.168.32.7"),
            ("10.0.0.0/8", "10.0.0.0/8", "10.0.0.1", "10.255.255.254"),
            ("192.168.32.4/30", "192.168.32.4/30", "192.168.32.5", "192.168.32.6"),
            ("192.168.32.4/31", "192.168.32.4/31", "192.168.32.4", "192.168.32.5"),
            ("192.168.32.4/32", "192.168.32.4/32", "192.168.32.4", "192.168.32.4"),
            ("fd00::/48", "fd00::/48", "fd00::1", "fd00::ffff:ffff:ffff:ffff:ffff"),
            ("fd00::/127", "fd00::/127", "fd00::", "fd00::1"),
            ("fd00::5/128", "fd00::5/128", "fd00::5", "fd00::5"),
            ("255.255.255.254/31", "255.255.255.254/31", "255.255.255.254", "255.255.255.255"),
        ] {
            let pool = pool(subnet, range);
            assert_eq!(
                (pool.first.to_string(), pool.last.to_string()),
                (first.into(), last.into())
            );
        }
    }

    #[test]
    fn a_large_pool_costs_what_is_taken_of_it() {
        let taken = |first: &str, count: u128| -> BTreeSet<IpAddr> {
            let first = u128::from(first.parse::<Ipv6Addr>().unwrap());
            (first..first + count).map(|n| Ipv6Addr::from(n).into()).collect()
        };
        let pool = pool("fd00::/48", "fd00::/48");
        assert_eq!(pool.size(), (1 << 80) - 1);
        let free = pool.first_free(&taken("fd00::1", 10_000)).unwrap();
        assert_eq!(free, "fd00::2711".parse::<IpAddr>().unwrap());
    }

    /// Pools small enough to write out, at both ends of either family.
    fn small() -> impl Strategy<Value = (IpNetwork, IpNetwork)> {
        let of = |text: &'static str, bits: u8| {
            (0..=6u8, 0..=6u8, any::<u8>()).prop_map(move |(host, inner, place)| {
                let base: IpAddr = text.parse().unwrap();
                let subnet = IpNetwork::new(base, bits - host).unwrap();
                let subnet = IpNetwork::new(subnet.network(), bits - host).unwrap();
                let inner = inner.min(host);
                let offset = u32::from(place) % (1 << host);
                let at = match subnet.network() {
                    IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + offset).to_be_bytes()),
                    IpAddr::V6(ip) => {
                        IpAddr::from((u128::from(ip) + u128::from(offset)).to_be_bytes())
                    }
                };
                let range = IpNetwork::new(at, bits - inner).unwrap();
                (subnet, IpNetwork::new(range.network(), bits - inner).unwrap())
            })
        };
        prop_oneof![
            of("192.168.50.77", 32),
            of("255.255.255.255", 32),
            of("fd00::1234", 128),
            of("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 128),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Against the addresses of the range, written out: giving and taking back in any order
        /// always gives the lowest that is free, and nothing else when none is.
        #[test]
        fn it_gives_what_a_plain_set_gives(
            (subnet, range) in small(),
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let pool = Pool::new(subnet, range);
            let hosts = |ip: &IpAddr| {
                let bits = if subnet.is_ipv4() { 32 } else { 128 };
                bits - subnet.prefix() <= 1
                    || (*ip != subnet.network() && (ip.is_ipv6() || *ip != subnet.broadcast()))
            };
            let mut free: BTreeSet<IpAddr> = range.iter().filter(hosts).collect();
            prop_assert_eq!(pool.size(), free.len() as u128);
            let mut taken = BTreeSet::new();
            for (give, which) in steps {
                if give {
                    let given = pool.first_free(&taken);
                    prop_assert_eq!(given, free.pop_first());
                    taken.extend(given);
                } else if !taken.is_empty() {
                    let back = *which.get(&taken.iter().copied().collect::<Vec<_>>());
                    taken.remove(&back);
                    free.insert(back);
                }
                prop_assert!(taken.iter().all(|ip| pool.has(*ip)));
            }
        }
    }
}
