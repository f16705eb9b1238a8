//! `AF_XDP` sockets that send (`Documentation/networking/af_xdp.rst`), in copy mode: what they send skips
//! the TC hooks of the interface (`net/xdp/xsk.c`, `xsk_generic_xmit`).

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::libc;

use crate::{frames::Frame, netns::Netns};

/// `include/linux/socket.h` and `include/uapi/linux/if_xdp.h`.
const AF_XDP: i32 = 44;
const SOL_XDP: i32 = 283;
const XDP_MMAP_OFFSETS: i32 = 1;
const XDP_TX_RING: i32 = 3;
const XDP_UMEM_REG: i32 = 4;
const XDP_UMEM_FILL_RING: i32 = 5;
const XDP_UMEM_COMPLETION_RING: i32 = 6;
const XDP_COPY: u16 = 1 << 1;
const XDP_PGOFF_TX_RING: libc::off_t = 0x8000_0000;

/// Bytes of a chunk: one frame.
const CHUNK: usize = 4096;
/// Chunks, and entries of each ring.
const CHUNKS: u32 = 64;

/// `struct xdp_umem_reg`, as every kernel takes it.
#[repr(C)]
struct Register {
    addr: u64,
    len: u64,
    chunk: u32,
    headroom: u32,
}

/// `struct xdp_ring_offset`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Offsets {
    producer: u64,
    consumer: u64,
    desc: u64,
    flags: u64,
}

/// `struct sockaddr_xdp`.
#[repr(C)]
struct Address {
    family: u16,
    flags: u16,
    ifindex: u32,
    queue: u32,
    shared: u32,
}

/// `struct xdp_desc`.
#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    options: u32,
}

/// Memory that a kernel shares, gone on drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, and to one `Mapping` in it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(len: usize, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        let flags = if fd < 0 { libc::MAP_ANONYMOUS | libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of which nothing else knows.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: NonNull::new(start.cast()).expect("a mapping is somewhere"), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A socket that sends through queue 0 of an interface.
#[derive(Debug)]
pub struct Xsk {
    ring: Mapping,
    offsets: Offsets,
    umem: Mapping,
    socket: OwnedFd,
}

impl Xsk {
    /// Opens one on an interface.
    ///
    /// # Errors
    ///
    /// What the kernel says, such as EPERM from a program on the socket's cgroup.
    pub fn open(ns: &Netns, ifname: &str) -> io::Result<Self> {
        let ifindex = ns.ifindex(ifname);
        ns.enter(|| Self::in_this_namespace(ifindex))
    }

    fn in_this_namespace(ifindex: u32) -> io::Result<Self> {
        // SAFETY: `socket` takes no pointers.
        let socket = unsafe { libc::socket(AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, so nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let umem = Mapping::new(CHUNK * CHUNKS as usize, -1, 0)?;
        let register = Register {
            addr: umem.start.as_ptr().expose_provenance() as u64,
            len: umem.len as u64,
            chunk: u32::try_from(CHUNK).expect("a page"),
            headroom: 0,
        };
        set(&socket, XDP_UMEM_REG, &register)?;
        for ring in [XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING] {
            set(&socket, ring, &CHUNKS)?;
        }
        let mut offsets = [Offsets::default(); 4];
        let mut len = libc::socklen_t::try_from(size_of_val(&offsets)).expect("128 bytes");
        // SAFETY: the pointers are to live variables, and `len` is the size of `offsets`.
        let done = unsafe {
            let (to, len) = (offsets.as_mut_ptr().cast(), &raw mut len);
            libc::getsockopt(socket.as_raw_fd(), SOL_XDP, XDP_MMAP_OFFSETS, to, len)
        };
        checked(done)?;
        let offsets = offsets[1];
        let bytes = usize::try_from(offsets.desc).expect("an offset")
            + CHUNKS as usize * size_of::<Descriptor>();
        let ring = Mapping::new(bytes, socket.as_raw_fd(), XDP_PGOFF_TX_RING)?;
        let family = u16::try_from(AF_XDP).expect("a small number");
        let address = Address { family, flags: XDP_COPY, ifindex, queue: 0, shared: 0 };
        let len = libc::socklen_t::try_from(size_of_val(&address)).expect("16 bytes");
        // SAFETY: the pointer and the length are those of `address`, which is only read.
        checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(Self { ring, offsets, umem, socket })
    }

    /// Sends a frame.
    #[track_caller]
    #[expect(clippy::cast_ptr_alignment, reason = "the kernel aligns a ring's descriptors")]
    pub fn send(&self, frame: &Frame) {
        let bytes = frame.to_bytes();
        assert!(bytes.len() <= CHUNK, "a frame of one chunk");
        let at = |offset: u64| {
            let offset = usize::try_from(offset).expect("an offset");
            // SAFETY: the kernel's offsets are inside the ring that was mapped by them.
            unsafe { self.ring.start.as_ptr().add(offset) }
        };
        // SAFETY: a word of the ring, aligned as the kernel has laid it out.
        let producer = unsafe { AtomicU32::from_ptr(at(self.offsets.producer).cast()) };
        let number = producer.load(Ordering::Relaxed);
        let slot = number % CHUNKS;
        let addr = u64::from(slot) * CHUNK as u64;
        let len = u32::try_from(bytes.len()).expect("at most a chunk");
        let descriptor = Descriptor { addr, len, options: 0 };
        let place = self.offsets.desc + u64::from(slot) * mem::size_of::<Descriptor>() as u64;
        // SAFETY: the chunk is inside the memory, and the slot inside the ring; the kernel reads both
        // after the producer has moved.
        unsafe {
            let chunk = self.umem.start.as_ptr().add(usize::try_from(addr).expect("an offset"));
            ptr::copy_nonoverlapping(bytes.as_ptr(), chunk, bytes.len());
            at(place).cast::<Descriptor>().write(descriptor);
        }
        producer.store(number.wrapping_add(1), Ordering::Release);
        // SAFETY: nothing is pointed to: the frame is in the ring.
        let sent = unsafe {
            let nothing = ptr::null();
            libc::sendto(self.socket.as_raw_fd(), nothing, 0, libc::MSG_DONTWAIT, ptr::null(), 0)
        };
        let error = io::Error::last_os_error();
        let may_be = [libc::ENOBUFS, libc::EAGAIN, libc::EBUSY];
        let done = sent >= 0 || error.raw_os_error().is_some_and(|e| may_be.contains(&e));
        assert!(done, "cannot send: {error}");
    }
}

fn set<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("a small value");
    let value = ptr::from_ref(value).cast();
    // SAFETY: the pointer and the length are those of `value`, which is only read.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), SOL_XDP, option, value, len) })
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
