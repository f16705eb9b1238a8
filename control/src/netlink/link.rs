//! A link, as netlink shows it.

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoMacVtap, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, LinkXdp, MacVlanMode, VlanProtocol,
};

use super::{has, mac_of};
use crate::model::{Mac, Mode};

/// What a link is, as far as maclane cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A macvlan or macvtap link; the mode is absent where it is none of ours (`source`).
    Macvlan(Option<Mode>),
    /// One end of a veth pair.
    Veth,
    /// An 802.1Q sub-interface, with its VLAN ID.
    Vlan(u16),
    /// A bridge.
    Bridge,
    /// Something else made by software, with its kind.
    Other(String),
    /// Not made by software: a NIC, or `lo`.
    Device,
}

impl LinkKind {
    /// The mode of a macvlan link.
    pub(crate) fn mode(&self) -> Option<Mode> {
        match self {
            Self::Macvlan(mode) => *mode,
            _ => None,
        }
    }
}

/// An XDP program on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpAttached {
    /// Its ID.
    pub(crate) program: u32,
    /// It runs in the stack, not in the driver.
    pub(crate) generic: bool,
}

/// A link, as netlink shows it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Its index in its namespace.
    pub(crate) index: u32,
    /// Its name in its namespace.
    pub(crate) name: String,
    /// What somebody has written on it.
    pub(crate) alias: Option<String>,
    /// Its MAC.
    pub(crate) mac: Option<Mac>,
    /// Its MTU in bytes.
    pub(crate) mtu: Option<u32>,
    /// It is up.
    pub(crate) up: bool,
    /// It is a loopback.
    pub(crate) loopback: bool,
    /// It is set to take frames for every MAC. (It may do so for a packet socket as well, unseen here.)
    pub(crate) promiscuous: bool,
    /// What it is.
    pub(crate) kind: LinkKind,
    /// The link that it sits on, or its peer.
    pub(crate) lower: Option<u32>,
    /// `lower` is in another namespace, which has this ID here.
    pub(crate) lower_netns: Option<i32>,
    /// The bridge or bond that it is a port of.
    pub(crate) controller: Option<u32>,
    /// The XDP programs on it.
    pub(crate) xdp: Vec<XdpAttached>,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mac: mac_of(message),
            mtu: None,
            up: has(message, LinkFlags::Up),
            loopback: has(message, LinkFlags::Loopback),
            promiscuous: has(message, LinkFlags::Promisc),
            kind: LinkKind::Device,
            lower: None,
            lower_netns: None,
            controller: None,
            xdp: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
                LinkAttribute::Link(index) => link.lower = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.lower_netns = Some(*id),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => link.kind = kind_of(infos),
                LinkAttribute::Xdp(xdp) => link.xdp = xdp_of(xdp),
                _ => {}
            }
        }
        link
    }
}

fn kind_of(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    match (kind, data) {
        (Some(InfoKind::MacVlan), Some(InfoData::MacVlan(data))) => {
            LinkKind::Macvlan(data.iter().find_map(|info| match info {
                InfoMacVlan::Mode(mode) => our_mode(*mode),
                _ => None,
            }))
        }
        (Some(InfoKind::MacVtap), Some(InfoData::MacVtap(data))) => {
            LinkKind::Macvlan(data.iter().find_map(|info| match info {
                InfoMacVtap::Mode(mode) => our_mode(*mode),
                _ => None,
            }))
        }
        (Some(InfoKind::Vlan), Some(InfoData::Vlan(data)))
            if !data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)) =>
        {
            let id = data.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            });
            id.map_or_else(|| LinkKind::Other("vlan".into()), LinkKind::Vlan)
        }
        (Some(InfoKind::Veth), _) => LinkKind::Veth,
        (Some(InfoKind::Bridge), _) => LinkKind::Bridge,
        (Some(other), _) => LinkKind::Other(other.to_string()),
        (None, _) => LinkKind::Device,
    }
}

fn our_mode(mode: MacVlanMode) -> Option<Mode> {
    match mode {
        MacVlanMode::Private => Some(Mode::Private),
        MacVlanMode::Vepa => Some(Mode::Vepa),
        MacVlanMode::Bridge => Some(Mode::Bridge),
        MacVlanMode::Passthrough => Some(Mode::Passthru),
        _ => None,
    }
}

fn xdp_of(attributes: &[LinkXdp]) -> Vec<XdpAttached> {
    let of_a_mode = attributes.iter().filter_map(|attribute| match attribute {
        LinkXdp::SkbProgId(id) => Some((*id, true)),
        LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => Some((*id, false)),
        _ => None,
    });
    of_a_mode.map(|(program, generic)| XdpAttached { program, generic }).collect()
}
