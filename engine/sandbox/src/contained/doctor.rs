//! What this machine can do, told to people: tried out for real, and within a bound.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::getuid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Sandbox,
    hints::{self, Facts},
    offer::{self, Offer},
    socket,
    view::{Mode, Place},
    zygote::Zygote,
};
use crate::{
    cgroup::CgroupVersion,
    launch::{LaunchSpec, Launcher, Missing, Process, Stdin},
    level::{Enforced, Level, Proc},
    policy::{Policy, ResourceLimits},
};

/// What a [`Sandbox`] can do on this machine, and what keeps it from doing more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Examination {
    /// The highest level that calls are run at.
    pub level: Level,
    /// What keeps it from a higher one, and what to do about it.
    pub missing: Vec<Missing>,
    /// What is less than it could be at this level, and what to do about it.
    pub remarks: Vec<Remark>,
    /// A program that was run at that level.
    pub trial: Trial,
    /// The kernel's release.
    pub kernel: String,
    /// The kinds of namespaces that a call has for itself, if it may connect to nobody.
    pub namespaces: Vec<String>,
    /// What Landlock does.
    pub landlock: LandlockFound,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Where cgroups are made.
    pub cgroup: Option<CgroupFound>,
    /// Which /proc a call sees.
    pub proc: Proc,
    /// Whether the kernel bounds the number of processes without a cgroup (`pid_max` of a namespace).
    pub pid_max: bool,
    /// The user that tools run as on this machine, by number.
    pub user: u32,
    /// The folder that was asked about.
    pub folder: FolderFound,
    /// The zygote.
    pub zygote: ZygoteFound,
}

/// Something that could be better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remark {
    /// What.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Whether a program could be run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    /// From its launch until all of it was gone, in milliseconds; `None` when it could not be run.
    pub took_ms: Option<f64>,
    /// Why not.
    pub error: Option<String>,
}

/// What Landlock does, as it was tried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LandlockFound {
    /// The kernel's ABI; 0: there is none.
    pub abi: u32,
    /// Whether it refused files as it was told.
    pub files: bool,
    /// Whether it refused abstract sockets and signals as it was told.
    pub scopes: bool,
}

/// Where cgroups are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CgroupFound {
    /// Which interface of the kernel.
    pub version: CgroupVersion,
    /// Our folders: one, or one in each hierarchy.
    pub folders: Vec<PathBuf>,
    /// Whether a share of processors can be limited.
    pub cpus: bool,
}

/// A folder, and as whose its files can be shown to tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FolderFound {
    /// The folder.
    pub path: PathBuf,
    /// The file system it is on.
    pub file_system: String,
    /// As whose.
    pub owners: Owners,
}

/// As whose the files of a folder are shown to tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// Tools run as the files' owner, or as who calls them: they may what that user may.
    Same,
    /// The owner's files are the tool's, by a mount that maps users (mount_setattr(2)).
    Mapped,
    /// The files keep their owner: tools can read what everybody may read, and write nothing.
    Others,
    /// Files are not shown at their own places, but refused by Landlock where they are.
    AsTheyAre,
}

/// The process that makes the sandboxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZygoteFound {
    /// How it is linked: `freestanding` (with nothing but itself), `static` or `dynamic` (with a C library), or `none`.
    pub linkage: String,
    /// How long its start takes, in milliseconds; `None` when it does not start.
    pub start_ms: Option<f64>,
}

impl Sandbox {
    /// Tries out what this machine can do, with the settings of this launcher; `folder` is asked about as one that a tool
    /// is to work in. Blocks, but within the bound.
    ///
    /// # Errors
    /// When it takes longer. What is under way then ends by itself.
    pub fn examine(&self, folder: &Path, bound: Duration) -> io::Result<Examination> {
        let (sender, answer) = mpsc::channel();
        let (sandbox, folder) = (self.clone(), folder.to_owned());
        let work = move || {
            // Nobody may be waiting any more.
            let _ = sender.send(sandbox.look(&folder, Instant::now() + bound));
        };
        thread::Builder::new().name("run-tool-examine".into()).spawn(work)?;
        answer.recv_timeout(bound).map_err(|_| {
            let message = format!(
                "looking at this machine took longer than {bound:?}; is it overloaded, or is a network mount in the way?"
            );
            io::Error::new(io::ErrorKind::TimedOut, message)
        })?
    }

    fn look(&self, folder: &Path, deadline: Instant) -> io::Result<Examination> {
        let offer = self.0.offer().map_err(io::Error::other)?;
        let facts = Facts::gather();
        let began = Instant::now();
        let zygote = match offer.level {
            Level::None => None,
            _ => offer.start(&self.0.settings, offer.user, &[]).ok(),
        };
        let start_ms = zygote.is_some().then(|| millis(began.elapsed()));
        let hello = zygote.as_ref().map(Zygote::hello);
        let landlock = hello.map_or_else(LandlockFound::default, |hello| LandlockFound {
            abi: hello.landlock_abi,
            files: hello.landlock_files,
            scopes: hello.landlock_scopes,
        });
        let (trial, enforced) = self.try_out(deadline);
        let mut missing = offer.missing.clone();
        let highest = self.0.settings.highest;
        if highest < Level::Full {
            missing.push(Missing {
                level: highest,
                what: format!("no more than {highest} was to be used"),
                hint: "leave that out: `--level` here, `Sandbox::builder().highest(…)` in a program".into(),
            });
        }
        let user = offer.user.map_or_else(|| getuid().as_raw(), |(uid, _)| uid);
        let found = FolderFound {
            path: folder.to_owned(),
            file_system: offer::file_system(&folder.canonicalize().unwrap_or_else(|_| folder.to_owned())),
            owners: self.owners(&offer, zygote.as_ref(), folder),
        };
        // It was only tried out.
        if let Some(zygote) = zygote {
            zygote.end();
        }
        let cgroup = offer.cgroups.as_ref().map(|cgroups| CgroupFound {
            version: cgroups.version(),
            folders: cgroups.folders(),
            cpus: cgroups.can_limit_cpus(),
        });
        Ok(Examination {
            remarks: remarks(&offer, &facts, landlock, cgroup.as_ref(), &found),
            level: offer.level,
            missing,
            trial,
            kernel: facts.release.clone(),
            namespaces: enforced.namespaces,
            landlock,
            seccomp: enforced.seccomp,
            cgroup,
            proc: enforced.proc,
            pid_max: offer.pid_max,
            user,
            folder: found,
            zygote: ZygoteFound { linkage: tool_zygote::LINKAGE.into(), start_ms },
        })
    }

    /// Runs a program that does nothing.
    fn try_out(&self, deadline: Instant) -> (Trial, Enforced) {
        let began = Instant::now();
        let launched = self.launch(LaunchSpec {
            execution: "examination".into(),
            program: "true".into(),
            args: Vec::new(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            workdir: Some("/usr".into()),
            stdin: Stdin::Null,
            policy: Policy::default(),
            resources: ResourceLimits::default(),
            shows: Vec::new(),
            private: None,
        });
        let mut launched = match launched {
            Ok(launched) => launched,
            Err(error) => {
                let hint = error.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
                return (Trial::failed(format!("{error}{hint}")), Enforced::nothing());
            }
        };
        let all_of_it = launched.gone.as_ref().unwrap_or(&launched.exit);
        let ended = socket::readable(&launched.exit, Some(deadline));
        launched.process.kill();
        let gone = socket::readable(all_of_it, Some(deadline));
        let took = began.elapsed();
        let status = reap(&mut *launched.process);
        let trial = match status {
            _ if !ended || !gone => Trial::failed("a program that does nothing did not end in time"),
            Ok(Some(true)) => Trial { took_ms: Some(millis(took)), error: None },
            Ok(Some(false)) => Trial::failed("a program that does nothing failed"),
            Ok(None) => Trial::failed("a program that ended could not be reaped"),
            Err(error) => Trial::failed(format!("how a program ended is lost: {error}")),
        };
        (trial, launched.enforced)
    }

    fn owners(&self, offer: &Offer, zygote: Option<&Zygote>, folder: &Path) -> Owners {
        if offer.level < Level::NoCgroup {
            return Owners::AsTheyAre;
        }
        let place = folder.canonicalize().and_then(|source| Place::of(&source, Mode::ReadWrite, true));
        let (Ok(place), Some(zygote)) = (place, zygote) else { return Owners::Others };
        match offer.user {
            None => Owners::Same,
            Some(user) if place.owner == user => Owners::Same,
            Some(user) if self.0.make_mount(zygote, user, &place).is_ok() => Owners::Mapped,
            Some(_) => Owners::Others,
        }
    }
}

impl Trial {
    fn failed(why: impl Into<String>) -> Self {
        Self { took_ms: None, error: Some(why.into()) }
    }
}

fn reap(process: &mut dyn Process) -> io::Result<Option<bool>> {
    Ok(process.reap()?.map(|exit| exit.status.success()))
}

/// To the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// What is less than it could be at the level that is offered.
fn remarks(
    offer: &Offer,
    facts: &Facts,
    landlock: LandlockFound,
    cgroup: Option<&CgroupFound>,
    folder: &FolderFound,
) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut say = |what: String, hint: &str| remarks.push(Remark { what, hint: hint.into() });
    let namespaced = offer.level >= Level::NoCgroup;
    if namespaced && !offer.proc {
        say("tools have no /proc: a new one cannot be mounted here".into(), &hints::proc(facts));
    }
    if namespaced && cgroup.is_none() && !offer.pid_max {
        say(
            "the number of processes of a call is not bounded".into(),
            "have a cgroup delegated to us (see what is missing for level 4), or use Linux 6.14 or newer",
        );
    }
    if cgroup.is_some_and(|cgroup| !cgroup.cpus) {
        say(
            "a share of processors (`cpus`) cannot be limited".into(),
            "have the cpu controller delegated to us, too (systemd: `Delegate=cpu memory pids`)",
        );
    }
    if namespaced && folder.owners == Owners::Others {
        say(
            format!(
                "tools cannot write to {}, which belongs to somebody else on a file system ({}) that cannot show it as theirs",
                folder.path.display(),
                folder.file_system
            ),
            "put the folder on ext4, xfs, btrfs or tmpfs (in a container: on a volume), or run as the folder's owner",
        );
    }
    if !namespaced && getuid().is_root() {
        say(
            "tools run as root: only namespaces let them run as somebody else".into(),
            "run as another user, or see what is missing for level 3",
        );
    }
    if offer.level != Level::None && !namespaced && !landlock.scopes {
        say(
            "abstract sockets and signals of other programs are within reach".into(),
            "use Linux 6.12 or newer, or what gives level 3",
        );
    }
    if ["static", "dynamic"].contains(&tool_zygote::LINKAGE) {
        say(
            "the zygote is linked with a C library: each call costs more than it must".into(),
            "build it anew; `cargo build -vv` shows why it could not be linked without",
        );
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_can_do_is_found_out_within_a_bound() {
        let bound = Duration::from_secs(60);
        let sandbox = Sandbox::default();
        let found = sandbox.examine(Path::new("/var/tmp"), bound).unwrap();
        assert_eq!(found.level, sandbox.level(&Policy::default()).unwrap());
        assert!(found.level == Level::Full || !found.missing.is_empty());
        for Missing { what, hint, .. } in &found.missing {
            assert!(!what.is_empty() && !hint.is_empty(), "{what}: {hint}");
        }
        assert!(found.trial.took_ms.is_some(), "{:?}", found.trial);
        assert_eq!(found.level >= Level::NoCgroup, found.namespaces.contains(&"network".into()));
        assert_eq!(found.level > Level::None, found.seccomp && found.landlock.files);
        assert_eq!((found.folder.file_system.as_str() != "unknown", found.kernel.is_empty()), (true, false));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Examination>(&text).unwrap(), found);
        let too_soon = sandbox.examine(Path::new("/var/tmp"), Duration::ZERO).unwrap_err();
        assert_eq!(too_soon.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn less_than_there_is_can_be_examined() {
        for level in [Level::None, Level::Basic] {
            let sandbox = Sandbox::builder().highest(level).build();
            let found = sandbox.examine(Path::new("/"), Duration::from_secs(60)).unwrap();
            assert!(found.level <= level && found.namespaces.is_empty(), "{found:?}");
            let reason = found.missing.iter().find(|missing| missing.level <= level).unwrap();
            assert!(!reason.hint.is_empty());
            assert_eq!(found.folder.owners, Owners::AsTheyAre);
        }
    }
}
