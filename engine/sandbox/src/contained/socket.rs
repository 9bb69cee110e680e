//! Sockets that keep messages whole, and pass descriptors (unix(7)).

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
        socketpair, sockopt::set_socket_passcred,
    },
};

/// Two connected ones. What the first receives says who sent it.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_passcred(&pair.0, true)?;
    Ok(pair)
}

/// Sends one message. Waits while the peer has not read earlier ones; a peer that is gone is EPIPE or ECONNRESET.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// The same without waiting: EAGAIN, when the peer has not read earlier ones.
pub(super) fn send_now(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<(), Errno> {
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size().max(1)];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            done => return done.map(drop),
        }
    }
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    /// Who sent it, as we see it.
    pub(super) pid: Option<u32>,
}

/// The largest message that is expected here: a list of processes.
pub(super) const LARGE: usize = tool_zygote::protocol::MAX_MESSAGE;
/// All others.
pub(super) const SMALL: usize = 8 << 10;

/// Receives one message of at most `size` bytes without waiting for it. `Ok(None)`: the peer is gone; `EAGAIN`: nothing
/// there yet.
pub(super) fn receive_now(socket: impl AsFd, size: usize) -> Result<Option<Message>, Errno> {
    /// More than two are never sent to us.
    const FDS: usize = 4;
    let mut bytes = vec![0; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            // It has not read all before it went; that is said once, and what it has sent can still be received.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            done => break done?,
        }
    };
    let (mut fds, mut pid) = (Vec::new(), None);
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(passed) => fds.extend(passed),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                pid = u32::try_from(sender.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        // What is sent to us is never that long: there was no descriptor left for one that came with it.
        return Err(Errno::MFILE);
    }
    bytes.truncate(received.bytes);
    Ok((received.bytes > 0).then_some(Message { bytes, fds, pid }))
}

/// Receives one message, waiting for it until the deadline; for ever without one. `Ok(None)`: the peer is gone.
pub(super) fn receive(
    socket: impl AsFd,
    size: usize,
    deadline: Option<Instant>,
) -> Result<Option<Message>, Errno> {
    loop {
        match receive_now(&socket, size) {
            Err(Errno::AGAIN) if readable(&socket, deadline) => {}
            Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT),
            done => return done,
        }
    }
}

/// Waits until it can be read. `false`: the deadline came first.
pub(super) fn readable(fd: impl AsFd, deadline: Option<Instant>) -> bool {
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            done => return matches!(done, Ok(1..)),
        }
    }
}

/// Whether it can be read, or is at its end, now.
pub(super) fn is_readable(fd: impl AsFd) -> bool {
    readable(fd, Some(Instant::now()))
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
