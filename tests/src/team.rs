//! Teams (`drivers/net/team`): `ip link` makes one, and its mode is set by generic netlink alone.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

use crate::netns::Netns;

/// `include/uapi/linux/genetlink.h`.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `include/uapi/linux/if_team.h`.
const SET_OPTIONS: u8 = 1;
const TEAM_IFINDEX: u16 = 1;
const LIST: u16 = 2;
const OPTION: u16 = 1;
const OPTION_NAME: u16 = 1;
const OPTION_TYPE: u16 = 3;
const OPTION_DATA: u16 = 4;

/// `NLA_STRING` of `include/net/netlink.h`.
const STRING: u8 = 5;

/// Bytes of `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER: usize = 20;

/// Sets the mode of a team that has no ports yet, such as `roundrobin`.
#[track_caller]
pub fn set_mode(ns: &Netns, ifname: &str, mode: &str) {
    let ifindex = ns.ifindex(ifname);
    if let Err(error) = ns.enter(|| try_set_mode(ifindex, mode)) {
        panic!("cannot set the mode {mode} of {ifname} in {}: {error}", ns.name());
    }
}

fn try_set_mode(ifindex: u32, mode: &str) -> io::Result<()> {
    let generic = SockProtocol::NetlinkGeneric;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, generic)?;
    let answer = ask(&socket, (CONTROLLER, GET_FAMILY), &attribute(FAMILY_NAME, b"team\0"))?;
    let family = find(&answer, FAMILY_ID).and_then(|id| id.try_into().ok());
    let family = u16::from_ne_bytes(family.ok_or(io::ErrorKind::InvalidData)?);
    let option = [
        attribute(OPTION_NAME, b"mode\0"),
        attribute(OPTION_TYPE, &[STRING]),
        attribute(OPTION_DATA, &[mode.as_bytes(), &[0]].concat()),
    ];
    let list = attribute(LIST, &attribute(OPTION, &option.concat()));
    let team = attribute(TEAM_IFINDEX, &ifindex.to_ne_bytes());
    match ask(&socket, (family, SET_OPTIONS), &[team, list].concat()) {
        // It is set, and no listener is there for the notification.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map(drop),
    }
}

/// One attribute, padded to four bytes (netlink(7)).
fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + data.len()).expect("an attribute is short");
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The data of the first attribute of that kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let number =
            |at: usize| Some(u16::from_ne_bytes([*attributes.get(at)?, *attributes.get(at + 1)?]));
        let (length, this) = (usize::from(number(0)?), number(2)?);
        if this == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

/// Sends a request and returns the attributes of its answer; none of an acknowledgement.
fn ask(socket: &OwnedFd, (family, command): (u16, u8), attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + attributes.len()).expect("a request is short");
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("it has 16 bits");
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // No sequence number, no port; the version, and two reserved bytes.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut found = Vec::new();
    loop {
        let mut buffer = vec![0; 1 << 14];
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let message = buffer.get(..length.max(HEADER)).ok_or(io::ErrorKind::InvalidData)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if i32::from(kind) != libc::NLMSG_ERROR {
            found = message[HEADER..].to_vec();
            continue;
        }
        let code = i32::from_ne_bytes([message[16], message[17], message[18], message[19]]);
        return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-code)) };
    }
}
