//! bpf(2), for programs of a few instructions.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

/// A command of bpf(2), with its argument as 64-bit words, some of which it may write.
///
/// # Errors
///
/// What the kernel says.
pub fn bpf(command: libc::c_long, argument: &mut [u64]) -> io::Result<RawFd> {
    // SAFETY: the words are what the command reads and writes, and what they point to outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, argument.as_mut_ptr(), size_of_val(argument))
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(done).expect("a descriptor"))
}

/// A command that makes something, and returns its descriptor.
///
/// # Errors
///
/// What the kernel says.
pub fn open(command: libc::c_long, argument: &mut [u64]) -> io::Result<OwnedFd> {
    // SAFETY: these commands return a descriptor that nothing else owns.
    bpf(command, argument).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields of an argument.
#[must_use]
pub fn pair(low: u32, high: u32) -> u64 {
    let (low, high) = (low.to_ne_bytes(), high.to_ne_bytes());
    u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]])
}

/// One instruction (`Documentation/bpf/standardization/instruction-set.rst`): its code, the registers,
/// the offset and the immediate value.
#[must_use]
pub fn instruction(code: u8, (dst, src): (u8, u8), offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let head = u32::from_ne_bytes([code, dst | src << 4, low, high]);
    pair(head, value.cast_unsigned())
}

/// A descriptor, as a field.
#[must_use]
pub fn raw(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("a descriptor")
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;

/// Pins a program, so that `tc` can attach it.
#[track_caller]
pub fn pin(program: &OwnedFd, path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path without zeroes");
    let mut argument = [name.as_ptr().expose_provenance() as u64, pair(raw(program), 0)];
    bpf(BPF_OBJ_PIN, &mut argument).expect("it can be pinned");
}

/// Loads a program of a type, by its number in `include/uapi/linux/bpf.h`.
///
/// # Errors
///
/// What the kernel says.
pub fn load(kind: u32, code: &[u64], name: [u8; 8]) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    let mut argument = [0_u64; 9];
    argument[0] = pair(kind, u32::try_from(code.len()).expect("a few instructions"));
    argument[1] = code.as_ptr().expose_provenance() as u64;
    argument[2] = licence.as_ptr().expose_provenance() as u64;
    argument[6] = u64::from_ne_bytes(name);
    open(BPF_PROG_LOAD, &mut argument)
}
