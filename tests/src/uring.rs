//! `io_uring`(7): the kernel works on a socket without a call that names it.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};
use nix::libc;

/// Sends bytes by `IORING_OP_SENDMSG`.
///
/// # Errors
///
/// What the kernel says.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // It is only read.
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all bytes zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    run(&opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const message).build())
}

/// Sends bytes by `IORING_OP_WRITE`.
///
/// # Errors
///
/// What the kernel says.
pub fn write(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).expect("a frame");
    run(&opcode::Write::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), len).build())
}

/// Sets an option of a socket to a number by `IORING_OP_URING_CMD` (`SOCKET_URING_OP_SETSOCKOPT`, Linux 6.7).
///
/// # Errors
///
/// What the kernel says, such as EPERM from a program on the socket's cgroup.
pub fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let [level, option] = [level, option].map(i32::cast_unsigned);
    let len = u32::try_from(size_of_val(&value)).expect("four bytes");
    let fd = Fd(socket.as_raw_fd());
    let value = (&raw const value).cast();
    run(&opcode::SetSockOpt::new(fd, level, option, value, len).build())
}

/// Has the kernel work on one entry, to its end.
fn run(entry: &Entry) -> io::Result<()> {
    let mut ring = IoUring::new(1)?;
    // SAFETY: what the entry points to lives until the kernel has worked on it, which is waited for.
    unsafe { ring.submission().push(entry) }.expect("the queue is empty");
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().expect("one was waited for").result();
    if done < 0 { Err(io::Error::from_raw_os_error(-done)) } else { Ok(()) }
}
