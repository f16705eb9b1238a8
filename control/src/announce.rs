//! Telling the LAN about a child's addresses: gratuitous ARP (RFC 5227, section 3) and unsolicited
//! neighbour advertisements (RFC 9131, section 6.1).

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::{error::Result, model::Mac, neighbour, netns::Netns};

/// Announces addresses from an interface of a namespace.
///
/// # Errors
///
/// What the kernel says of the packet socket, or of the namespace.
pub(crate) fn announce(netns: &Netns, ifindex: u32, mac: Mac, addresses: &[IpAddr]) -> Result<()> {
    let socket = netns.inside(|| announce_here(ifindex, mac, addresses))??;
    // Closing it waits for every CPU (`net/packet/af_packet.c`, `packet_release`).
    drop(tokio::task::spawn_blocking(move || drop(socket)));
    Ok(())
}

fn announce_here(ifindex: u32, mac: Mac, addresses: &[IpAddr]) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    for address in addresses {
        let frame = match address {
            IpAddr::V4(address) => gratuitous_arp(mac, *address),
            IpAddr::V6(address) => neighbour::advertisement(mac, *address, true)?,
        };
        send(socket.as_raw_fd(), ifindex, &frame)?;
    }
    Ok(socket)
}

fn send(socket: i32, ifindex: u32, frame: &[u8]) -> Result<()> {
    // SAFETY: all zeroes is a value of `sockaddr_ll`.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    to.sll_ifindex = i32::try_from(ifindex).unwrap_or_default();
    let size = libc::socklen_t::try_from(size_of_val(&to)).unwrap_or_default();
    // SAFETY: the buffers are valid for the lengths given.
    let sent = unsafe {
        libc::sendto(socket, frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), size)
    };
    nix::errno::Errno::result(sent)?;
    Ok(())
}

/// An ARP request for one's own address, which is what every stack learns from.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    neighbour::arp_request(mac, address, address)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn gratuitous_arp_asks_for_its_own_address() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(192, 168, 50, 9));
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[28..32], frame[38..42], "sender and target are the same");
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[22..28], MAC.0);
    }

    #[test]
    fn neighbour_advertisement_is_one_that_a_stack_accepts() {
        let address: std::net::Ipv6Addr = "fd00::9".parse().unwrap();
        let frame = neighbour::advertisement(MAC, address, true).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("no IPv6") };
        assert_eq!(ip.header().hop_limit(), 255, "RFC 4861, section 7.1.2");
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        assert_eq!(icmp.type_u8(), 136);
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    }
}
