//! Tap and tun devices (`Documentation/networking/tuntap.rst`): what a program writes, the kernel takes
//! for received, as from a hypervisor's guest.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{frames::Frame, netns::Netns, patience};

/// `include/uapi/linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `include/uapi/linux/virtio_net.h`.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

/// Bytes of `struct virtio_net_hdr`.
const HEADER: usize = 10;

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

/// `struct virtio_net_hdr`: what the receiver of a frame still has to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vnet {
    /// Where the checksum is to be computed from, and how far from there it is to be written.
    pub checksum: Option<(u16, u16)>,
    /// The frame is TCP in IPv4 and longer than the MTU: the bytes of its headers, and those of data in
    /// each segment.
    pub segments: Option<(u16, u16)>,
}

impl Vnet {
    fn to_bytes(self) -> [u8; HEADER] {
        let (start, offset) = self.checksum.unwrap_or_default();
        let (header, size) = self.segments.unwrap_or_default();
        let mut bytes = [0; HEADER];
        bytes[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = if self.segments.is_some() { GSO_TCPV4 } else { 0 };
        for (at, field) in [(2, header), (4, size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
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

    /// Hands in a frame of the guest, of a [`Kind::TapWithHeader`].
    #[track_caller]
    pub fn send(&self, vnet: Vnet, frame: &[u8]) {
        let bytes = [&vnet.to_bytes()[..], frame].concat();
        self.write(&bytes);
    }

    /// The first frame for the guest that is wanted, if it comes in time, of a [`Kind::TapWithHeader`].
    #[track_caller]
    pub fn find(&self, time: Duration, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let deadline = Instant::now() + patience(time);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).expect("a test waits for seconds");
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).expect("a tap can be waited for") == 0 {
                return None;
            }
            let mut bytes = vec![0; 65_536 + HEADER];
            let read = (&self.file).read(&mut bytes).expect("a tap can be read");
            let frame = Frame::parse(bytes[..read].get(HEADER..).unwrap_or_default());
            if let Some(frame) = frame.filter(&wanted) {
                return Some(frame);
            }
        }
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
        let mut len = i32::try_from(HEADER).expect("it is short");
        control(&file, TUNSETVNETHDRSZ, (&raw mut len).cast())?;
    }
    Ok(Tun { file })
}

fn control(file: &File, request: libc::c_ulong, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the argument is as long as the request reads and writes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
