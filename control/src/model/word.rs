//! What users write as one word: addresses of both sorts, lists of VLANs, routes.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::VLAN_MAX;
use crate::{
    error::{Error, Result},
    subnet::Gateway,
};

/// In JSON these are the text that they are written and read as.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

as_text!(Mac, Trunk, AskedIp, Gateway);

/// An Ethernet address, printed as `02:00:5e:00:53:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// True for broadcast and multicast: the I/G bit (IEEE 802-2014, clause 8.2.2).
    pub(crate) fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True for 00:00:00:00:00:00, which no station may have.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for byte in self.0 {
            write!(f, "{separator}{byte:02x}")?;
            separator = ":";
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is not a MAC address; write six hexadecimal bytes, as in 02:00:5e:00:53:01"
            ))
        };
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len())).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(mac)) }
    }
}

/// The VLANs of a trunk port: `all`, or a list such as `10,20,100-110`. VLAN 0 in the list means
/// that untagged frames may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trunk {
    /// Every VLAN, and untagged frames.
    All,
    /// These, ascending and without repetition.
    List(Vec<u16>),
}

impl fmt::Display for Trunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(vlans) => {
                let mut rest = vlans.as_slice();
                let mut separator = "";
                while let [first, ..] = *rest {
                    let run = rest.iter().zip(first..).take_while(|(a, b)| **a == *b).count();
                    let last = rest[run - 1];
                    match run {
                        1 => write!(f, "{separator}{first}")?,
                        _ => write!(f, "{separator}{first}-{last}")?,
                    }
                    separator = ",";
                    rest = &rest[run..];
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Trunk {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "all" {
            return Ok(Self::All);
        }
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is not a list of VLANs; write \"all\" or IDs of 0 to {VLAN_MAX}, as in 10,20,100-110"
            ))
        };
        let id = |s: &str| s.trim().parse::<u16>().ok().filter(|v| *v <= VLAN_MAX).ok_or_else(bad);
        let mut vlans = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (id(first)?, id(last)?),
                None => (id(part)?, id(part)?),
            };
            if first > last {
                return Err(bad());
            }
            vlans.extend(first..=last);
        }
        vlans.sort_unstable();
        vlans.dedup();
        Ok(Self::List(vlans))
    }
}

/// A route of a child: `DESTINATION[=GATEWAY]`, the destination a CIDR or `default`; without a
/// gateway the destination is on the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Where to.
    #[schema(value_type = String)]
    pub(crate) destination: IpNetwork,
    /// Through whom.
    #[schema(value_type = Option<String>)]
    pub(crate) gateway: Option<IpAddr>,
}

impl FromStr for Route {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is not a route; write DESTINATION=GATEWAY, as in default=192.168.50.1 or 10.0.0.0/8=192.168.50.1, or a DESTINATION alone for one that is on the link"
            ))
        };
        let (destination, gateway) = match text.split_once('=') {
            Some((destination, gateway)) => {
                (destination, Some(gateway.parse::<IpAddr>().map_err(|_| bad())?))
            }
            None => (text, None),
        };
        let destination = match (destination, gateway) {
            ("default", Some(IpAddr::V4(_))) => "0.0.0.0/0",
            ("default", Some(IpAddr::V6(_))) => "::/0",
            (other, _) => other,
        };
        let destination: IpNetwork = destination.parse().map_err(|_| bad())?;
        if gateway.is_some_and(|g| g.is_ipv4() != destination.is_ipv4()) {
            return Err(bad());
        }
        Ok(Self { destination, gateway })
    }
}

/// An address that a child asks for: with the prefix length of its subnet, or without one where the
/// network says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskedIp {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The prefix length.
    pub(crate) prefix: Option<u8>,
}

impl From<IpNetwork> for AskedIp {
    fn from(address: IpNetwork) -> Self {
        Self { ip: address.ip(), prefix: Some(address.prefix()) }
    }
}

impl fmt::Display for AskedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for AskedIp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is not an address; write 192.168.50.9/24, fd00:50::9/64, or the address alone \
                 where the network has its subnet"
            ))
        };
        if text.contains('/') {
            return text.parse().map(IpNetwork::into).map_err(|_| bad());
        }
        Ok(Self { ip: text.parse().map_err(|_| bad())?, prefix: None })
    }
}
