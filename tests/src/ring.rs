//! Transmit rings of packet sockets (`Documentation/networking/packet_mmap.rst`): the kernel sends a frame
//! from memory that the sender shares with it, all but the MAC header (`net/packet/af_packet.c`,
//! `tpacket_fill_skb`).

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};

use nix::libc;

use crate::{frames::Frame, netns::Netns, tap::Tap};

/// `include/uapi/linux/if_packet.h`.
const PACKET_VERSION: i32 = 10;
const PACKET_TX_RING: i32 = 13;
const SEND_REQUEST: u32 = 1;

/// Bytes of a slot.
const SLOT: usize = 2048;

/// Slots of a ring.
pub const SLOTS: usize = 8;

/// The layout of a slot's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `struct tpacket2_hdr`.
    V2,
    /// `struct tpacket3_hdr`.
    V3,
}

impl Version {
    /// Where the status, the length and the frame are in a slot.
    fn layout(self) -> (usize, usize, usize) {
        match self {
            Self::V2 => (0, 4, 32),
            Self::V3 => (20, 16, 48),
        }
    }
}

/// `struct tpacket_req3`, of which `TPACKET_V2` reads the first half.
#[repr(C)]
struct Request {
    block_size: u32,
    blocks: u32,
    slot_size: u32,
    slots: u32,
    rest: [u32; 3],
}

/// A packet socket with a transmit ring, bound to an interface.
#[derive(Debug)]
pub struct Ring {
    start: NonNull<u8>,
    version: Version,
    next: AtomicU32,
    socket: Tap,
}

// SAFETY: the mapping belongs to the process, and to one `Ring` in it; its slots are shared with the kernel,
// which takes any bytes.
unsafe impl Send for Ring {}
// SAFETY: as above; slots are taken by an atomic counter.
unsafe impl Sync for Ring {}

impl Ring {
    /// Opens one on an interface.
    ///
    /// # Errors
    ///
    /// What the kernel says, such as EPERM from a program on the socket's cgroup.
    pub fn open(ns: &Netns, ifname: &str, version: Version) -> io::Result<Self> {
        let socket = Tap::open(ns, ifname);
        let number = if version == Version::V2 { 1 } else { 2 };
        socket.set(libc::SOL_PACKET, PACKET_VERSION, number)?;
        let bytes = SLOT * SLOTS;
        let [block_size, slot_size, slots] =
            [bytes, SLOT, SLOTS].map(|number| u32::try_from(number).expect("a small number"));
        let request = Request { block_size, blocks: 1, slot_size, slots, rest: [0; 3] };
        let fd = socket.as_fd().as_raw_fd();
        let len = if version == Version::V2 { 16 } else { mem::size_of::<Request>() };
        let len = libc::socklen_t::try_from(len).expect("a small structure");
        let request = (&raw const request).cast();
        // SAFETY: the pointer is to a live structure that is at least as long as `len`.
        let set = unsafe { libc::setsockopt(fd, libc::SOL_PACKET, PACKET_TX_RING, request, len) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of which nothing else knows.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("a mapping is somewhere");
        Ok(Self { start, version, next: AtomicU32::new(0), socket })
    }

    /// The socket.
    pub fn socket(&self) -> &Tap {
        &self.socket
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        let slot = self.fill(frame);
        self.submit(slot);
    }

    /// Puts a frame into the next slot, whose number it returns.
    #[track_caller]
    pub fn fill(&self, frame: &Frame) -> usize {
        let bytes = frame.to_bytes();
        let (_, _, begin) = self.version.layout();
        assert!(begin + bytes.len() <= SLOT, "a frame of one slot");
        let slot = self.next.fetch_add(1, Ordering::Relaxed) as usize % SLOTS;
        let at = self.at(slot, begin);
        // SAFETY: the slot has room for as many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        let len = u32::try_from(bytes.len()).expect("at most a slot");
        self.word(slot, self.version.layout().1).store(len, Ordering::Relaxed);
        slot
    }

    /// Has the kernel send what is in a slot.
    #[track_caller]
    pub fn submit(&self, slot: usize) {
        self.word(slot, self.version.layout().0).store(SEND_REQUEST, Ordering::Release);
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: nothing is pointed to: the frame is in the ring.
        let sent = unsafe { libc::send(fd, ptr::null(), 0, 0) };
        let error = io::Error::last_os_error();
        let done = sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(done, "cannot send: {error}");
        // The kernel stays at a frame that was dropped on its way out.
        let status = self.word(slot, self.version.layout().0);
        if status.compare_exchange(SEND_REQUEST, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.next.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A byte of the frame in a slot, which the kernel reads whenever it likes.
    #[must_use]
    pub fn byte(&self, slot: usize, place: usize) -> &AtomicU8 {
        let (_, _, begin) = self.version.layout();
        assert!(begin + place < SLOT, "a byte of the slot");
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { AtomicU8::from_ptr(self.at(slot, begin + place)) }
    }

    fn word(&self, slot: usize, place: usize) -> &AtomicU32 {
        let word = self.at(slot, place).cast();
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(word) }
    }

    fn at(&self, slot: usize, place: usize) -> *mut u8 {
        assert!(slot < SLOTS && place < SLOT, "inside the ring");
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(slot * SLOT + place) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), SLOT * SLOTS) };
    }
}
