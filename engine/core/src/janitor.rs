//! Who owns a process when its owner is gone.
//!
//! An execution's task normally kills and reaps what it started. When the task is dropped in mid-run, because the
//! runtime shuts down, or when a process will not die in time, a thread of the engine takes over: it needs no runtime.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tool_sandbox::{Exit, Process};

/// How often a process that does not die is looked at again: soon at first, then more and more rarely.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How long the thread stays for what does not die when the engine is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// Hands processes to the thread. The thread ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    sender: mpsc::Sender<Box<dyn Process>>,
    pending: Arc<AtomicUsize>,
}

impl Janitor {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pending);
        thread::Builder::new().name("run-tool-janitor".into()).spawn(move || sweep(&receiver, &count))?;
        Ok(Self { sender, pending })
    }

    /// How many processes are still to be reaped.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Kills now, reaps later. Never blocks, needs no runtime.
    fn adopt(&self, process: Box<dyn Process>) {
        process.kill();
        self.pending.fetch_add(1, Ordering::AcqRel);
        if self.sender.send(process).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            tracing::error!("a killed process could not be handed to the janitor and stays a zombie");
        }
    }
}

fn sweep(receiver: &mpsc::Receiver<Box<dyn Process>>, pending: &AtomicUsize) {
    let mut adopted: Vec<Box<dyn Process>> = Vec::new();
    let mut pause = FIRST_LOOK;
    let mut orphaned_since = None;
    loop {
        let news = if adopted.is_empty() {
            receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if orphaned_since.is_some() {
            thread::park_timeout(pause);
            Err(RecvTimeoutError::Timeout)
        } else {
            receiver.recv_timeout(pause)
        };
        match news {
            Ok(process) => {
                adopted.push(process);
                pause = FIRST_LOOK;
            }
            Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(LAST_LOOK),
            Err(RecvTimeoutError::Disconnected) if adopted.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => orphaned_since = Some(Instant::now()),
        }
        adopted.retain_mut(|process| {
            let reaped = !matches!(process.reap(), Ok(None));
            if reaped {
                pending.fetch_sub(1, Ordering::AcqRel);
            } else {
                process.kill();
            }
            !reaped
        });
        if orphaned_since.is_some_and(|since| since.elapsed() > FAREWELL || adopted.is_empty()) {
            for process in &adopted {
                tracing::error!(pid = process.id(), "killed, but it does not die; it is left behind");
            }
            return;
        }
    }
}

/// A started process that will be killed and reaped whatever happens to the value: by its owner, or else by the janitor.
#[derive(Debug)]
pub(crate) struct Leader {
    /// `None` only while it is dropped.
    process: Option<Box<dyn Process>>,
    reaped: bool,
    janitor: Janitor,
}

impl Leader {
    pub(crate) fn new(process: Box<dyn Process>, janitor: Janitor) -> Self {
        Self { process: Some(process), reaped: false, janitor }
    }

    /// Reaps it, if it has exited.
    ///
    /// # Errors
    /// When somebody else has reaped it. Then, as after success, there is nothing left to own.
    pub(crate) fn reap(&mut self) -> io::Result<Option<Exit>> {
        let reaped = match &mut self.process {
            Some(process) if !self.reaped => process.reap(),
            _ => Ok(None),
        };
        self.reaped |= !matches!(reaped, Ok(None));
        reaped
    }
}

impl std::ops::Deref for Leader {
    type Target = dyn Process;

    fn deref(&self) -> &Self::Target {
        self.process.as_deref().expect("the process is taken out only by `drop`")
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(process) = self.process.take()
            && !self.reaped
        {
            self.janitor.adopt(process);
        }
    }
}
