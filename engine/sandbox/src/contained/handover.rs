//! What a sandbox is handed: what to run, and the open files that go with it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::Errno;
use tool_zygote::protocol::{Head, Launch, MAX_MESSAGE, Wire};

use super::{memory_file, nascent::Nascent};

#[derive(Debug)]
pub(super) struct Handover {
    message: Vec<u8>,
    /// stdin, stdout, stderr, the mounts, and what did not fit into the message.
    fds: Vec<OwnedFd>,
}

impl Handover {
    pub(super) fn new(launch: &Launch, stdio: [OwnedFd; 3], mounts: Vec<OwnedFd>) -> io::Result<Self> {
        let body = launch.to_bytes();
        let mut fds: Vec<_> = stdio.into_iter().chain(mounts).collect();
        let mut message = Head { apart: false }.to_bytes();
        if message.len() + body.len() > MAX_MESSAGE {
            message = Head { apart: true }.to_bytes();
            fds.push(memory_file(&body)?);
        } else {
            message.extend(body);
        }
        Ok(Self { message, fds })
    }

    pub(super) fn give(&self, nascent: &Nascent) -> Result<(), Errno> {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        nascent.launch(&self.message, &fds)
    }
}
