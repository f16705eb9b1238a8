//! A tap device whose other end the test holds, as a hypervisor does for its guest: each frame is
//! preceded by a `struct virtio_net_hdr` (`IFF_VNET_HDR`).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{frames::Frame, netns::Netns, patience};

/// `include/uapi/linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `include/uapi/linux/virtio_net.h`.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

/// Bytes of the header.
const HEADER: usize = 10;

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

/// A tap device, which goes with this.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes a tap device in a namespace and sets it up.
    #[track_caller]
    #[must_use]
    pub fn open(ns: &Netns, ifname: &str) -> Self {
        let opened = ns.enter(|| open(ifname));
        let file = opened.unwrap_or_else(|e| panic!("cannot make a tap in {}: {e}", ns.name()));
        ns.up(ifname);
        Self { file }
    }

    /// Hands in a frame of the guest.
    #[track_caller]
    pub fn send(&self, vnet: Vnet, frame: &[u8]) {
        let bytes = [&vnet.to_bytes()[..], frame].concat();
        (&self.file).write_all(&bytes).expect("the kernel takes a frame of the guest");
    }

    /// The first frame for the guest that is wanted, if it comes in time.
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

fn open(ifname: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: a name, and a union that begins with the flags.
    let mut request = [0_u8; 40];
    request[..ifname.len()].copy_from_slice(ifname.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
    // SAFETY: `request` is as long as the kernel reads and writes.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(file)
}
