//! What a tool writes: read, masked, kept and told.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
    time::{Sleep, sleep},
};

use crate::{
    capture::Capture,
    event_log::EventLog,
    events::{Chunk, EventKind},
    masker::StreamMasker,
    masking::Masking,
    report::Stream,
};

/// How much is read at once: what a pipe holds by default (pipe(7)).
const CHUNK: usize = 64 << 10;

/// What the pipe of a tool that writes more than we can read at once is made to hold (F_SETPIPE_SZ, fcntl(2)): the two then
/// wait for each other less often.
const WIDE: usize = 256 << 10;

thread_local! {
    /// Where all that this thread reads arrives. It stays in the processor's cache, and what is kept of it is copied, so that
    /// an execution holds no more than what its tool has written.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// How long a tool is silent before a few bytes that may be a secret's beginning are taken for the end of a prompt: see
/// [`StreamMasker::let_go`].
const QUIET: Duration = Duration::from_secs(1);

/// The reading side of stdout or stderr.
#[derive(Debug)]
pub(crate) struct Output {
    pub(super) stream: Stream,
    /// `None` when it is at its end, or was closed.
    pub(super) pipe: Option<pipe::Receiver>,
    /// Whether it was tried to make the pipe hold more.
    widened: bool,
    /// What is read goes through it first.
    masker: Option<StreamMasker>,
    /// Runs while what is held back need not wait for ever.
    quiet: Option<Pin<Box<Sleep>>>,
    /// How much was read.
    pub(super) read: u64,
    pub(super) capture: Capture,
    /// A second one, of what was read before it was masked.
    pub(super) raw: Option<Capture>,
    /// The bytes after which the call ends.
    fail_after: Option<u64>,
}

impl Output {
    /// `keep`: the bytes to capture. `fail_after`: the bytes after which the call ends.
    pub(crate) fn new(stream: Stream, pipe: pipe::Receiver, keep: u64, fail_after: Option<u64>) -> Self {
        Self {
            stream,
            pipe: Some(pipe),
            widened: false,
            masker: None,
            quiet: None,
            read: 0,
            capture: Capture::new(keep),
            raw: None,
            fail_after,
        }
    }

    /// Masks what is read before anybody sees it.
    pub(crate) fn masked(mut self, masking: &Masking) -> Self {
        self.masker = masking.stream();
        self
    }

    /// Keeps `keep` bytes as they were, too, if they are masked: a value is parsed from that. A mask in the middle of it
    /// could make JSON unreadable, and what is escaped in a way of its own is only found when it is parsed.
    pub(crate) fn raw_too(mut self, keep: u64) -> Self {
        self.raw = self.masker.is_some().then(|| Capture::new(keep));
        self
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, log: &EventLog) -> Poll<u64> {
        let Some(pipe) = self.pipe.as_mut() else { return Poll::Pending };
        // When less came than there is room for, it asks the event loop before it reads again. Reading at once would be for a
        // few bytes each time, with the writer waiting for the pipe meanwhile.
        let read = ROOM.with_borrow_mut(|room| {
            let mut room = ReadBuf::new(room);
            let read = std::task::ready!(Pin::new(&mut *pipe).poll_read(cx, &mut room));
            Poll::Ready(read.map(|()| Bytes::copy_from_slice(room.filled())))
        });
        let Poll::Ready(read) = read else { return self.poll_quiet(cx, log) };
        match read {
            Ok(chunk) if !chunk.is_empty() => {
                let read = chunk.len();
                // With back-pressure the tool is to feel how slow its reader is.
                if read == CHUNK && !self.widened && !log.has_back_pressure() {
                    self.widened = true;
                    // When its user may not have more, it stays as it is.
                    let _ = fcntl_setpipe_size(&*pipe, WIDE);
                }
                self.keep(chunk, log);
                return Poll::Ready(read as u64);
            }
            Ok(_) => self.at_end(log, false),
            Err(error) => {
                tracing::warn!(%error, stream = %self.stream, "reading a tool's output failed; it is taken for closed");
                self.at_end(log, true);
            }
        }
        Poll::Ready(0)
    }

    fn keep(&mut self, chunk: Bytes, log: &EventLog) {
        self.read += chunk.len() as u64;
        if let Some(raw) = &mut self.raw {
            raw.push(chunk.clone());
        }
        match &mut self.masker {
            None => self.tell(chunk, log),
            Some(masker) => {
                self.quiet = None;
                let decided = masker.push(chunk);
                self.tell(decided, log);
            }
        }
    }

    /// The tool has fallen silent. Ready when something that was held back was told.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, log: &EventLog) -> Poll<u64> {
        let Some(masker) = self.masker.as_mut().filter(|masker| masker.can_let_go()) else {
            return Poll::Pending;
        };
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(sleep(QUIET)));
        std::task::ready!(quiet.as_mut().poll(cx));
        self.quiet = None;
        let gone = masker.let_go();
        self.tell(gone, log);
        Poll::Ready(0)
    }

    /// `cut`: whether there might have been more to come.
    fn at_end(&mut self, log: &EventLog, cut: bool) {
        self.pipe = None;
        if let Some(masker) = self.masker.take() {
            let cut = cut && !masker.can_let_go();
            self.tell(masker.finish(cut), log);
        }
    }

    fn tell(&mut self, chunk: Bytes, log: &EventLog) {
        if chunk.is_empty() {
            return;
        }
        self.capture.push(chunk.clone());
        log.append(match self.stream {
            Stream::Stdout => EventKind::Stdout(Chunk(chunk)),
            Stream::Stderr => EventKind::Stderr(Chunk(chunk)),
        });
    }

    /// Counts what the tool wrote: that a secret is shorter when it is masked does not allow it to write more.
    pub(super) fn overflowed(&self) -> bool {
        self.fail_after.is_some_and(|limit| self.read > limit)
    }

    /// Reads what is there, at most what the pipe can hold, without asking the event loop, and closes. Whether somebody
    /// still held the other end.
    pub(super) fn close(&mut self, log: &EventLog) -> bool {
        let held = self.read_rest(log);
        self.at_end(log, held);
        held
    }

    fn read_rest(&mut self, log: &EventLog) -> bool {
        let Some(pipe) = self.pipe.take() else { return false };
        let mut left = fcntl_getpipe_size(&pipe).unwrap_or(CHUNK);
        loop {
            let chunk = ROOM.with_borrow_mut(|room| {
                let room = &mut room[..left.min(CHUNK)];
                rustix::io::read(&pipe, &mut *room).map(|read| Bytes::copy_from_slice(&room[..read]))
            });
            match chunk {
                Ok(chunk) if chunk.is_empty() => return false,
                Ok(chunk) => {
                    left -= chunk.len();
                    self.keep(chunk, log);
                }
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
            if left == 0 {
                // Full to the brim is not held.
                return !hung_up(&pipe);
            }
        }
    }
}

/// Whether nobody holds the other end any more.
fn hung_up(pipe: &pipe::Receiver) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write, sync::Arc};

    use super::*;
    use crate::event_log::HeldBytes;

    #[tokio::test]
    async fn a_line_that_is_kept_keeps_no_more_than_itself() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let mut output = Output::new(Stream::Stdout, pipe, 100, None);
        let log = Arc::new(EventLog::new(1 << 20, false, HeldBytes::default()));
        writer.write_all(b"a line\n").unwrap();
        assert_eq!(poll_fn(|cx| output.poll(cx, &log)).await, 7);
        let event = log.read_from(0, false).try_next().unwrap();
        drop((output, log));
        let EventKind::Stdout(Chunk(line)) = event.kind else { panic!("{event:?}") };
        assert_eq!(&line[..], b"a line\n");
        assert!(line.try_into_mut().unwrap().capacity() < 64);
    }
}
