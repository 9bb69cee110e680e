//! The engine's side of the conversation with a worker.

use std::task::{Context, Poll};

use super::{Finish, Input, Step};
use crate::{
    channel::{self, Message, Received, Reply},
    error::ProtocolFault,
    event_log::EventLog,
    events::EventKind,
};

#[derive(Debug)]
pub(super) struct WorkerChannel {
    pub(super) reply: Reply,
    /// Waits for the worker to be ready.
    pub(super) call: Option<Input>,
    pub(super) gate: Gate,
    /// What ends the run was said.
    pub(super) finished: bool,
    /// There may be more to hear.
    pub(super) open: bool,
    pub(super) discarded: u64,
}

/// Between the worker and its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// The worker is not ready.
    Shut,
    /// The same; when it is, what the tool declares is to be looked at.
    Inspecting,
    /// That is being done.
    Held,
    /// The call goes out.
    Open,
}

impl WorkerChannel {
    /// `hold`: whether the call waits until the gate is opened when the tool declares something.
    pub(super) fn new(reply: Reply, call: Input, hold: bool) -> Self {
        Self {
            reply,
            call: Some(call),
            gate: if hold { Gate::Inspecting } else { Gate::Shut },
            finished: false,
            open: true,
            discarded: 0,
        }
    }

    /// Whether anything was moved. Nothing is read while there is no room for it.
    pub(super) fn poll(
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
    pub(super) fn take(&mut self, received: Received, log: &EventLog, step: &mut Step) -> bool {
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
