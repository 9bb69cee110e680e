//! What a tool is given to read.

use std::{
    io::ErrorKind::WouldBlock,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::net::unix::pipe;

/// The writing side of stdin, or of a worker's channel.
#[derive(Debug)]
pub(crate) struct Input {
    pipe: pipe::Sender,
    data: Bytes,
}

impl Input {
    pub(crate) fn new(pipe: pipe::Sender, data: Bytes) -> Self {
        Self { pipe, data }
    }

    pub(super) fn is_done(&self) -> bool {
        self.data.is_empty()
    }

    /// That the tool does not want its input is no error: then there is nothing left to write.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        if self.data.is_empty() {
            return Poll::Ready(0);
        }
        loop {
            let written = match std::task::ready!(self.pipe.poll_write_ready(cx)) {
                Ok(()) => self.pipe.try_write(&self.data),
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => {
                    self.data.advance(written);
                    return Poll::Ready(written as u64);
                }
                Err(error) if error.kind() == WouldBlock => {}
                Err(_) => {
                    self.data.clear();
                    return Poll::Ready(0);
                }
            }
        }
    }
}
