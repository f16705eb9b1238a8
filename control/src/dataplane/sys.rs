//! The commands of bpf(2) (`include/uapi/linux/bpf.h`) that aya does not have, or not for what is
//! already pinned.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::libc;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct Lookup {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Question {
    fd: u32,
    len: u32,
    info: u64,
}

/// The head of `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    uid: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// The head of `struct bpf_map_info`.
#[derive(Default)]
#[repr(C)]
struct MapInfo {
    kind: u32,
    id: u32,
}

/// The head of `struct bpf_link_info`; `ifindex` stands there for links of XDP and of TCX.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
    rest: [u64; 16],
}

fn bpf<T>(command: libc::c_long, argument: &T) -> io::Result<libc::c_long> {
    // SAFETY: `argument` is the structure that each caller's command takes, and what it points to
    // outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(argument), size_of::<T>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Opens what is pinned: a map, a program or a link.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let object = Object { path: name.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    let fd = RawFd::try_from(bpf(BPF_OBJ_GET, &object)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given out this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, a program or a link.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        BPF_OBJ_PIN,
        &Object { path: name.as_ptr().expose_provenance() as u64, fd: raw(fd), flags: 0 },
    )
    .map(drop)
}

/// `BPF_LINK_UPDATE`.
#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// `BPF_LINK_CREATE`.
#[repr(C)]
struct Create {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `BPF_CGROUP_SETSOCKOPT`, an attach type.
const CGROUP_SETSOCKOPT: u32 = 22;

/// Attaches a program to a cgroup, beside those of others, for setsockopt(2). aya does not hand out
/// such a link to be pinned.
pub(super) fn attach_setsockopt(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let (program, target) = (raw(program), raw(cgroup));
    let create = Create { program, target, attach_type: CGROUP_SETSOCKOPT, flags: 0 };
    let fd = RawFd::try_from(bpf(BPF_LINK_CREATE, &create)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given out this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program into the place of a link's.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let update = Update { link: raw(link), program: raw(program), flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &update).map(drop)
}

/// Takes the program of a link off its interface. That of an interface which is gone is off
/// already, and that is the only way for this to fail.
pub(super) fn detach(link: BorrowedFd<'_>) {
    let _ = bpf(BPF_LINK_DETACH, &raw(link));
}

/// Asks the kernel about a descriptor.
fn ask<T: Default>(fd: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    let question = Question {
        fd: raw(fd),
        len: u32::try_from(size_of::<T>()).unwrap_or_default(),
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &question)?;
    // SAFETY: `info` is live; the kernel has written into it, of which the compiler does not know.
    Ok(unsafe { (&raw const info).read_volatile() })
}

/// The interface that a link of XDP or TCX is on, by its index in its namespace; `None` if it is on
/// none any more.
pub(super) fn interface_of(link: BorrowedFd<'_>) -> Option<u32> {
    ask(link, LinkInfo::default()).ok().map(|info| info.ifindex).filter(|ifindex| *ifindex != 0)
}

/// The ID of the program of a link.
pub(super) fn program_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(ask(link, LinkInfo::default())?.program)
}

/// The ID of a map.
pub(super) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(ask(map, MapInfo::default())?.id)
}

/// The ID of the program at an index of a program array; `None` if none is there.
pub(super) fn program_in(array: BorrowedFd<'_>, index: u32) -> Option<u32> {
    let (key, mut id) = (index, 0_u32);
    let lookup = Lookup {
        map: raw(array),
        pad: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw mut id).expose_provenance() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &lookup).ok()?;
    // SAFETY: `id` is live; the kernel has written into it, of which the compiler does not know.
    Some(unsafe { (&raw const id).read_volatile() })
}

/// What the kernel says of a program.
pub(super) struct Program {
    /// A hash of its instructions.
    pub(super) tag: [u8; 8],
    /// Its name.
    pub(super) name: String,
    /// The IDs of its maps.
    pub(super) maps: Vec<u32>,
}

/// What the kernel says of the program with this ID.
pub(super) fn program(id: u32) -> io::Result<Program> {
    const MAPS: u32 = 32;
    let fd = RawFd::try_from(bpf(BPF_PROG_GET_FD_BY_ID, &[id, 0, 0])?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given out this descriptor, so nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut maps = vec![0_u32; MAPS as usize];
    let map_ids = maps.as_mut_ptr().expose_provenance() as u64;
    let info = ask(fd.as_fd(), ProgramInfo { maps: MAPS, map_ids, ..ProgramInfo::default() })?;
    maps.truncate(info.maps.min(MAPS) as usize);
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Program { tag: info.tag, name: String::from_utf8_lossy(name).into_owned(), maps })
}
