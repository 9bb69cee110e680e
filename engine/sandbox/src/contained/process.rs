//! A process in a sandbox, seen from outside: what its keeper, the sandbox's first process, tells of it.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};
use tool_zygote::protocol::{Event, Order, Wire};

use super::{shown::Shown, socket, zygote::Zygote};
use crate::{
    cgroup::Cgroup,
    launch::{Architecture, Counted, Exit, ExitStatus, Process, Usage},
    procfs,
    residue::{Residents, Residue, ScanTarget},
    wait,
};

/// The program of a call, and all that it starts.
#[derive(Debug)]
pub(super) struct Contained {
    line: Arc<Line>,
    /// The first process. When it is dead, so are all others.
    first: OwnedFd,
    /// The program's own, as we see it.
    pid: u32,
    /// It is pid 1 of a namespace of its own: its death takes all others along.
    namespaced: bool,
    cgroup: Option<Cgroup>,
    /// Where it has a view of its own.
    shown: Option<Shown>,
    /// Its mounts are taken apart when this is closed.
    mounts: Option<OwnedFd>,
    /// Its sandboxes die with it.
    zygote: Arc<Zygote>,
    foreign: Option<Architecture>,
    /// There are as many of these as there are sandboxes.
    _counted: Arc<()>,
}

/// The line to the first process, and what came over it.
#[derive(Debug)]
struct Line {
    control: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    exited: Option<Exited>,
    killed: bool,
    reaped: bool,
    /// What was asked last.
    answered: bool,
    /// How many times it was asked who is alive, and has not answered yet.
    lists_due: u32,
    /// The last answer to that.
    living: Option<Residents>,
}

#[derive(Debug, Clone, Copy)]
struct Exited {
    status: ExitStatus,
    usage: Usage,
    others: bool,
}

impl Contained {
    pub(super) fn new(
        control: OwnedFd,
        first: OwnedFd,
        pid: u32,
        mounts: Option<OwnedFd>,
        cgroup: Option<Cgroup>,
        namespaced: bool,
        zygote: Arc<Zygote>,
    ) -> Self {
        Self {
            line: Arc::new(Line { control, state: Mutex::default() }),
            first,
            pid,
            namespaced,
            cgroup,
            shown: None,
            mounts,
            zygote,
            foreign: None,
            _counted: Arc::default(),
        }
    }

    /// The same, of a program for an architecture whose system calls are refused.
    pub(super) fn of_architecture(self, foreign: Option<Architecture>) -> Self {
        Self { foreign, ..self }
    }

    /// The same, counted among the others.
    pub(super) fn counted(self, among: Arc<()>) -> Self {
        Self { _counted: among, ..self }
    }

    /// The same, with what it is shown.
    pub(super) fn showing(self, shown: Shown) -> Self {
        Self { shown: Some(shown), ..self }
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the first process has said so far. Whether the program has ended; how, it may have taken to the grave.
    fn hear(&self, state: &mut State) -> bool {
        while state.exited.is_none() {
            match self.hear_one(state) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
        true
    }

    /// Reads one message. `EAGAIN`: there is none yet; any other error: there will be none.
    fn hear_one(&self, state: &mut State) -> Result<(), Errno> {
        let size = if state.lists_due > 0 { socket::LARGE } else { socket::SMALL };
        let message = socket::receive_now(&self.control, size)?.ok_or(Errno::PIPE)?;
        state.note(Event::from_bytes(&message.bytes));
        Ok(())
    }

    fn order(&self, order: Order) {
        // It may be dead; or be stopped, and so full of orders that one more makes no difference.
        let _ = socket::send_now(&self.control, &order.to_bytes(), &[]);
    }

    /// Blocks until the deadline at most. Others may ask and kill meanwhile, and hear the answer for us.
    fn residents(&self, deadline: Instant) -> Residents {
        /// How often to look whether somebody else has heard it, and so left nothing to wait for.
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        self.state().lists_due += 1;
        self.order(Order::List);
        loop {
            let heard = {
                let mut state = self.state();
                let heard = self.hear_one(&mut state);
                if let Some(living) = state.living.take() {
                    return living;
                }
                heard
            };
            match heard {
                Ok(()) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    socket::readable(&self.control, Some(deadline.min(Instant::now() + LOOK_AGAIN)));
                }
                Err(Errno::AGAIN) => return Residents::unknown(),
                // The first process is dead, and so are all others.
                Err(_) => return Residents::none(),
            }
        }
    }
}

impl State {
    fn note(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Running) => self.answered = true,
            Some(Event::Living { processes, more }) => {
                self.lists_due = self.lists_due.saturating_sub(1);
                let named = processes.into_iter().map(|(pid, (group, command))| Residue {
                    pid: pid.unsigned_abs(),
                    command: procfs::shown(&command.0, Vec::new),
                    // The program is the first that is started: 2.
                    escaped: group != 2,
                    killed: true,
                });
                self.living = Some(Residents { named: named.collect(), complete: !more });
            }
            Some(Event::Exited { status, user, system, max_rss, others }) => {
                self.exited = Some(Exited {
                    status: wait::exit_status(status),
                    usage: Usage {
                        cpu_user: Duration::from_micros(user),
                        cpu_system: Duration::from_micros(system),
                        // The program began as a copy of its keeper, which is small; but it did not begin at nothing.
                        peak_memory: None,
                        peak_memory_at_most: max_rss.saturating_mul(1024),
                    },
                    others,
                });
            }
            _ => {}
        }
    }
}

impl Process for Contained {
    fn id(&self) -> u32 {
        self.pid
    }

    fn has_exited(&self) -> io::Result<bool> {
        let mut state = self.line.state();
        Ok(self.line.hear(&mut state))
    }

    fn terminate(&self) {
        self.line.order(Order::Terminate);
    }

    fn kill(&self) {
        let mut state = self.line.state();
        if state.reaped {
            return;
        }
        // What it has said before it was killed counts.
        let had_died = self.line.hear(&mut state);
        state.killed |= !had_died;
        if self.namespaced {
            // It may be dead already.
            let _ = pidfd_send_signal(&self.first, Signal::KILL);
        } else {
            self.line.order(Order::Kill);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    fn is_contained(&self) -> bool {
        true
    }

    fn others_may_be_alive(&self) -> bool {
        let mut state = self.line.state();
        self.line.hear(&mut state);
        state.exited.is_none_or(|exited| exited.others) && !socket::is_readable(&self.first)
    }

    fn ask(&self) {
        self.line.state().answered = false;
        self.line.order(Order::Ask);
    }

    fn has_answered(&self) -> bool {
        let mut state = self.line.state();
        let exited = self.line.hear(&mut state);
        state.answered || exited
    }

    fn residents(&self) -> Box<dyn FnOnce(Duration) -> Residents + Send> {
        let line = Arc::clone(&self.line);
        Box::new(move |bound| line.residents(Instant::now() + bound))
    }

    fn unshown(&self) -> Box<dyn FnOnce(Vec<PathBuf>) -> Vec<PathBuf> + Send> {
        match self.shown.clone() {
            Some(shown) => Box::new(move |mut paths| {
                paths.retain(|path| shown.lacks(path));
                paths
            }),
            None => Box::new(|_| Vec::new()),
        }
    }

    fn foreign(&self) -> Option<Architecture> {
        self.foreign
    }

    fn cpu_used(&self) -> Option<Duration> {
        self.cgroup.as_ref()?.cpu_used()
    }

    fn remains(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        let (mounts, tidying) = (self.mounts.take(), self.cgroup.as_ref().map(Cgroup::tidying));
        Some(Box::new(move || {
            drop(mounts);
            if let Some(tidying) = tidying {
                tidying();
            }
        }))
    }

    /// Nothing: what is contained need not be looked for.
    fn scan_target(&self, _pipes: Vec<u64>) -> ScanTarget {
        ScanTarget::nothing()
    }

    fn reap(&mut self) -> io::Result<Option<Exit>> {
        let mut state = self.line.state();
        self.line.hear(&mut state);
        // Either its keeper has reaped the last of them and is about to end, or it has ended.
        let is_empty = state.exited.is_some_and(|exited| !exited.others);
        if !is_empty && !socket::is_readable(&self.first) {
            return Ok(None);
        }
        state.reaped = true;
        let counters = self.cgroup.as_ref().map(Cgroup::counters).unwrap_or_default();
        let counted = Counted {
            oom_kills: counters.oom_kills,
            pids_refused: counters.pids_max_hits,
            peak_pids: counters.peak_pids,
        };
        let (status, mut usage) = match state.exited {
            Some(exited) => (exited.status, exited.usage),
            // The sandboxes of a zygote die with it, and nobody knows how their programs were doing.
            None if !state.killed && self.zygote.is_gone() => return Err(Errno::CHILD.into()),
            // The first process was killed, and the kernel killed all others.
            None => (ExitStatus::Signal(libc::SIGKILL), Usage::default()),
        };
        if let Some(peak) = counters.peak_memory {
            usage.peak_memory = Some(peak);
            usage.peak_memory_at_most = peak;
        }
        if let (Some(user), Some(system)) = (counters.cpu_user, counters.cpu_system) {
            usage.cpu_user = user;
            usage.cpu_system = system;
        }
        Ok(Some(Exit { status, usage, counted }))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_asks_or_kills_does_not_wait_for_who_asks_for_a_list() {
        let (control, first_process) = socket::pair().unwrap();
        let line = Arc::new(Line { control, state: Mutex::default() });
        let asking = Arc::clone(&line);
        let far_off = Instant::now() + Duration::from_secs(600);
        let asked = thread::Builder::new().spawn(move || asking.residents(far_off)).unwrap();
        let order = socket::receive(&first_process, socket::SMALL, Some(far_off)).unwrap().unwrap();
        assert_eq!(Order::from_bytes(&order.bytes), Some(Order::List));
        assert!(!line.hear(&mut line.state()), "it runs");
        assert!(!asked.is_finished());
        // Whoever hears the answer, and however long it is.
        let one = (7, (7, tool_zygote::protocol::Bytes(vec![b'x'; 900])));
        let answer = Event::Living { processes: vec![one; 50], more: true };
        socket::send(&first_process, &answer.to_bytes(), &[]).unwrap();
        assert!(!line.hear(&mut line.state()));
        let living = asked.join().unwrap();
        let Residents { named, complete } = living;
        assert_eq!((named.len(), named[0].pid, named[0].escaped, complete), (50, 7, true, false));
        // One that does not listen any more is no reason to wait.
        for _ in 0..10_000 {
            line.order(Order::Kill);
        }
        drop(first_process);
        assert!(line.hear(&mut line.state()));
        assert_eq!(line.residents(far_off), Residents::none());
    }
}
