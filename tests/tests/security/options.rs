//! Other ways to an option of a socket that enforced children are refused.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::libc;
use tests::{
    eventually,
    forge::{UDP, V4, udp},
    frames::Frame,
    kernel,
    netns::Netns,
    tap::Tap,
    topology::PARENT,
    uring,
};

use crate::{
    memory,
    site::{A_WHILE, Attacker, Site, settle},
};

/// `include/uapi/linux/if_packet.h`.
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;

/// Sets an option of packet sockets to 1; the error's number, 0 if there is none.
type Setter = fn(BorrowedFd<'_>, i32) -> i32;

/// setsockopt(2).
fn plain(socket: BorrowedFd<'_>, option: i32) -> i32 {
    let on = 1_i32;
    // SAFETY: the pointer and the length are those of `on`, which is only read.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), 4)
    };
    if set < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// `IORING_OP_URING_CMD` (Linux 6.7).
fn by_io_uring(socket: BorrowedFd<'_>, option: i32) -> i32 {
    let set = uring::set(socket, libc::SOL_PACKET, option, 1);
    set.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

/// The system call of a program of 32 bits (`arch/x86/entry/syscalls/syscall_32.tbl`).
#[cfg(target_arch = "x86_64")]
pub(crate) fn by_32_bits(socket: BorrowedFd<'_>, option: i32) -> i32 {
    const SETSOCKOPT: i64 = 366;
    // What it points to has to be in the lowest four gigabytes.
    // SAFETY: a new mapping, of which nothing else knows.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED, "a page below four gigabytes");
    // SAFETY: the page is ours.
    unsafe { page.cast::<i32>().write(1) };
    let mut result = SETSOCKOPT;
    // SAFETY: the call reads four bytes of the page, and writes no memory. `rbx` is restored: the compiler keeps
    // it for itself.
    unsafe {
        std::arch::asm!(
            "xchg {fd:r}, rbx",
            "int 0x80",
            "xchg {fd:r}, rbx",
            fd = inout(reg) i64::from(socket.as_raw_fd()) => _,
            inout("rax") result,
            in("rcx") i64::from(libc::SOL_PACKET),
            in("rdx") i64::from(option),
            in("rsi") page,
            in("rdi") 4_i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        libc::munmap(page, 4096);
    }
    #[expect(clippy::cast_possible_truncation, reason = "an errno")]
    let result = result as i32;
    -result
}

/// A descriptor that is taken out of a process (`pidfd_getfd`(2)).
fn by_pidfd(socket: BorrowedFd<'_>, option: i32) -> i32 {
    // SAFETY: these take no pointers; what they return is new, so nothing else owns it.
    let taken = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        let process = OwnedFd::from_raw_fd(i32::try_from(process).expect("a descriptor"));
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), socket.as_raw_fd(), 0);
        OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor"))
    };
    plain(taken.as_fd(), option)
}

/// A thread in another namespace.
fn elsewhere(socket: BorrowedFd<'_>, option: i32) -> i32 {
    Netns::without_ipv6().enter(|| plain(socket, option))
}

/// The options are refused by whatever way they are set: by `io_uring`, a descriptor taken out of another
/// process, in another namespace, and to a socket of a cgroup of one's own, even one that is gone. Without
/// security each of them sets it.
#[test]
fn no_way_to_a_refused_option_is_open() {
    let site = Site::new(Attacker::Vepa);
    let ways: [(&str, Setter); 4] = [
        ("setsockopt", plain),
        ("io_uring", by_io_uring),
        ("pidfd_getfd", by_pidfd),
        ("another namespace", elsewhere),
    ];
    for (security, expected) in [("enforce", libc::EPERM), ("off", 0)] {
        site.set(&format!("--security {security}"));
        for (name, set) in ways {
            for option in [PACKET_QDISC_BYPASS, PACKET_VNET_HDR] {
                let tap = Tap::open(&site.evil.ns, "eth0");
                let got = set(tap.as_fd(), option);
                // Not on this kernel, or not with its configuration.
                if [libc::EOPNOTSUPP, libc::ENOSYS].contains(&got) {
                    eprintln!("skipped: {name} is not there");
                    continue;
                }
                assert_eq!(got, expected, "{security}: option {option} by {name}");
            }
        }
        for gone in [false, true] {
            let got = in_own_cgroup(&site.evil.ns, gone);
            assert_eq!(got, expected, "{security}: a cgroup of one's own, gone: {gone}");
        }
    }
}

/// The kernel asks no program about the system calls of 32 bits (`net/socket.c`, `do_sock_setsockopt`), and
/// Docker's seccomp profile lets them pass. What a socket sends that has set its options so is dropped all the
/// same, by the parent or the host end: as a bypass, or for its checksum. In bridge mode the kernel gives a frame
/// for all stations to the siblings in that mode before, which is why none is tried there.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_option_that_32_bits_set_is_of_no_use() {
    for &attacker in Attacker::all() {
        if attacker != Attacker::Veth && !kernel::sees_netns() {
            eprintln!("skipped: Linux {} cannot tell whose socket sent it", kernel::release());
            continue;
        }
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (evil, router) = (&site.evil, &site.lan.router);
        let tap = Tap::open(&evil.ns, "eth0");
        let set = by_32_bits(tap.as_fd(), PACKET_QDISC_BYPASS);
        if set == libc::ENOSYS {
            eprintln!("skipped: no system calls of 32 bits");
            return;
        }
        assert_eq!(set, 0, "{attacker:?}: the bypass");
        let sums = Tap::open(&evil.ns, "eth0");
        assert_eq!(by_32_bits(sums.as_fd(), PACKET_VNET_HDR), 0, "{attacker:?}: the checksum");
        site.lan.hosts[0].ns.offload(PARENT, "tx", false);

        let is_veth = attacker == Attacker::Veth;
        let reason = |of: &'static str| if is_veth { of } else { "guard_bypass" };
        let lie = V4::new(site.victim.ip, router.ip, UDP, udp(5000, 5001));
        let honest = V4 { from: evil.ip, ..lie.clone() }.frame(evil.mac, router.mac);
        let cases = [
            (reason("source_mac"), Frame::new(site.victim.mac, router.mac, "")),
            (reason("source_ip"), lie.frame(evil.mac, router.mac)),
            (reason("vlan_not_allowed"), Frame::new(evil.mac, site.far.mac, "").vlan(20)),
        ];
        let (name, place, value) = memory::source_of(site.victim.ip);
        for enforced in [true, false] {
            if !enforced {
                site.set("--security off --trust mac");
            }
            for (reason, frame) in &cases {
                let before = site.counts();
                let who = site.hearers(&tap, frame);
                let arrives = !enforced && frame.tags.is_empty();
                assert_eq!(!who.is_empty(), arrives, "{attacker:?}: {reason}: heard by {who:?}");
                if enforced {
                    site.counted(&format!("{attacker:?}"), &before, &[(reason, (1, 0))]);
                }
            }
            let before = site.counts();
            let who = site.hearers_of(&honest, |frame| {
                sums.send_bytes(&memory::unfinished(frame, place, value));
            });
            assert_eq!(who.is_empty(), enforced, "{attacker:?}: {name}: heard by {who:?}");
            if enforced {
                site.counted(name, &before, &[("hidden_header", (1, 0))]);
            }
        }
    }
}

/// Sets the option to a socket that was made in a cgroup of its own, which may be gone by then.
#[track_caller]
fn in_own_cgroup(ns: &Netns, gone: bool) -> i32 {
    let Some(root) = cgroup_root() else { panic!("a machine with cgroup2") };
    let own = fs::read_to_string("/proc/self/cgroup").expect("a process has its cgroups");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("one of cgroup2");
    let own = root.join(own);
    let cgroup = own.join(format!("maclane-test-{}", std::process::id()));
    let enter = |cgroup: &Path| {
        let id = std::process::id().to_string();
        fs::write(cgroup.join("cgroup.procs"), id).expect("a process can be moved");
    };
    let remove = || eventually("it is empty", A_WHILE, || fs::remove_dir(&cgroup).is_ok());
    fs::create_dir(&cgroup).expect("a cgroup can be made");
    enter(&cgroup);
    let tap = Tap::open(ns, "eth0");
    enter(&own);
    if gone {
        remove();
    }
    let got = plain(tap.as_fd(), PACKET_QDISC_BYPASS);
    if !gone {
        remove();
    }
    got
}

/// Where cgroup2 is mounted.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("a process has its mounts");
    mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, place, "cgroup2", ..] => Some(place.into()),
        _ => None,
    })
}
