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
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Runs one command on an interface of the calling thread's namespace: `words` are what it reads and writes, the
/// command first.
fn run(ifname: &str, words: &mut [u32]) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeroes is a value of `ifreq`.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let name = ifname.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(Error::invalid(format!("\"{ifname}\" is longer than an interface's name")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast::<c_void>().cast();
    // SAFETY: the request names as many words as the command reads and writes: callers see to that.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    match nix::errno::Errno::result(done) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::failed(format!("ethtool on {ifname}: {}", e.desc()))),
    }
}

/// Runs one command with one number (`struct ethtool_value`); returns its data.
fn command(ifname: &str, cmd: u32, data: u32) -> Result<u32> {
    let mut value = [cmd, data];
    run(ifname, &mut value)?;
    Ok(value[1])
}

/// An offload of an interface, one of its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// Which bit it is.
    bit: usize,
    /// How many words hold all bits.
    blocks: usize,
    /// It is on.
    pub(crate) is_on: bool,
    /// The driver does not let it be changed.
    pub(crate) is_fixed: bool,
}

/// Words of `struct ethtool_get_features_block`: available, requested, active, never changed.
const GET_BLOCK: usize = 4;

/// Words of `struct ethtool_set_features_block`: valid, requested.
const SET_BLOCK: usize = 2;

/// A feature by the kernel's name for it (`net/ethtool/common.c`, `netdev_features_strings`); `None` if this kernel
/// has none of the name.
pub(crate) fn feature(ifname: &str, name: &str) -> Result<Option<Feature>> {
    // `struct ethtool_sset_info`: the mask of sets has 64 bits, and one number follows for each set.
    let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
    let [low, high] =
        [0, 4].map(|at| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]));
    let mut info = [ETHTOOL_GSSET_INFO, 0, low, high, 0];
    run(ifname, &mut info)?;
    let count = usize::try_from(info[4]).unwrap_or_default();
    // `struct ethtool_gstrings`.
    let mut strings = vec![0_u32; 3 + count * ETH_GSTRING_LEN / 4];
    (strings[0], strings[1], strings[2]) = (ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]);
    run(ifname, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let is_it = |string: &[u8]| string.split(|byte| *byte == 0).next() == Some(name.as_bytes());
    let Some(bit) = bytes.chunks_exact(ETH_GSTRING_LEN).position(is_it) else { return Ok(None) };
    // `struct ethtool_gfeatures`.
    let blocks = count.div_ceil(32);
    let mut words = vec![0_u32; 2 + blocks * GET_BLOCK];
    (words[0], words[1]) = (ETHTOOL_GFEATURES, u32::try_from(blocks).unwrap_or_default());
    run(ifname, &mut words)?;
    let block = &words[2 + bit / 32 * GET_BLOCK..][..GET_BLOCK];
    let has = |word: u32| word >> (bit % 32) & 1 != 0;
    let is_fixed = !has(block[0]) || has(block[3]);
    Ok(Some(Feature { bit, blocks, is_on: has(block[2]), is_fixed }))
}

/// Switches a feature on or off.
pub(crate) fn set_feature(ifname: &str, feature: Feature, on: bool) -> Result<()> {
    // `struct ethtool_sfeatures`.
    let mut words = vec![0_u32; 2 + feature.blocks * SET_BLOCK];
    (words[0], words[1]) = (ETHTOOL_SFEATURES, u32::try_from(feature.blocks).unwrap_or_default());
    let bit = 1 << (feature.bit % 32);
    let at = 2 + feature.bit / 32 * SET_BLOCK;
    (words[at], words[at + 1]) = (bit, if on { bit } else { 0 });
    run(ifname, &mut words)
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
