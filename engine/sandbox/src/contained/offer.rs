//! What this machine can do, tried out for real: by starting a zygote, which does all of it.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::{getegid, geteuid};
use tool_zygote::protocol::{Bytes, Failure, Init, Step};

use super::{
    SandboxBuilder,
    hints::{self, Facts},
    installed, is_root,
    zygote::{NoZygote, Starting, Zygote},
};
use crate::{
    cgroup::{Cgroup, Cgroups, Scope, System},
    launch::{LaunchError, LaunchStep, Missing},
    level::{Landlock, Level},
    policy::ResourceLimits,
    procfs::own_prefix,
    program,
};

/// The user that tools run as when we are root: see [`SandboxBuilder::user`].
const NOBODYS: u32 = 65_519;
/// What that user is called inside. Not 0: whoever looks like root is treated like root by programs.
const INSIDE: u32 = 1000;

/// What can be done here.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) level: Level,
    pub(super) missing: Vec<Missing>,
    /// The user and group that tools run as, if we can choose.
    pub(super) user: Option<(u32, u32)>,
    pub(super) landlock: Option<Landlock>,
    /// Whether a sandbox gets a /proc.
    pub(super) proc: bool,
    /// Whether the number of processes can be bounded without a cgroup.
    pub(super) pid_max: bool,
    pub(super) cgroups: Option<Cgroups>,
    namespaces: bool,
    /// Where the cgroups are for as long as the zygote that it was made for lives.
    pub(super) scope: Option<Scope>,
}

impl Offer {
    /// Tries it out, from the most to the least. The zygote that was started for it is of use.
    ///
    /// `before`: what there was in a scope that is gone. Less than that is an error: calls rely on it.
    ///
    /// # Errors
    /// When something ran out, so that nothing was found out; or there is less than before.
    pub(super) fn find(
        settings: &SandboxBuilder,
        watched: &[PathBuf],
        before: Option<&Self>,
    ) -> Result<(Self, Option<Zygote>), LaunchError> {
        let bare = || Self::find_in(None, settings, watched).map_err(NoZygote::into_launch_error);
        let scope = settings.scope();
        let hint = scope.as_ref().map(Scope::hint).unwrap_or_default();
        let why = match scope.map(|scope| Self::find_in(Some(scope), settings, watched)) {
            None if before.is_none() => return bare(),
            None => "systemd makes none for us any more".into(),
            Some(Ok(found)) if found.0.level >= before.map_or(settings.highest, |before| before.level) => {
                return Ok(found);
            }
            Some(Ok((offer, zygote))) if before.is_none() && offer.cgroups.is_some() => {
                // Perhaps it is the scope that it has to do with.
                let bare = bare()?;
                return Ok(if bare.0.level > offer.level { bare } else { (offer, zygote) });
            }
            // It is there, but of no use.
            Some(Ok((offer, _))) => {
                offer.missing.into_iter().map(|missing| missing.what).collect::<Vec<_>>().join("; ")
            }
            Some(Err(none)) if none.ran_out() => return Err(none.into_launch_error()),
            Some(Err(none)) => none.to_string(),
        };
        if before.is_some() {
            let again =
                LaunchError::new(LaunchStep::Zygote, "another scope of systemd's", io::Error::other(why));
            return Err(again.hint(
                "the scope that the sandboxes were in has ended, as when its user logs out (`loginctl enable-linger` \
                 prevents that); the next call asks again; without cgroups (`--cgroup none`) nobody is asked",
            ));
        }
        tracing::info!(why, "systemd makes no scope for the sandboxes");
        let (mut offer, zygote) = bare()?;
        for missing in offer.missing.iter_mut().filter(|missing| missing.level == Level::NoCgroup) {
            missing.what = format!("{}; and in a scope from systemd: {why}", missing.what);
            missing.hint = format!("{hint}; or {}", missing.hint);
        }
        Ok((offer, zygote))
    }

    /// The same, with the zygote in this scope. An error says that there is no such scope, or that something ran out.
    fn find_in(
        scope: Option<Scope>,
        settings: &SandboxBuilder,
        watched: &[PathBuf],
    ) -> Result<(Self, Option<Zygote>), NoZygote> {
        let uid = settings.user.unwrap_or(NOBODYS);
        let mut offer = Self {
            level: Level::None,
            missing: Vec::new(),
            user: (is_root() && (settings.user.is_some() || is_machines_root() || is_known(uid)))
                .then_some((uid, uid)),
            landlock: None,
            proc: false,
            pid_max: false,
            cgroups: None,
            namespaces: true,
            scope,
        };
        if settings.highest == Level::None {
            return Ok((offer, None));
        }
        // It sets itself up while we look for cgroups.
        let starting =
            (settings.highest >= Level::NoCgroup).then(|| offer.begin(settings, offer.user, watched));
        if settings.without_cgroup {
            offer.missing.push(Missing {
                level: Level::NoCgroup,
                what: "there is to be no cgroup".into(),
                hint: "leave that out: `--cgroup none` here, `SandboxBuilder::without_cgroup` in a program"
                    .into(),
            });
        } else if settings.wants_cgroups() && offer.scope.is_none() {
            offer.look_for_cgroups(settings, System::real());
        }
        let mut zygote = None;
        if let Some(starting) = starting {
            match starting.and_then(|starting| offer.complete(settings, starting)) {
                Ok(started) => zygote = Some(started),
                Err(none) if offer.stops_at(&none) => return Err(none),
                Err(none) => offer.missing.push(Missing {
                    level: Level::NoNamespaces,
                    what: none.to_string(),
                    hint: none.hint(),
                }),
            }
        }
        if zygote.is_none() {
            offer.namespaces = false;
            offer.user = None;
            let starting = offer.begin(settings, None, watched);
            match starting.and_then(|starting| offer.complete(settings, starting)) {
                Ok(started) => zygote = Some(started),
                Err(none) if offer.stops_at(&none) => return Err(none),
                Err(none) => {
                    offer.missing.push(Missing {
                        level: Level::None,
                        what: none.to_string(),
                        hint: none.hint(),
                    });
                }
            }
        }
        if let Some(zygote) = &zygote {
            let hello = zygote.hello();
            offer.proc = hello.proc;
            offer.pid_max = hello.pid_max;
            if hello.landlock_files {
                offer.landlock = Some(Landlock { abi: hello.landlock_abi, scopes: hello.landlock_scopes });
            } else {
                offer.missing.push(no_landlock(hello.landlock_abi));
            }
        }
        offer.level = match (&zygote, offer.landlock, offer.namespaces, &offer.cgroups) {
            (None, ..) | (_, None, ..) => Level::None,
            (_, _, true, Some(_)) => Level::Full,
            (_, _, true, None) => Level::NoCgroup,
            (_, _, false, Some(_)) => Level::NoNamespaces,
            (_, _, false, None) => Level::Basic,
        };
        Ok((offer, zygote))
    }

    /// A cgroup with these limits, if there are cgroups; `ahead` of the call that it is for.
    pub(super) fn cgroup(&self, limits: &ResourceLimits, ahead: bool) -> Result<Option<Cgroup>, LaunchError> {
        let Some(cgroups) = &self.cgroups else { return Ok(None) };
        let taken = if ahead { cgroups.take_ahead(limits) } else { cgroups.take(limits) };
        taken.map(Some).map_err(|error| {
            let subject = format!("the cgroup: {} {}", error.action, error.path.display());
            LaunchError { hint: error.hint, ..LaunchError::new(LaunchStep::Sandbox, subject, error.source) }
        })
    }

    /// Whether no less is to be tried when there is no zygote.
    fn stops_at(&self, none: &NoZygote) -> bool {
        none.ran_out() || (self.scope.is_some() && !matches!(none, NoZygote::Setup(_)))
    }

    fn look_for_cgroups(&mut self, settings: &SandboxBuilder, system: System) {
        match Cgroups::find(settings.cgroup.as_deref(), &system) {
            Ok(cgroups) => self.cgroups = Some(cgroups),
            Err(none) => {
                self.missing.push(Missing { level: Level::NoCgroup, what: none.missing, hint: none.hint })
            }
        }
    }

    /// Waits for this zygote; where it is in a scope, there are the cgroups.
    fn complete(&mut self, settings: &SandboxBuilder, starting: Starting) -> Result<Zygote, NoZygote> {
        let zygote = starting.set_up(self.cgroup_folders())?;
        if self.scope.is_some()
            && let Some(keeper) = zygote.keeper()
        {
            self.look_for_cgroups(settings, System::real().seen_by(keeper));
            zygote.keep_clean(self.cgroup_folders())?;
        }
        Ok(zygote)
    }

    /// Starts a zygote for this user, and waits until it is set up.
    pub(super) fn start(
        &self,
        settings: &SandboxBuilder,
        user: Option<(u32, u32)>,
        watched: &[PathBuf],
    ) -> Result<Zygote, NoZygote> {
        Starting::begin(&settings.source(), self.init(user), None, watched)?.set_up(self.cgroup_folders())
    }

    fn begin(
        &self,
        settings: &SandboxBuilder,
        user: Option<(u32, u32)>,
        watched: &[PathBuf],
    ) -> Result<Starting, NoZygote> {
        Starting::begin(&settings.source(), self.init(user), self.scope.as_ref(), watched)
    }

    fn cgroup_folders(&self) -> Vec<PathBuf> {
        self.cgroups.as_ref().map(Cgroups::folders).unwrap_or_default()
    }

    /// What a zygote for this user is told.
    fn init(&self, user: Option<(u32, u32)>) -> Init {
        let inside = match user {
            Some(_) => (INSIDE, INSIDE),
            None if is_root() => (INSIDE, INSIDE),
            None => (geteuid().as_raw(), getegid().as_raw()),
        };
        let prefix = Bytes(own_prefix().into());
        Init { user, inside, namespaces: self.namespaces, prefix, scope: None }
    }
}

/// Whether this user and this group are there at all (user_namespaces(7)): who is root of a namespace with nobody else in it
/// cannot become somebody else, and is to the machine the user who made it. Then tools run as we do, as they do for everybody
/// who is not root.
fn is_known(id: u32) -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"].iter().all(|map| {
        // Where that cannot be told, it is found out by trying.
        fs::read_to_string(map).map_or(true, |map| maps(&map, id))
    })
}

/// Whether we are the machine's root, in whatever namespace. A tool may never be: it could write to `/proc/sys`, which looks at
/// the user and at nothing else. Who cannot be told from him counts as him.
fn is_machines_root() -> bool {
    // What belongs to nobody of this namespace belongs to user 65534.
    let owner = fs::metadata("/proc/sys/kernel").map(|found| found.uid());
    owner.map_or(true, |owner| owner == geteuid().as_raw())
}

/// Whether a map of users has this one: its lines are the first that is mapped, to whom, and how many.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        matches!((first, count), (Some(Ok(first)), Some(Ok(count))) if (first..first + count).contains(&id.into()))
    })
}

fn no_landlock(abi: u32) -> Missing {
    let what = if abi == 0 {
        "there is no Landlock here".into()
    } else {
        format!("Landlock is there (ABI {abi}), but does not refuse what it is told to refuse")
    };
    Missing { level: Level::None, what, hint: hints::landlock(abi, &Facts::gather()) }
}

/// The kinds of namespaces that a call has for itself.
pub(super) fn namespaces(host_network: bool) -> Vec<String> {
    let kinds = ["user", "mount", "pid", "ipc", "uts", "cgroup"];
    kinds.iter().copied().chain((!host_network).then_some("network")).map(String::from).collect()
}

/// The name of the file system that a path is on.
pub(super) fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((left.split(' ').nth(4)?, right.split(' ').next()?))
    });
    let around = fields.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.len());
    around.map_or_else(|| "unknown".into(), |(_, kind)| kind.to_owned())
}

fn words(step: &Step) -> &'static str {
    match step {
        Step::Message => "understanding the request",
        Step::User => "changing to the user",
        Step::Namespaces => "making namespaces",
        Step::UserMap => "mapping users",
        Step::NestedNamespaces => "forbidding nested user namespaces",
        Step::Propagation => "cutting mounts off from the host's",
        Step::View => "building the common view",
        Step::Fork => "making the process",
        Step::Path => "opening the path",
        Step::Identity => "finding again what was at",
        Step::Clone => "cloning the mount of",
        Step::Attributes => "restricting the mount of",
        Step::Network => "making the network namespace",
        Step::Enter => "entering the view",
        Step::Tmpfs => "mounting a tmpfs at",
        Step::Proc => "mounting",
        Step::Attach => "attaching the mount at",
        Step::PidMax => "bounding the number of processes",
        Step::Landlock => "setting up Landlock",
        Step::Seccomp => "filtering system calls",
        Step::Cgroup => "joining the cgroup",
        Step::Limit => "setting a resource limit",
        Step::Capabilities => "giving up capabilities",
        Step::Workdir => "entering the working folder",
        Step::Exec => "executing",
        Step::Watch => "watching over the program",
    }
}

fn sentence(failure: &Failure) -> String {
    let subject = String::from_utf8_lossy(&failure.subject.0);
    let error = io::Error::from_raw_os_error(failure.errno);
    let space = if subject.is_empty() { "" } else { " " };
    format!("{}{space}{subject}: {error}", words(&failure.step))
}

/// What a failed launch of `program` is called outside.
pub(super) fn launch_error(failure: &Failure, path: &Path) -> LaunchError {
    let subject = String::from_utf8_lossy(&failure.subject.0).into_owned();
    let error = io::Error::from_raw_os_error(failure.errno);
    match failure.step {
        Step::Exec => {
            let not_shown = error.raw_os_error() == Some(libc::ENOENT)
                && installed::interpreter(path).is_none_or(|interpreter| interpreter.exists())
                && path.exists();
            let error = program::not_executed(path, error);
            if not_shown {
                error.hint(
                    "the file is there, but something that it needs is not shown to it: the interpreter or loader that it \
                     names; show its folder with `--ro` (unless file or working folder were away for a moment)",
                )
            } else {
                error
            }
        }
        Step::Workdir => LaunchError::new(LaunchStep::Workdir, subject, error),
        Step::Fork => LaunchError::new(LaunchStep::Fork, path.display().to_string(), error).hint(
            "the user's or the machine's limit of processes or memory is reached; run fewer calls at once",
        ),
        Step::Path | Step::Identity => LaunchError::new(LaunchStep::Policy, subject, error)
            .hint("what is there changed just now, or may not be seen; call again"),
        _ => {
            let failed = LaunchError::new(LaunchStep::Sandbox, "", io::Error::other(sentence(failure)));
            if failure.errno == libc::ENOMEM {
                failed.hint(
                    "the call's limit of memory is too small to start anything, or the machine has none left",
                )
            } else {
                failed
            }
        }
    }
}

impl fmt::Display for NoZygote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoZygote::Start(what, error) => write!(f, "{what}: {error}"),
            NoZygote::Died => f.write_str(
                "the zygote died as soon as it was started; was it killed? the next call starts another",
            ),
            NoZygote::NoScope(status) => write!(f, "`systemd-run` ended with {status}"),
            NoZygote::Setup(failure) => f.write_str(&sentence(failure)),
        }
    }
}

impl NoZygote {
    fn errno(&self) -> i32 {
        match self {
            NoZygote::Start(_, error) => error.raw_os_error().unwrap_or(0),
            NoZygote::Died | NoZygote::NoScope(_) => 0,
            NoZygote::Setup(failure) => failure.errno,
        }
    }

    /// Whether it may well be otherwise in a moment.
    fn ran_out(&self) -> bool {
        matches!(self, NoZygote::Died)
            || matches!(self.errno(), libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    }

    /// For a call that waits for it.
    pub(super) fn into_launch_error(self) -> LaunchError {
        let errno = io::Error::from_raw_os_error(self.errno());
        match self.errno() {
            libc::EAGAIN | libc::ENOMEM => LaunchError::new(LaunchStep::Fork, "zygote", errno)
                .hint("the user's or the machine's limit of processes or memory is reached; run fewer calls at once"),
            libc::EMFILE | libc::ENFILE => LaunchError::new(LaunchStep::Pipe, "zygote", errno)
                .hint("raise the limit of open files (`ulimit -n`), or run fewer calls at once"),
            _ => LaunchError::new(LaunchStep::Zygote, "", io::Error::other(self.to_string())),
        }
    }

    /// What to do about it.
    fn hint(&self) -> String {
        match self {
            NoZygote::Setup(failure) => hints::setup(failure, &Facts::gather()),
            NoZygote::Start(..) | NoZygote::Died | NoZygote::NoScope(_) => {
                "name a zygote's program that can be started here (`Sandbox::builder().zygote(…)`), or a folder for ours where \
                 programs may be executed (`temp_dir(…)`)"
                    .into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_users_has_what_lies_in_one_of_its_ranges() {
        let whole = "         0          0 4294967295\n";
        let container = "         0     100000      65536\n";
        let alone = "         0       1000          1\n";
        let two = "0 1000 1\n1 100000 65519\n";
        for (map, expected) in [(whole, true), (container, true), (alone, false), (two, true), ("", false)] {
            assert_eq!(maps(map, NOBODYS), expected, "{map}");
        }
        assert!(!maps(two, NOBODYS + 1));
    }
}
