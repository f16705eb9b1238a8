//! The packet socket of a probe.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_ptr_alignment,
    reason = "sizes and constants as the socket's interface has them"
)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use tokio::io::unix::AsyncFd;

use super::{ARP, Heard, ICMPV6, IPV6};
use crate::error::Result;

/// Large enough for what is looked at of a frame.
const FRAME: usize = 256;

/// Hears ARP and `ICMPv6` of an interface, whatever their VLAN and destination.
pub(super) struct Socket(Option<AsyncFd<OwnedFd>>);

impl Drop for Socket {
    fn drop(&mut self) {
        // Closing it waits for every CPU (`net/packet/af_packet.c`, `packet_release`).
        if let Some(socket) = self.0.take() {
            let socket = socket.into_inner();
            std::thread::spawn(move || drop(socket));
        }
    }
}

impl Socket {
    /// Opens one on an interface.
    pub(super) fn open(ifindex: u32) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        // SAFETY: the descriptor is the socket's own, the same one for as long as it lives.
        let socket = unsafe { AsyncFd::register(socket) };
        let socket = Self(Some(socket.map_err(io::Error::from)?));
        // The tag is beside the frame by then: the EtherType is where it is without one.
        let filter = [
            instruction(0x28, 0, 0, 12),                // ldh [12]
            instruction(0x15, 3, 0, u32::from(ARP)),    // jeq ARP, accept
            instruction(0x15, 0, 3, u32::from(IPV6)),   // jeq IPV6, next, reject
            instruction(0x30, 0, 0, 20),                // ldb [20]: the next header
            instruction(0x15, 0, 1, u32::from(ICMPV6)), // jeq ICMPV6, accept, reject
            instruction(0x06, 0, 0, FRAME as u32),      // ret FRAME
            instruction(0x06, 0, 0, 0),                 // ret 0
        ];
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        socket.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
        // Advertisements go to all nodes, a group that a host without IPv6 is not in.
        let all = libc::packet_mreq {
            mr_ifindex: i32::try_from(ifindex).unwrap_or_default(),
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all)?;
        // SAFETY: all zeroes is a value of `sockaddr_ll`.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        to.sll_ifindex = i32::try_from(ifindex).unwrap_or_default();
        // SAFETY: the address is valid for the length given.
        let bound = unsafe {
            libc::bind(
                socket.fd(),
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(bound)?;
        Ok(socket)
    }

    fn inner(&self) -> &AsyncFd<OwnedFd> {
        self.0.as_ref().expect("open until it is dropped")
    }

    fn fd(&self) -> i32 {
        self.inner().get_ref().as_raw_fd()
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> Result<()> {
        // SAFETY: the value is valid for the length given.
        let set = unsafe {
            libc::setsockopt(
                self.fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(set)?;
        Ok(())
    }

    /// Sends a frame as it is.
    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer is valid for the length given.
        let sent = unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) };
        match Errno::result(sent) {
            // A program on the way out that ends the frame, with copies sent, is a full queue to the
            // kernel.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The next frame that comes in.
    pub(super) async fn receive(&self) -> Result<Heard> {
        loop {
            let mut ready = self.inner().readable().await?;
            if let Ok(heard) = ready.try_io(|_| self.receive_one()) {
                return Ok(heard?);
            }
        }
    }

    /// One frame. Those that leave through the parent are heard, too: what a child answers to a parent
    /// that is not in its VLAN is one of them.
    fn receive_one(&self) -> io::Result<Heard> {
        let mut bytes = vec![0; FRAME];
        let mut control = [0_u64; 8];
        // SAFETY: all zeroes is a value of `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every part of the message is valid for the length that it names.
        let len = unsafe { libc::recvmsg(self.fd(), &raw mut message, 0) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        bytes.truncate(len);
        // SAFETY: the kernel has filled in the message.
        Ok(Heard { bytes, vlan: unsafe { tag(&message) } })
    }
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The VLAN that the kernel has noted beside a frame; 0 if there is none.
///
/// # Safety
///
/// The message has to be one that `recvmsg` has filled in.
unsafe fn tag(message: &libc::msghdr) -> u16 {
    const VID: u16 = 0xfff;
    // SAFETY: the caller's; each header is inside of the control buffer.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            if found.cmsg_level == libc::SOL_PACKET && found.cmsg_type == libc::PACKET_AUXDATA {
                let data = libc::CMSG_DATA(header);
                // Whatever its alignment is.
                let data = std::ptr::read_unaligned(data.cast::<libc::tpacket_auxdata>());
                let valid = data.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                return if valid { data.tp_vlan_tci & VID } else { 0 };
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    0
}
