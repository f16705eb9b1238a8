//! What ethtool sets, as far as maclane needs it.

use std::os::fd::AsRawFd;

use nix::{
    libc::{self, c_char, c_void, ifreq},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::error::{Error, Result};

/// `include/uapi/linux/ethtool.h`.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Runs one command on an interface of the calling thread's namespace; returns its data.
fn command(ifname: &str, cmd: u32, data: u32) -> Result<u32> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { cmd, data };
    // SAFETY: all zeroes is a value of `ifreq`.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let name = ifname.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(Error::invalid(format!("\"{ifname}\" is longer than an interface's name")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_void>().cast();
    // SAFETY: the request names an `EthtoolValue`, which is what these commands read and write.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    match nix::errno::Errno::result(done) {
        Ok(_) => Ok(value.data),
        Err(e) => Err(Error::failed(format!("ethtool on {ifname}: {}", e.desc()))),
    }
}

/// Turns GRO on: a veth end without it, and without a program of its own, drops what XDP sends it
/// (`drivers/net/veth.c`, `veth_xdp_xmit`).
pub(crate) fn enable_gro(ifname: &str) -> Result<()> {
    command(ifname, ETHTOOL_SGRO, 1).map(drop)
}

/// True if a sender with this interface leaves VLAN tags in metadata.
pub(crate) fn offloads_tx_tags(ifname: &str) -> Result<bool> {
    Ok(command(ifname, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_TXVLAN != 0)
}

/// True if a NIC takes VLAN tags off the frame on receive.
pub(crate) fn offloads_rx_tags(ifname: &str) -> Result<bool> {
    Ok(command(ifname, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0)
}

/// Makes a NIC leave VLAN tags in the frame on receive; false if it will not.
pub(crate) fn keep_rx_tags(ifname: &str) -> Result<bool> {
    let flags = command(ifname, ETHTOOL_GFLAGS, 0)?;
    command(ifname, ETHTOOL_SFLAGS, flags & !ETH_FLAG_RXVLAN)?;
    Ok(!offloads_rx_tags(ifname)?)
}

/// Gives the offload that [`keep_rx_tags`] has switched off back to the NIC.
pub(crate) fn offload_rx_tags(ifname: &str) -> Result<()> {
    let flags = command(ifname, ETHTOOL_GFLAGS, 0)?;
    command(ifname, ETHTOOL_SFLAGS, flags | ETH_FLAG_RXVLAN).map(drop)
}
