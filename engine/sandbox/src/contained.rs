//! Levels 1 to 4: every call in a sandbox that the kernel enforces.
//!
//! The zygote makes the sandboxes (see the crate `tool-zygote`); in here is who tells it what to make: which paths are
//! shown ([`view`]), which limits hold, which level that comes to, and what to say where a machine cannot do it.

mod ahead;
mod builder;
mod doctor;
mod handover;
mod hints;
mod installed;
mod kernel;
mod known;
mod mounts;
mod names;
mod nascent;
mod offer;
mod parting;
mod process;
#[cfg(test)]
mod scoped;
mod shown;
mod socket;
mod system;
mod terms;
mod view;
mod zygote;

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Uid, geteuid},
};
use tool_zygote::protocol::{Bytes, Launch};

pub use self::builder::SandboxBuilder;
pub use self::doctor::{
    CgroupFound, Examination, FolderFound, LandlockFound, Owners, Remark, Trial, ZygoteFound,
};
pub(crate) use self::view::PROTECTED;
use self::{
    handover::Handover,
    known::{State, is_over},
    mounts::Mounts,
    names::Written,
    nascent::{Parts, Unborn},
    offer::Offer,
    parting::Parting,
    process::Contained,
    shown::Shown,
    terms::{describe, limits, not_held, want},
    view::View,
    zygote::Zygote,
};
use crate::{
    cgroup::Cgroups,
    launch::{LaunchError, LaunchSpec, LaunchStep, Launched, Launcher, Missing, Stdin},
    level::{Enforced, Level, Proc},
    policy::{Network, Policy, ResourceLimits},
    process_group::ProcessGroups,
    program,
    residue::{self, ScanTarget, Swept},
    vitals::{LauncherVitals, ZygoteVitals},
};

/// Launches every process in a sandbox, at the highest level that this machine can do; but with
/// [`Level::None`] in its policy a process is launched without.
///
/// The first launch tries out what there is, and starts the zygote (about 3 ms), unless that was [done
/// ahead](Launcher::warm_up). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: SandboxBuilder,
    state: Mutex<State>,
    /// Held while a zygote is started, which takes its time; `state` and `watched` never are.
    starting: Mutex<()>,
    /// Folders in which the keeper cleans up when we cannot. They only become more.
    watched: Mutex<Vec<PathBuf>>,
    written: Written,
    /// Each sandbox that was made for a call has one, too.
    sandboxes: Arc<()>,
}

/// How many maps of users are kept. Each is one descriptor; nearly all calls need the same one or two.
const MOST_ID_MAPS: usize = 32;

/// How much `/tmp` and `/dev/shm` hold when nobody says anything.
const TMP: (u64, u64) = (1 << 30, 100_000);
/// How many processes and threads a call may have when nobody says anything; and files a process.
const PIDS: u32 = 1024;
const OPEN_FILES: u64 = 4096;

impl Default for Sandbox {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl Sandbox {
    /// Begins a launcher with the defaults.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }
}

impl Launcher for Sandbox {
    fn level(&self, policy: &Policy) -> Result<Level, LaunchError> {
        if is_unsandboxed(policy) { Ok(Level::None) } else { Ok(self.0.offer()?.level) }
    }

    fn least_level(&self, policy: &Policy, resources: &ResourceLimits) -> Level {
        // What is not named is not shown and not reached, and that takes namespaces.
        let least = Level::NoCgroup.max(policy.least_level());
        if resources.cpus.is_some() { Level::Full } else { least }
    }

    fn missing(&self) -> Vec<Missing> {
        self.0.offer().map(|offer| offer.missing.clone()).unwrap_or_default()
    }

    fn shown_as(&self, policy: &Policy, folder: &Path) -> PathBuf {
        match self.level(policy) {
            Ok(Level::NoCgroup | Level::Full) => system::PRIVATE.into(),
            _ => folder.to_owned(),
        }
    }

    fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        if is_unsandboxed(&spec.policy) {
            return ProcessGroups.launch(spec);
        }
        let offer = self.0.offer()?;
        let needed = spec.policy.level.unwrap_or_else(|| self.least_level(&spec.policy, &spec.resources));
        if offer.level < needed {
            // Whoever asked has been told otherwise: it was closed since.
            let less = io::Error::other(format!("needed is {needed}, and there is {} now", offer.level));
            return Err(LaunchError::new(LaunchStep::Zygote, "the sandbox", less));
        }
        if offer.level == Level::None {
            return ProcessGroups.launch(spec);
        }
        self.0.launch(&offer, spec)
    }

    fn warm_up(&self) {
        let _ = self.0.offer();
    }

    fn prepare(&self) {
        let (offer, zygotes): (_, Vec<_>) = {
            let state = self.0.state();
            (state.offer.clone(), state.zygotes.values().cloned().collect())
        };
        // Others launch meanwhile.
        for zygote in zygotes {
            zygote.make_ahead(|limits| offer.as_ref()?.cgroup(limits, true).ok());
        }
    }

    fn stragglers(&self, targets: &[ScanTarget], bound: Duration) -> Swept {
        residue::scan(targets, bound)
    }

    fn keep_clean(&self, folder: &Path) {
        let mut watched = self.0.watched();
        if !watched.iter().any(|watched| watched == folder) {
            watched.push(folder.to_owned());
        }
    }

    fn vitals(&self) -> LauncherVitals {
        let mut vitals = LauncherVitals {
            sandboxes: Arc::strong_count(&self.0.sandboxes) as u64 - 1,
            ..LauncherVitals::default()
        };
        let zygotes: Vec<_> = {
            let state = self.0.state();
            if let Some(cgroups) = state.offer.as_ref().and_then(|offer| offer.cgroups.as_ref()) {
                vitals.cgroups = (cgroups.taken() + cgroups.quarantined()) as u64;
                vitals.pooled_cgroups = cgroups.pooled() as u64;
            }
            // Only their ids leave: whoever holds the last of a zygote sees to its end.
            state.zygotes.values().filter_map(|zygote| zygote.pid()).collect()
        };
        vitals.zygotes = zygotes.into_iter().map(ZygoteVitals::of).collect();
        vitals
    }

    fn close(&self) {
        let (offer, id_maps, zygotes) = {
            // Nobody starts one meanwhile that would be left.
            let _starting = self.0.starting();
            let mut state = self.0.state();
            // Whoever gets one gets it under this lock: what nobody else has is ours alone.
            let idle = state.zygotes.extract_if(|_, zygote| Arc::strong_count(zygote) == 1);
            let idle: Vec<_> = idle.map(|(_, zygote)| zygote).collect();
            let rest = if state.zygotes.is_empty() { std::mem::take(&mut *state) } else { State::default() };
            (rest.offer, rest.id_maps, idle)
        };
        let partings: Vec<Parting> =
            zygotes.into_iter().filter_map(Arc::into_inner).filter_map(Zygote::ask_to_end).collect();
        // They take themselves apart while the cgroups are removed.
        drop((offer, id_maps));
        partings.into_iter().for_each(Parting::wait);
    }
}

fn is_unsandboxed(policy: &Policy) -> bool {
    policy.level == Some(Level::None)
}

fn bytes(path: impl AsRef<Path>) -> Bytes {
    Bytes(path.as_ref().as_os_str().as_bytes().to_vec())
}

impl Inner {
    fn new(settings: SandboxBuilder) -> Self {
        Self {
            settings,
            state: Mutex::default(),
            starting: Mutex::default(),
            watched: Mutex::default(),
            written: Written::default(),
            sandboxes: Arc::default(),
        }
    }

    fn launch(&self, offer: &Arc<Offer>, mut spec: LaunchSpec) -> Result<Launched, LaunchError> {
        let namespaced = offer.level >= Level::NoCgroup;
        let name = spec.program.to_string_lossy().into_owned();
        let program = program::find(&spec.program, &spec.env, spec.workdir.as_deref())?;
        let view = View::of(&spec, &program, &self.written)?;
        let user = offer.user.map(|(uid, gid)| spec.policy.user.map_or((uid, gid), |user| (user, user)));
        if spec.policy.user.is_some() && user.is_none() {
            return Err(LaunchError::new(
                LaunchStep::Policy,
                format!("user {}", spec.policy.user.unwrap_or_default()),
                io::Error::from(Errno::PERM),
            )
            .hint("only root can run a tool as somebody else; leave `user` out, or run as root"));
        }
        let zygote = self.zygote(offer, user)?;
        let mut mounts = Mounts::default();
        if namespaced {
            for (target, place) in &view.places {
                self.mount(&mut mounts, &zygote, user, target, place, &spec.resources)?;
            }
            if let Some(folder) = &spec.private {
                self.mount_private(&mut mounts, user, folder)?;
            }
        }

        let out_of_files = |errno: Errno| {
            LaunchError::new(LaunchStep::Pipe, &name, errno)
                .hint("raise the limit of open files (`ulimit -n`), or run fewer calls at once")
        };
        // The tool may open what it was handed once more (`/dev/stdout`): as its own user.
        let give = |fd: &OwnedFd| {
            if let (true, Some((uid, gid))) = (namespaced, user) {
                let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            }
        };
        let pipe = || {
            let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(out_of_files)?;
            give(&pipe.0);
            Ok::<_, LaunchError>(pipe)
        };
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let (child_stdin, stdin) = match std::mem::replace(&mut spec.stdin, Stdin::Null) {
            Stdin::Fd(fd) => (fd, None),
            Stdin::Null => {
                let null = File::open("/dev/null");
                (null.map_err(|e| LaunchError::new(LaunchStep::Pipe, "/dev/null", e))?.into(), None)
            }
            Stdin::Pipe => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
        };

        let in_cgroup = offer.cgroups.is_some();
        let (rlimits, pid_max, per_process) = limits(&spec.resources, offer, namespaced, in_cgroup);
        let launch =
            Launch { pid_max, ..describe(&spec, &view, mounts.mounts, rlimits, namespaced, &program) };
        let bounds_pids = pid_max > 0;
        let host_network = spec.policy.network == Some(Network::Host);
        let want = want(&spec.resources, host_network, mounts.points);
        let handover = Handover::new(&launch, [child_stdin, child_stdout, child_stderr], mounts.passed)
            .map_err(|e| LaunchError::new(LaunchStep::Pipe, &name, e))?;
        let lost = |errno: Errno| match errno {
            Errno::MFILE | Errno::NFILE => out_of_files(errno),
            _ => died(errno.into()),
        };
        // What could not be removed when its execution ended.
        offer.cgroups.iter().for_each(Cgroups::tidy_some);
        let ready = zygote.ready(&want).and_then(|ready| match handover.give(&ready.nascent) {
            Ok(()) => Some(ready),
            Err(_) => {
                zygote.leave(ready);
                None
            }
        });
        let (nascent, cgroup) = match ready {
            Some(ready) => ready.into_parts(),
            None => {
                let cgroup = offer.cgroup(&want.limits, false).map_err(|error| {
                    // systemd has removed the scope, and what was in it with it.
                    if is_over(&self.state(), offer) { died(Errno::PIPE.into()) } else { error }
                })?;
                let nascent = zygote.make(&want.kind, cgroup.as_ref(), true).map_err(lost)?;
                match handover.give(&nascent) {
                    // It could not be made, and has said why.
                    Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => (nascent, cgroup),
                    Err(errno) => return Err(lost(errno)),
                }
            }
        };
        // In this order: on the way out, whoever is in the cgroup is dead before it is given back.
        let mut cgroup = cgroup;
        let mut nascent = nascent;
        // What stays open here would never come to its end there.
        drop(handover);
        nascent.wait().map_err(|unborn| match unborn {
            Unborn::Failed(failure) => offer::launch_error(&failure, &program),
            Unborn::Lost(errno) => lost(errno),
        })?;
        if let Some(cgroup) = &mut cgroup {
            cgroup.joined();
        }
        let watch = |fd: &OwnedFd| fd.try_clone().map_err(|e| LaunchError::new(LaunchStep::Pidfd, &name, e));
        let (exit, gone) = match nascent.parts() {
            Some(Parts { control, first: Some(first), .. }) => (watch(control)?, watch(first)?),
            _ => return Err(died(Errno::PROTO.into())),
        };
        let enforced = Enforced {
            level: offer.level,
            namespaces: if namespaced { offer::namespaces(host_network) } else { Vec::new() },
            landlock: offer.landlock,
            seccomp: true,
            cgroup: offer.cgroups.as_ref().map(|cgroups| cgroups.version()),
            user: Some(user.map_or_else(|| geteuid().as_raw(), |(uid, _)| uid)),
            proc: match (namespaced, offer.proc) {
                (true, true) => Proc::Own,
                (true, false) => Proc::None,
                (false, _) => Proc::Host,
            },
            per_process,
            not_held: not_held(&spec, namespaced, in_cgroup, bounds_pids),
        };
        let Some(Parts { control, first: Some(first), mounts, pid }) = nascent.hand_over() else {
            return Err(died(Errno::PROTO.into()));
        };
        let mut process = Contained::new(control, first, pid, mounts, cgroup, namespaced, zygote)
            .of_architecture(view.foreign)
            .counted(Arc::clone(&self.sandboxes));
        if namespaced {
            process = process.showing(Shown::of(&view));
        }
        Ok(Launched { process: Box::new(process), exit, gone: Some(gone), stdin, stdout, stderr, enforced })
    }
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("launch", MemfdFlags::CLOEXEC)?);
    io::Write::write_all(&mut file, bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

fn died(error: io::Error) -> LaunchError {
    LaunchError::new(LaunchStep::Zygote, "a new sandbox", error)
        .hint("the zygote was killed, or the machine is out of memory; the next call starts a new one")
}

/// Whether we are root, in whatever group, and so can hand files and processes to somebody else.
fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is may have changed since it was asked for.
    #[test]
    fn below_what_it_needs_nothing_is_launched() {
        for highest in [Level::None, Level::Basic] {
            let sandbox = Sandbox::builder().highest(highest).build();
            let spec = LaunchSpec {
                execution: "x".into(),
                program: "/bin/true".into(),
                args: Vec::new(),
                env: Vec::new(),
                workdir: None,
                stdin: Stdin::Null,
                policy: Policy::default(),
                resources: ResourceLimits::default(),
                shows: Vec::new(),
                private: None,
            };
            let refused = sandbox.launch(spec).unwrap_err();
            assert!(refused.to_string().contains("needed is level 3"), "{refused}");
        }
    }
}
