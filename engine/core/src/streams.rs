//! The pipes of one execution, pumped as one: whoever is ready gets one read or write, in turn, so that a flood on one
//! stream starves no other. Every step is one readiness and one synchronous read or write, so nothing is lost when a
//! step is dropped half-way. Nothing here waits for a consumer (but see [`Call::back_pressure`](crate::Call::back_pressure)).

use std::{
    future::Future,
    io::ErrorKind::WouldBlock,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::fcntl_getpipe_size,
};
use serde_json::Value;
use tokio::{
    net::unix::pipe,
    task::coop::consume_budget,
    time::{Sleep, sleep},
};

use crate::{
    capture::{Capture, Captured},
    channel::{self, Message, Received, Reply},
    error::{ProtocolFault, ToolError},
    event_log::EventLog,
    events::{Chunk, EventKind},
    masking::StreamMasker,
    plan::Declared,
    report::Stream,
    secrets::Masking,
};

/// How much is read at once: what a pipe holds by default (pipe(7)).
const CHUNK: usize = 64 << 10;

/// How long a tool is silent before a few bytes that may be a secret's beginning are taken for the end of a prompt: see
/// [`StreamMasker::let_go`].
const QUIET: Duration = Duration::from_secs(1);

/// What a step came to.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The tool gave a sign of life: output, progress, or a message.
    pub(crate) activity: bool,
    /// The worker has opened its channel.
    pub(crate) hello: bool,
    /// The worker has loaded the tool, and the call is held back until what the tool declares was looked at.
    pub(crate) declared: Option<Declared>,
    /// Something ended the run.
    pub(crate) finish: Option<Finish>,
}

/// What a stream can end a run with.
#[derive(Debug)]
pub(crate) enum Finish {
    Result(Result<Value, ToolError>),
    Fault(ProtocolFault),
    Overflow(Stream),
}

/// All pipes of one execution.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    stdin: Option<Input>,
    channel: Option<WorkerChannel>,
    log: Arc<EventLog>,
    written: u64,
}

#[derive(Debug)]
struct WorkerChannel {
    reply: Reply,
    /// Waits for the worker to be ready.
    call: Option<Input>,
    gate: Gate,
    finished: bool,
    open: bool,
    discarded: u64,
}

/// Between the worker and its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The worker is not ready.
    Shut,
    /// The same; when it is, what the tool declares is to be looked at.
    Inspecting,
    /// That is being done.
    Held,
    /// The call goes out.
    Open,
}

impl Streams {
    pub(crate) fn new(stdout: Output, stderr: Output, stdin: Option<Input>, log: Arc<EventLog>) -> Self {
        Self { stdout, stderr, stdin, channel: None, log, written: 0 }
    }

    /// `hold`: whether the call waits for [`release_call`](Self::release_call) when the tool declares something.
    pub(crate) fn with_channel(mut self, reply: Reply, call: Input, hold: bool) -> Self {
        self.channel = Some(WorkerChannel {
            reply,
            call: Some(call),
            gate: if hold { Gate::Inspecting } else { Gate::Shut },
            finished: false,
            open: true,
            discarded: 0,
        });
        self
    }

    /// One step: resolves when something was moved. Never resolves when everything is closed. Cancel-safe.
    pub(crate) async fn step(&mut self) -> Step {
        // A worker can say thousands of things in one read: without this the event loop, and with it every clock, would
        // stand still while they are listened to. First, because nothing may be lost when this is dropped.
        consume_budget().await;
        std::future::poll_fn(|cx| self.poll_step(cx)).await
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut step = Step::default();
        let mut moved = false;
        let room = self.log.poll_room(cx).is_ready();
        if room {
            for output in [&mut self.stdout, &mut self.stderr] {
                if output.pipe.is_some()
                    && let Poll::Ready(read) = output.poll(cx, &self.log)
                {
                    moved = true;
                    step.activity |= read > 0;
                    if output.overflowed() {
                        step.finish = Some(Finish::Overflow(output.stream));
                    }
                }
            }
        }
        if let Some(stdin) = &mut self.stdin
            && let Poll::Ready(written) = stdin.poll(cx)
        {
            moved = true;
            self.written += written;
            if stdin.is_done() {
                self.stdin = None;
            }
        }
        if let Some(channel) = &mut self.channel {
            moved |= channel.poll(cx, room, &self.log, &mut step, &mut self.written);
        }
        if moved { Poll::Ready(step) } else { Poll::Pending }
    }

    /// Whether the tool's output is at its end: nobody holds it any more and everything was read.
    pub(crate) fn output_at_end(&self) -> bool {
        self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }

    /// Lets a call that was held back go to the worker.
    pub(crate) fn release_call(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.gate = Gate::Open;
        }
    }

    /// Stops writing to the tool.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
        if let Some(channel) = &mut self.channel {
            channel.call = None;
        }
    }

    /// What the worker had said before now, if that ends the run: for when it has exited, or is about to be stopped. It
    /// ended before we touched it if its result was on the way.
    pub(crate) async fn last_words(&mut self) -> Option<Finish> {
        let channel = self.channel.as_mut().filter(|channel| !channel.finished)?;
        channel.reply.read_rest();
        loop {
            consume_budget().await;
            let received = std::future::poll_fn(|cx| channel.reply.poll_buffered(cx)).await?;
            let mut step = Step::default();
            channel.open = channel.take(received, &self.log, &mut step);
            if step.finish.is_some() || !channel.open {
                return step.finish;
            }
        }
    }

    /// What the worker still had to say when its end had been decided: messages to be logged, and lines to be counted.
    pub(crate) async fn hear_out(&mut self) {
        let Some(channel) = self.channel.as_mut().filter(|channel| channel.open) else { return };
        channel.finished = true;
        channel.reply.read_rest();
        while channel.open
            && let Some(received) = std::future::poll_fn(|cx| channel.reply.poll_buffered(cx)).await
        {
            channel.open = channel.take(received, &self.log, &mut Step::default());
            consume_budget().await;
        }
    }

    /// Keeps what had arrived (at most a pipe full of each), and closes our ends. Whether somebody still held one.
    pub(crate) fn close(&mut self) -> bool {
        self.close_input();
        if let Some(channel) = &mut self.channel {
            channel.open = false;
        }
        let held = [&mut self.stdout, &mut self.stderr].map(|output| output.close(&self.log));
        held.into_iter().any(|held| held)
    }

    /// What was captured, and how many bytes went in, how many lines on the channel were thrown away, and the first.
    pub(crate) fn finish(self) -> Finished {
        let (discarded, first_garbage) = self
            .channel
            .map_or((0, String::new()), |channel| (channel.discarded, channel.reply.first_garbage));
        let outputs = [&self.stdout, &self.stderr];
        Finished {
            read: outputs.map(|output| output.read).iter().sum(),
            overflowed: outputs.iter().find(|output| output.overflowed()).map(|output| output.stream),
            raw_stdout: self.stdout.raw.map(Capture::finish),
            stdout: self.stdout.capture.finish(),
            stderr: self.stderr.capture.finish(),
            written: self.written,
            discarded,
            first_garbage,
        }
    }
}

/// What is left of the streams when they are closed.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The bytes of both, as the tool wrote them.
    pub(crate) read: u64,
    /// On which of them it wrote more than it may, where that ends a call.
    pub(crate) overflowed: Option<Stream>,
    /// Stdout as the tool wrote it, where that is asked for and something is masked.
    pub(crate) raw_stdout: Option<Captured>,
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    pub(crate) written: u64,
    pub(crate) discarded: u64,
    pub(crate) first_garbage: String,
}

/// The reading side of stdout or stderr.
#[derive(Debug)]
pub(crate) struct Output {
    stream: Stream,
    /// `None` when it is at its end, or was closed.
    pipe: Option<pipe::Receiver>,
    /// Room to read into, made when there is something to read. What is read is shared, not copied.
    room: BytesMut,
    /// What is read goes through it first.
    masker: Option<StreamMasker>,
    /// Runs while what is held back need not wait for ever.
    quiet: Option<Pin<Box<Sleep>>>,
    /// How much was read.
    read: u64,
    capture: Capture,
    /// A second one, of what was read before it was masked.
    raw: Option<Capture>,
    /// The bytes after which the call ends.
    fail_after: Option<u64>,
}

impl Output {
    /// `keep`: the bytes to capture. `fail_after`: the bytes after which the call ends.
    pub(crate) fn new(stream: Stream, pipe: pipe::Receiver, keep: u64, fail_after: Option<u64>) -> Self {
        Self {
            stream,
            pipe: Some(pipe),
            room: BytesMut::new(),
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

    fn poll(&mut self, cx: &mut Context<'_>, log: &EventLog) -> Poll<u64> {
        loop {
            let Some(pipe) = &self.pipe else { return Poll::Pending };
            let Poll::Ready(ready) = pipe.poll_read_ready(cx) else { return self.poll_quiet(cx, log) };
            let read = match ready {
                Ok(()) => {
                    if self.room.capacity() < CHUNK / 4 {
                        self.room = BytesMut::with_capacity(CHUNK);
                    }
                    pipe.try_read_buf(&mut self.room)
                }
                Err(error) => Err(error),
            };
            match read {
                Ok(0) => self.at_end(log),
                Ok(read) => {
                    self.keep(log);
                    return Poll::Ready(read as u64);
                }
                Err(error) if error.kind() == WouldBlock => continue,
                Err(error) => {
                    tracing::warn!(%error, stream = %self.stream, "reading a tool's output failed; it is taken for closed");
                    self.at_end(log);
                }
            }
            return Poll::Ready(0);
        }
    }

    fn keep(&mut self, log: &EventLog) {
        let chunk: Bytes = self.room.split().freeze();
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

    fn at_end(&mut self, log: &EventLog) {
        self.pipe = None;
        if let Some(masker) = self.masker.take() {
            self.tell(masker.finish(false), log);
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
    fn overflowed(&self) -> bool {
        self.fail_after.is_some_and(|limit| self.read > limit)
    }

    /// Reads what is there, at most what the pipe can hold, without asking the event loop, and closes. Whether somebody
    /// still held the other end.
    fn close(&mut self, log: &EventLog) -> bool {
        let held = self.read_rest(log);
        self.at_end(log);
        held
    }

    fn read_rest(&mut self, log: &EventLog) -> bool {
        let Some(pipe) = self.pipe.take() else { return false };
        let mut left = fcntl_getpipe_size(&pipe).unwrap_or(CHUNK);
        loop {
            self.room.resize(left.min(CHUNK), 0);
            match rustix::io::read(&pipe, &mut self.room[..]) {
                Ok(0) => return false,
                Ok(read) => {
                    self.room.truncate(read);
                    self.keep(log);
                    left -= read;
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

    fn is_done(&self) -> bool {
        self.data.is_empty()
    }

    /// That the tool does not want its input is no error: then there is nothing left to write.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
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

impl WorkerChannel {
    /// Whether anything was moved. Nothing is read while there is no room for it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        room: bool,
        log: &EventLog,
        step: &mut Step,
        bytes_in: &mut u64,
    ) -> bool {
        let mut moved = false;
        if self.gate == Gate::Open
            && let Some(call) = &mut self.call
            && let Poll::Ready(written) = call.poll(cx)
        {
            moved = true;
            *bytes_in += written;
            if call.is_done() {
                self.call = None;
            }
        }
        if self.open
            && room
            && let Poll::Ready(received) = self.reply.poll(cx)
        {
            moved = true;
            self.open = self.take(received, log, step);
        }
        moved
    }

    /// Acts on what was received. Whether there can be more.
    fn take(&mut self, received: Received, log: &EventLog, step: &mut Step) -> bool {
        let message = match received {
            Received::Message(message) => message,
            Received::Garbage => {
                self.discarded += 1;
                return true;
            }
            Received::Fault(fault) => {
                if !self.finished {
                    step.finish = Some(Finish::Fault(fault));
                }
                self.finished = true;
                return false;
            }
            Received::End => return false,
        };
        step.activity = true;
        match message {
            Message::Log(message) => log.append(EventKind::Log(message)),
            _ if self.finished => self.discarded += 1,
            Message::Hello { protocol } => {
                step.hello = true;
                if protocol != channel::VERSION {
                    step.finish = Some(Finish::Fault(ProtocolFault::Version));
                }
            }
            Message::Ready(declared) => match self.gate {
                Gate::Inspecting if !declared.is_empty() => {
                    self.gate = Gate::Held;
                    step.declared = Some(declared);
                }
                Gate::Shut | Gate::Inspecting => self.gate = Gate::Open,
                // It says so a second time.
                Gate::Held | Gate::Open => self.discarded += 1,
            },
            Message::Progress(progress) => log.append(EventKind::Progress(progress)),
            Message::Result { value } => step.finish = Some(Finish::Result(Ok(value))),
            Message::Error(error) => step.finish = Some(Finish::Result(Err(error))),
        }
        self.finished |= step.finish.is_some();
        true
    }
}
