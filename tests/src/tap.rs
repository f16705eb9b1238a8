//! A raw socket on an interface: sends frames, and hears those that the interface receives.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{frames::Frame, mac::Mac, netns::Netns, patience};

/// Bytes of a packet socket's address.
#[allow(clippy::cast_possible_truncation, reason = "20")]
const SOCKADDR_LEN: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// `include/uapi/linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// An `AF_PACKET` socket, bound to one interface. It keeps every frame that the interface
/// receives from the moment at which it is opened; frames that are sent there it does not hear.
///
/// A tap hears a frame before TC and XDP in generic mode decide on it, and after XDP in native
/// mode: what it hears on a parent is not yet delivered to the host. Use a socket for that.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens a tap on an interface.
    #[track_caller]
    #[must_use]
    pub fn open(ns: &Netns, ifname: &str) -> Self {
        let ifindex = ns.ifindex(ifname);
        match ns.enter(|| open(ifindex)) {
            Ok(socket) => Self { socket },
            Err(error) => panic!("cannot open a tap on {ifname} in {}: {error}", ns.name()),
        }
    }

    /// Opens one whose frames the kernel gives their MAC header: [`send_cooked`](Self::send_cooked).
    #[track_caller]
    #[must_use]
    pub fn cooked(ns: &Netns, ifname: &str) -> Self {
        let ifindex = ns.ifindex(ifname);
        match ns.enter(|| open_as(libc::SOCK_DGRAM, ifindex)) {
            Ok(socket) => Self { socket },
            Err(error) => panic!("cannot open a socket on {ifname} in {}: {error}", ns.name()),
        }
    }

    /// Opens a tap that hears every interface of a namespace, and cannot send.
    #[track_caller]
    #[must_use]
    pub fn open_all(ns: &Netns) -> Self {
        match ns.enter(|| open(0)) {
            Ok(socket) => Self { socket },
            Err(error) => panic!("cannot open a tap in {}: {error}", ns.name()),
        }
    }

    /// The interfaces, by index, that received a frame with that token, so far and within a time
    /// from now: one entry for each frame.
    #[track_caller]
    #[must_use]
    pub fn heard(&self, token: &str, time: Duration) -> Vec<u32> {
        let deadline = Instant::now() + patience(time);
        let frames = std::iter::from_fn(|| self.next_on(deadline));
        frames.filter(|(_, frame)| frame.carries(token)).map(|(ifindex, _)| ifindex).collect()
    }

    /// Sends a frame out of the interface. One that a program on its way out drops is sent, too:
    /// the kernel reports that as a full queue (ENOBUFS).
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        self.send_bytes(&frame.to_bytes());
    }

    /// Sends a frame and tells the kernel that it is of another protocol.
    #[track_caller]
    pub fn send_disguised(&self, frame: &Frame, protocol: u16) {
        let mut to = self.address();
        to.sll_protocol = protocol.to_be();
        self.send_to(&frame.to_bytes(), &to);
    }

    /// The address that it is bound to.
    #[track_caller]
    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: plain data; zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut len = SOCKADDR_LEN;
        let fd = self.socket.as_raw_fd();
        // SAFETY: `address` and `len` are valid for writes, `address` as long as `len` says.
        let named = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) };
        assert_eq!(named, 0, "a tap has an address");
        address
    }

    #[track_caller]
    fn send_to(&self, bytes: &[u8], to: &libc::sockaddr_ll) {
        // SAFETY: the pointers and the lengths are those of `bytes` and `to`, which are only read.
        let sent = unsafe {
            let (data, to) = (bytes.as_ptr().cast(), ptr::from_ref(to).cast());
            libc::sendto(self.socket.as_raw_fd(), data, bytes.len(), 0, to, SOCKADDR_LEN)
        };
        let error = io::Error::last_os_error();
        let done = sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(done, "cannot send: {error}");
    }

    /// Sends a payload to a station through a socket of kind `SOCK_DGRAM`: the kernel makes the MAC header.
    #[track_caller]
    pub fn send_cooked(&self, destination: Mac, protocol: u16, payload: &[u8]) {
        let mut to = self.address();
        to.sll_protocol = protocol.to_be();
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&destination.0);
        self.send_to(payload, &to);
    }

    /// What it sends has this mark from now on (`SO_MARK`).
    #[track_caller]
    pub fn mark(&self, mark: u32) {
        let set = set(&self.socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed());
        set.expect("a socket of root's can be marked");
    }

    /// What it sends skips the interface's TC hooks and qdisc from now on (`PACKET_QDISC_BYPASS`).
    ///
    /// # Errors
    ///
    /// What the kernel says, such as EPERM from a program on the socket's cgroup.
    pub fn bypass(&self) -> io::Result<()> {
        set(&self.socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    }

    /// What it sends begins with a `struct virtio_net_hdr` from now on (`PACKET_VNET_HDR`).
    ///
    /// # Errors
    ///
    /// What the kernel says, such as EPERM from a program on the socket's cgroup.
    pub fn vnet_header(&self) -> io::Result<()> {
        set(&self.socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)
    }

    /// Sets an option to a number.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        set(&self.socket, level, option, value)
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_bytes(&self, bytes: &[u8]) {
        // SAFETY: the pointer and the length are those of `bytes`, which is only read.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        let error = io::Error::last_os_error();
        let done = sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(done, "cannot send {} bytes: {error}", bytes.len());
    }

    /// Sends a frame several times with one call; returns how often the kernel took it.
    #[track_caller]
    pub fn send_burst(&self, bytes: &[u8], times: usize) -> usize {
        // It is only read.
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all bytes zero is a valid `mmsghdr`.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut messages = vec![message; times];
        let count = libc::c_uint::try_from(times).expect("a burst is short");
        // SAFETY: there are as many messages, and each points to `part`, which points to `bytes`.
        let sent =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        let error = io::Error::last_os_error();
        let done = sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(done, "cannot send {times} times {} bytes: {error}", bytes.len());
        usize::try_from(sent).unwrap_or(0)
    }

    /// The next frame that was received, if one comes before the deadline.
    #[track_caller]
    pub fn next(&self, deadline: Instant) -> Option<Frame> {
        self.next_on(deadline).map(|(_, frame)| frame)
    }

    /// The next frame, with the index of the interface that received it.
    #[track_caller]
    fn next_on(&self, deadline: Instant) -> Option<(u32, Frame)> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be spent spinning.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).ok()?;
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, if left.is_zero() { PollTimeout::ZERO } else { timeout }) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => panic!("cannot wait for frames: {error}"),
            }
            let received = receive(&self.socket).expect("a tap can be read");
            if let Some((ifindex, bytes)) = received
                && let Some(frame) = Frame::parse(&bytes)
            {
                return Some((ifindex, frame));
            }
        }
    }

    /// The frames received so far and within a time from now.
    #[track_caller]
    #[must_use]
    pub fn collect(&self, time: Duration) -> Vec<Frame> {
        let deadline = Instant::now() + patience(time);
        std::iter::from_fn(|| self.next(deadline)).collect()
    }

    /// The first frame that is wanted, if it comes in time. Others are thrown away.
    #[track_caller]
    pub fn find(&self, time: Duration, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let deadline = Instant::now() + patience(time);
        std::iter::from_fn(|| self.next(deadline)).find(wanted)
    }

    /// The frames with that token, received so far and within a time from now.
    #[track_caller]
    #[must_use]
    pub fn with_token(&self, token: &str, time: Duration) -> Vec<Frame> {
        let mut frames = self.collect(time);
        frames.retain(|frame| frame.carries(token));
        frames
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(ifindex: u32) -> io::Result<OwnedFd> {
    open_as(libc::SOCK_RAW, ifindex)
}

fn open_as(kind: i32, ifindex: u32) -> io::Result<OwnedFd> {
    // Protocol 0 hears nothing until the socket is bound, so no frame of another interface
    // gets in.
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `socket` takes no pointers.
    let socket = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor is new, so nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;

    // SAFETY: all bytes zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("the family is a small number");
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("it has 16 bits").to_be();
    address.sll_ifindex = i32::try_from(ifindex).expect("an index is a positive i32");
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("an address is small");
    // SAFETY: the pointer and the length are those of `address`, which is only read.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an i32 is small");
    // SAFETY: the pointer and the length are those of `value`, which is only read.
    checked(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length)
    })?;
    Ok(())
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Room for a control message with the metadata of a frame, aligned as its header has to be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// One frame with its tag in place; `None` if it was one that was sent, or gone again.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u32, Vec<u8>)>> {
    let mut buffer = vec![0; 1 << 16];
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: all bytes zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut parts = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all bytes zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = u32::try_from(size_of_val(&address)).expect("an address is small");
    message.msg_iov = &raw mut parts;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control);

    // SAFETY: each pointer in `message` is to a live local variable of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            // The interface went down or away; what was received before is still to be read.
            _ if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            _ => Err(error),
        };
    };
    if address.sll_pkttype == libc::PACKET_OUTGOING {
        return Ok(None);
    }
    buffer.truncate(length);
    // SAFETY: `recvmsg` has filled `message`, and its control buffer is alive.
    if let Some((ethertype, tag)) = unsafe { metadata_tag(&message) } {
        let [a, b] = ethertype.to_be_bytes();
        let [c, d] = tag.to_be_bytes();
        buffer.splice(12..12, [a, b, c, d]);
    }
    let ifindex = u32::try_from(address.sll_ifindex).expect("an index is positive");
    Ok(Some((ifindex, buffer)))
}

/// The VLAN tag that the kernel keeps beside the frame, if there is one.
///
/// # Safety
/// `message` has been filled by `recvmsg`, and what it points to is alive.
unsafe fn metadata_tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the caller vouches for `message`.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: the data of this message is a `tpacket_auxdata`, at whatever alignment.
    let data: libc::tpacket_auxdata =
        unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0)
        .then_some((data.tp_vlan_tpid, data.tp_vlan_tci))
}
