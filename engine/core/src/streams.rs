//! The pipes of one execution, pumped as one: whoever is ready gets one read or write, in turn, so that a flood on one
//! stream starves no other. Every step is one readiness and one synchronous read or write, so nothing is lost when a
//! step is dropped half-way. Nothing here waits for a consumer (but see [`Call::back_pressure`](crate::Call::back_pressure)).

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use serde_json::Value;
use tokio::task::coop::consume_budget;

use crate::{
    capture::{Capture, Captured},
    channel::Reply,
    error::{ProtocolFault, ToolError},
    event_log::EventLog,
    plan::Declared,
    report::Stream,
};

mod input;
mod output;
mod worker;

pub(crate) use input::Input;
pub(crate) use output::Output;
use worker::{Gate, WorkerChannel};

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

impl Streams {
    pub(crate) fn new(stdout: Output, stderr: Output, stdin: Option<Input>, log: Arc<EventLog>) -> Self {
        Self { stdout, stderr, stdin, channel: None, log, written: 0 }
    }

    /// `hold`: whether the call waits for [`release_call`](Self::release_call) when the tool declares something.
    pub(crate) fn with_channel(mut self, reply: Reply, call: Input, hold: bool) -> Self {
        self.channel = Some(WorkerChannel::new(reply, call, hold));
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
