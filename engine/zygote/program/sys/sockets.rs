//! Sockets, and messages with descriptors (unix(7)).

use super::*;

/// A socket that stays ours over exec.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    call!(nr::SOCKET, domain, kind | O_CLOEXEC as i32, protocol).map(owned)
}

/// Two connected sockets that keep messages whole.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    const UNIX: c_long = 1;
    const SEQPACKET: c_long = 5;
    let mut pair: [c_int; 2] = [-1; 2];
    call!(nr::SOCKETPAIR, UNIX, SEQPACKET | O_CLOEXEC, 0, pair.as_mut_ptr())?;
    Ok((owned(pair[0].into()), owned(pair[1].into())))
}

pub(crate) fn bind(socket: impl AsFd, address: &[u8]) -> Result<()> {
    call!(nr::BIND, socket.as_fd().as_raw_fd(), address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn connect(socket: impl AsFd, address: &[u8]) -> Result<()> {
    call!(nr::CONNECT, socket.as_fd().as_raw_fd(), address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn listen(socket: impl AsFd) -> Result<()> {
    call!(nr::LISTEN, socket.as_fd().as_raw_fd(), 1).map(drop)
}

/// Takes the loopback interface of this network namespace up (netdevice(7)).
pub(crate) fn loopback_up() -> Result<()> {
    const INET: i32 = 2;
    const DGRAM: i32 = 2;
    const SIOCSIFFLAGS: c_long = 0x8914;
    const IFF_UP_RUNNING: u16 = 0x41;
    let socket = socket(INET, DGRAM, 0)?;
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&IFF_UP_RUNNING.to_ne_bytes());
    call!(nr::IOCTL, socket.as_raw_fd(), SIOCSIFFLAGS, request.as_mut_ptr()).map(drop)
}

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: u32,
    vectors: *mut IoVec,
    vector_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// Room for a control message header (16 bytes) and so many descriptors, aligned as it wants.
const CONTROL_WORDS: usize = 2 + crate::protocol::MAX_FDS.div_ceil(2);
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const HEADER: usize = 16;

/// Sends a message and descriptors. Never blocks for ever: a full socket of a peer that does not read is an error.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    const NOSIGNAL: c_long = 0x4000;
    if fds.len() > crate::protocol::MAX_FDS {
        return Err(Errno::INVAL);
    }
    let mut control = [0u64; CONTROL_WORDS];
    control[0] = (HEADER + 4 * fds.len()) as u64;
    control[1] = u64::from(SOL_SOCKET as u32) | u64::from(SCM_RIGHTS as u32) << 32;
    for (index, fd) in fds.iter().enumerate() {
        control[2 + index / 2] |= u64::from(fd.as_raw_fd() as u32) << (32 * (index % 2));
    }
    let mut vector = IoVec { base: bytes.as_ptr().cast_mut().cast(), length: bytes.len() };
    let message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: control.as_mut_ptr().cast(),
        control_length: if fds.is_empty() { 0 } else { (HEADER + 4 * fds.len()).next_multiple_of(8) },
        flags: 0,
    };
    loop {
        match call!(nr::SENDMSG, socket.as_fd().as_raw_fd(), &raw const message, NOSIGNAL) {
            Err(Errno::INTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Receives one message and its descriptors, which are closed on exec. `Ok(None)`: the peer is gone.
pub(crate) fn receive(socket: impl AsFd, wait: bool) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    const CMSG_CLOEXEC: c_long = 0x4000_0000;
    const DONTWAIT: c_long = 0x40;
    const TRUNCATED: c_int = 0x20 | 0x8;
    let mut bytes: Vec<u8> = Vec::with_capacity(crate::protocol::MAX_MESSAGE);
    let mut control = [0u64; CONTROL_WORDS];
    let mut vector = IoVec { base: bytes.as_mut_ptr().cast(), length: bytes.capacity() };
    let mut message = MsgHdr {
        name: ptr::null_mut(),
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: control.as_mut_ptr().cast(),
        control_length: size_of_val(&control),
        flags: 0,
    };
    let flags = CMSG_CLOEXEC | if wait { 0 } else { DONTWAIT };
    let length = loop {
        match call!(nr::RECVMSG, socket.as_fd().as_raw_fd(), &raw mut message, flags) {
            Err(Errno::INTR) => {}
            done => break done? as usize,
        }
    };
    let mut fds = Vec::new();
    if message.control_length >= HEADER
        && control[1] == (u64::from(SOL_SOCKET as u32) | u64::from(SCM_RIGHTS as u32) << 32)
    {
        let count = (control[0] as usize).saturating_sub(HEADER) / 4;
        for index in 0..count.min(crate::protocol::MAX_FDS) {
            let fd = (control[2 + index / 2] >> (32 * (index % 2))) as u32;
            fds.push(owned(c_long::from(fd)));
        }
    }
    if message.flags & TRUNCATED != 0 {
        return Err(Errno::PROTO);
    }
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    // SAFETY: the kernel has written that many bytes, which is at most the capacity it was told.
    unsafe { bytes.set_len(length) };
    Ok(Some((bytes, fds)))
}
