//! Tap and tun devices (`Documentation/networking/tuntap.rst`): what a program writes, the kernel takes
//! for received.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsRawFd as _,
};

use nix::libc;

use crate::netns::Netns;

/// `include/uapi/linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Bytes of `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`).
const VNET_HDR_LEN: i32 = 10;

/// What a device hands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames.
    Tap,
    /// Frames, each behind a `struct virtio_net_hdr`.
    TapWithHeader,
    /// IP packets.
    Tun,
}

/// A device, which is gone on drop.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes a device and sets it up.
    #[track_caller]
    #[must_use]
    pub fn new(ns: &Netns, ifname: &str, kind: Kind) -> Self {
        let made = ns.enter(|| make(ifname, kind));
        let tun = made.unwrap_or_else(|e| panic!("cannot make {ifname} in {}: {e}", ns.name()));
        ns.up(ifname);
        tun
    }

    /// Hands in bytes.
    #[track_caller]
    pub fn write(&self, bytes: &[u8]) {
        (&self.file).write_all(bytes).expect("the device is up");
    }
}

fn make(ifname: &str, kind: Kind) -> io::Result<Tun> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let flags = match kind {
        Kind::Tap => IFF_TAP,
        Kind::TapWithHeader => IFF_TAP | IFF_VNET_HDR,
        Kind::Tun => IFF_TUN,
    };
    // `struct ifreq`: the name, and the flags behind it.
    let mut request = [0_u8; 40];
    request[..ifname.len()].copy_from_slice(ifname.as_bytes());
    request[16..18].copy_from_slice(&(flags | IFF_NO_PI).to_ne_bytes());
    control(&file, TUNSETIFF, request.as_mut_ptr().cast())?;
    if kind == Kind::TapWithHeader {
        let mut len = VNET_HDR_LEN;
        control(&file, TUNSETVNETHDRSZ, (&raw mut len).cast())?;
    }
    Ok(Tun { file })
}

fn control(file: &File, request: libc::c_ulong, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the argument is as long as the request reads and writes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
