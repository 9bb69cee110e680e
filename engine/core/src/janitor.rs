//! Who owns a process when its owner is gone.
//!
//! An execution's task normally kills and reaps what it started. When the task is dropped in mid-run, because the
//! runtime shuts down, or when a process will not die in time, a thread of the engine takes over: it needs no runtime. It
//! also looks for what escaped, as the task would have done.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::fs::fstat;
use tool_sandbox::{Exit, Launcher, Process, ScanTarget};

/// How often a process that does not die is looked at again: soon at first, then more and more rarely.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How long one walk through `/proc` may take, and how often it is repeated because it found somebody: one that is being
/// killed may have forked.
const WALK: Duration = Duration::from_secs(2);
const MAX_WALKS: u32 = 8;
/// How long the thread stays for what does not die when the engine is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// Hands processes to the thread. The thread ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    /// `None` is the farewell.
    sender: mpsc::Sender<Option<Adopted>>,
    pending: Arc<AtomicUsize>,
}

/// A killed process, not reaped.
#[derive(Debug)]
struct Adopted {
    process: Box<dyn Process>,
    target: ScanTarget,
    /// How often to look for what it left behind, at most.
    walks: u32,
}

impl Janitor {
    pub(crate) fn start(launcher: Arc<dyn Launcher>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pending);
        thread::Builder::new()
            .name("run-tool-janitor".into())
            .spawn(move || sweep(&*launcher, &receiver, &count))?;
        Ok(Self { sender, pending })
    }

    /// Lets the thread end when it has reaped what it has.
    pub(crate) fn close(&self) {
        // It has ended already: so be it.
        let _ = self.sender.send(None);
    }

    /// How many processes are still to be reaped.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Kills now, reaps later. Never blocks, needs no runtime.
    fn adopt(&self, process: Box<dyn Process>, pipes: Vec<u64>) {
        process.kill();
        self.pending.fetch_add(1, Ordering::AcqRel);
        let target = process.scan_target(pipes);
        if self.sender.send(Some(Adopted { process, target, walks: MAX_WALKS })).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            tracing::error!("a killed process could not be handed to the janitor and stays a zombie");
        }
    }
}

fn sweep(launcher: &dyn Launcher, receiver: &mpsc::Receiver<Option<Adopted>>, pending: &AtomicUsize) {
    let mut adopted: Vec<Adopted> = Vec::new();
    let mut pause = FIRST_LOOK;
    let mut orphaned_since = None;
    loop {
        let news = if adopted.is_empty() {
            receiver.recv().ok().flatten().ok_or(RecvTimeoutError::Disconnected)
        } else if orphaned_since.is_some() {
            thread::park_timeout(pause);
            Err(RecvTimeoutError::Timeout)
        } else {
            receiver.recv_timeout(pause).and_then(|one| one.ok_or(RecvTimeoutError::Disconnected))
        };
        match news {
            Ok(one) => {
                adopted.push(one);
                // A runtime that shuts down drops many: one walk does for all of them.
                while let Ok(news) = receiver.try_recv() {
                    match news {
                        Some(one) => adopted.push(one),
                        None => orphaned_since = Some(Instant::now()),
                    }
                }
                pause = FIRST_LOOK;
            }
            Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(LAST_LOOK),
            Err(RecvTimeoutError::Disconnected) if adopted.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => orphaned_since = Some(Instant::now()),
        }
        kill_stragglers(launcher, &mut adopted);
        adopted.retain_mut(|Adopted { process, walks, .. }| {
            // Unreaped, the leader keeps its group's id.
            let done = *walks == 0 && !matches!(process.reap(), Ok(None));
            if done {
                pending.fetch_sub(1, Ordering::AcqRel);
            } else {
                process.kill();
            }
            !done
        });
        if orphaned_since.is_some_and(|since| since.elapsed() > FAREWELL || adopted.is_empty()) {
            for Adopted { process, .. } in &adopted {
                tracing::error!(pid = process.id(), "killed, but it does not die; it is left behind");
            }
            return;
        }
    }
}

/// Kills what the adopted processes left behind, with one walk for all.
fn kill_stragglers(launcher: &dyn Launcher, adopted: &mut [Adopted]) {
    let mut searched: Vec<_> = adopted.iter_mut().filter(|one| one.walks > 0).collect();
    if searched.is_empty() {
        return;
    }
    let targets: Vec<_> = searched.iter().map(|one| one.target.clone()).collect();
    for (one, found) in searched.iter_mut().zip(launcher.stragglers(&targets, WALK).found) {
        for straggler in &found {
            straggler.kill();
        }
        one.walks = if found.is_empty() { 0 } else { one.walks - 1 };
    }
}

/// A started process that will be killed and reaped whatever happens to the value: by its owner, or else by the janitor.
#[derive(Debug)]
pub(crate) struct Leader {
    /// `None` only while it is dropped.
    process: Option<Box<dyn Process>>,
    reaped: bool,
    /// The inodes of the pipes that it writes to: whoever else holds them belongs to it.
    pipes: Vec<u64>,
    janitor: Janitor,
}

impl Leader {
    /// `pipes`: our ends of those that it writes to.
    pub(crate) fn new(process: Box<dyn Process>, pipes: [&impl AsFd; 2], janitor: Janitor) -> Self {
        let pipes = pipes.into_iter().filter_map(|pipe| Some(fstat(pipe).ok()?.st_ino)).collect();
        Self { process: Some(process), reaped: false, pipes, janitor }
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

    /// Work that lets go of what takes time to let go of, once it was reaped.
    pub(crate) fn remains(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        self.process.as_mut()?.remains()
    }

    /// What to look for when it may have left something running.
    pub(crate) fn scan_target(&self) -> ScanTarget {
        (**self).scan_target(self.pipes.clone())
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
            self.janitor.adopt(process, std::mem::take(&mut self.pipes));
        }
    }
}
