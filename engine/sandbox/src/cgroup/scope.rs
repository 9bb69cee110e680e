//! A delegated cgroup that systemd makes for us, where we are in one that cannot hand its controllers down.
//!
//! Who logs in to a machine with systemd is in a scope: a cgroup that holds processes, made for that session, that terminal
//! or that application. Cgroups of ours cannot be made in there, but systemd makes another scope beside it for whoever asks,
//! and delegates it (systemd.scope(5), `Delegate=` in systemd.resource-control(5)). Into that one goes the zygote with what
//! it makes, nothing of the caller's; when nobody is in there any more, systemd removes it with all that is left in it.
//!
//! Tools must not get out of limits that somebody has set on us. So the scope is made in the slice that we are in, with as
//! many tasks as we may have, and is not asked for where a cgroup that we would leave has other limits. (What it filters,
//! devices and addresses, cannot be seen, and is left.) For who is in a service, a `Delegate=` in its unit says that it may
//! have cgroups.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use rustix::process::{geteuid, getuid};

use super::system::{Mounted, System};

/// Where systemd-run(1) is.
const PROGRAMS: [&str; 3] =
    ["/usr/bin/systemd-run", "/bin/systemd-run", "/run/current-system/sw/bin/systemd-run"];

/// The limits of a cgroup, and how each of them says that there is none.
const LIMITS: [(&str, &str); 9] = [
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.swap.max", "max"),
    ("memory.zswap.max", "max"),
    ("cpu.max", "max"),
    ("cpu.uclamp.max", "max"),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("io.max", ""),
];

/// One that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// systemd-run(1).
    program: PathBuf,
    /// The user whose manager is asked; `None`: root asks the machine's.
    user: Option<u32>,
    /// The slice that it is made in; `None`: the manager's own choice.
    slice: Option<String>,
    /// How many processes and threads may be in it: as many as where we are.
    tasks: Option<u64>,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
}

impl Scope {
    /// If one is of use, and there is somebody to be asked for it.
    pub(crate) fn find() -> Option<Self> {
        let (user, system) = (geteuid().as_raw(), System::real());
        if getuid().as_raw() != user {
            return None;
        }
        Self::beside_us(&system, user)
    }

    fn beside_us(system: &System, user: u32) -> Option<Self> {
        // sd_booted(3)
        if !system.path(Path::new("/run/systemd/system")).is_dir() {
            return None;
        }
        let manager = match user {
            0 => "/run/systemd/private".into(),
            user => format!("/run/user/{user}/systemd/private"),
        };
        if !fs::metadata(system.path(Path::new(&manager))).ok()?.file_type().is_socket() {
            return None;
        }
        let program = PROGRAMS.into_iter().find(|program| system.path(Path::new(program)).is_file())?;
        let mounted = system.hierarchies().ok()?;
        let Mounted { mount, own, .. } = mounted.into_iter().find(|one| one.v2 && one.own.is_some())?;
        let own = own?;
        // Where there are v1 hierarchies, too, it may have none.
        let controllers = fs::read_to_string(mount.join("cgroup.controllers")).ok()?;
        if !["memory", "pids"].iter().all(|name| controllers.split_whitespace().any(|has| has == *name)) {
            return None;
        }
        // Process ids mean to it what they mean to us only where it is process 1.
        let first = fs::read_to_string(system.path(Path::new("/proc/1/cgroup"))).ok()?;
        if !first.lines().any(|line| line == "0::/init.scope") {
            return None;
        }
        let place = place(&own, user)?;
        let mut tasks = None;
        for left in own.ancestors().take(place.left) {
            let first = |file: &str| -> Option<String> {
                let text = fs::read_to_string(mount.join(left).join(file)).ok()?;
                Some(text.split_whitespace().next().unwrap_or_default().to_owned())
            };
            // What is not there limits nothing.
            if !LIMITS.iter().all(|(file, none)| first(file).is_none_or(|limit| limit == *none)) {
                return None;
            }
            let most = first("pids.max").and_then(|most| most.parse().ok());
            tasks = tasks.into_iter().chain(most).min();
        }
        let user = (user != 0).then_some(user);
        Some(Self { program: program.into(), user, slice: place.slice, tasks, mount })
    }

    /// With something else in the place of systemd-run(1), if a v2 hierarchy is mounted.
    #[cfg(test)]
    pub(crate) fn made_by(program: PathBuf) -> Option<Self> {
        let mounted = System::real().hierarchies().unwrap();
        let Mounted { mount, .. } = mounted.into_iter().find(|one| one.v2 && one.own.is_some())?;
        Some(Self { program, user: None, slice: None, tasks: None, mount })
    }

    /// systemd-run(1), and what to tell it so that it becomes `program` in a new scope.
    pub(crate) fn command(&self, unit: &str, program: &Path) -> (&Path, Vec<OsString>) {
        let mut args = ["--quiet", "--no-ask-password", "--scope", "--collect"].map(OsString::from).to_vec();
        args.extend(self.user.map(|_| "--user".into()));
        args.extend(self.slice.as_ref().map(|slice| format!("--slice={slice}").into()));
        args.push(format!("--unit={unit}").into());
        args.push("--description=Sandboxes of tool calls".into());
        args.push("--property=Delegate=yes".into());
        let tasks = self.tasks.map_or("infinity".into(), |most| most.to_string());
        args.push(format!("--property=TasksMax={tasks}").into());
        args.extend(["--".into(), program.into()]);
        (&self.program, args)
    }

    /// Where it finds whom to ask.
    pub(crate) fn runtime_dir(&self) -> Option<String> {
        self.user.map(|user| format!("/run/user/{user}"))
    }

    /// Where the hierarchy is mounted.
    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// What to try by hand, for who wants to know why there is none.
    pub(crate) fn hint(&self) -> String {
        let user = if self.user.is_some() { "--user " } else { "" };
        format!("`systemd-run {user}--scope --property=Delegate=yes true` says why")
    }
}

/// Where a scope lies beside ours.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The slice; `None`: the manager's own choice.
    slice: Option<String>,
    /// How many of the cgroups that we are in it is not in: ours, and those right above.
    left: usize,
}

/// `None` if `own` is no scope, or there is none to be had that is under the same limits but for those that can be looked at.
fn place(own: &Path, user: u32) -> Option<Place> {
    let names: Vec<&str> = own.iter().map(|name| name.to_str()).collect::<Option<_>>()?;
    let (_, above) = names.split_last().filter(|(own, _)| own.ends_with(".scope"))?;
    let manager = above.iter().position(|name| name.starts_with("user@"));
    let of_user = manager.filter(|at| above[*at] == format!("user@{user}.service"));
    match (user, of_user) {
        // His manager's.
        (1.., Some(at)) => match &above[at + 1..] {
            [] => Some(Place { slice: None, left: 1 }),
            slices => Some(Place { slice: Some(last_slice(slices)?), left: 1 }),
        },
        // A session: his manager is beside it, in the same slice.
        (1.., None) => {
            let slice = last_slice(above)?;
            (slice == format!("user-{user}.slice")).then_some(Place { slice: None, left: 1 })
        }
        // The machine's manager makes none in what it has delegated to a user's.
        (0, _) => {
            let at = manager.unwrap_or(above.len());
            Some(Place { slice: Some(last_slice(&above[..at])?), left: names.len() - at })
        }
    }
}

/// The last of these slices, below each other as their names say (systemd.slice(5)): `a-b.slice` lies in `a.slice`.
fn last_slice(path: &[&str]) -> Option<String> {
    let last = path.last()?;
    let parts: Vec<&str> = last.strip_suffix(".slice")?.split('-').collect();
    let is_so = parts.len() == path.len()
        && path.iter().zip(1..).all(|(name, depth)| *name == format!("{}.slice", parts[..depth].join("-")));
    is_so.then(|| (*last).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn it_lies_in_the_slice_that_we_are_in() {
        let of = |own: &str, user| place(Path::new(own), user).map(|place| (place.slice, place.left));
        let in_slice = |slice: &str, left| Some((Some(slice.to_owned()), left));
        assert_eq!(of("user.slice/user-0.slice/session-1.scope", 0), in_slice("user-0.slice", 1), "root");
        assert_eq!(of("user.slice/user-7.slice/session-1.scope", 0), in_slice("user-7.slice", 1), "sudo");
        assert_eq!(of("user.slice/user-7.slice/session-1.scope", 7), Some((None, 1)), "logged in");
        let terminal = "user.slice/user-7.slice/user@7.service/app.slice/app-x.slice/tab-1.scope";
        assert_eq!(of(terminal, 7), in_slice("app-x.slice", 1), "a terminal");
        assert_eq!(of(terminal, 0), in_slice("user-7.slice", 4), "sudo in a terminal");
        assert_eq!(of("user.slice/user-7.slice/user@7.service/init.scope", 7), Some((None, 1)));
        for (own, user) in [
            ("system.slice/agent.service", 0),
            ("user.slice/user-7.slice/user@7.service/app.slice/agent.service", 7),
            ("user.slice/user-7.slice/user@7.service/app.slice/agents.service/job-1.scope", 7),
            ("user.slice/user-7.slice/user@7.service/agents.service/deleg.slice/job-1.scope", 7),
            ("system.slice/docker.service/kube.slice/x.scope", 0),
            ("user.slice/user-0.slice/session-1.scope", 7),
            (terminal, 8),
            ("machine.slice/libpod-1.scope/container", 0),
            ("init.scope", 0),
            ("", 0),
        ] {
            assert_eq!(of(own, user), None, "{own}");
        }
    }

    /// A machine with systemd, where we are in a session.
    struct Machine(tempfile::TempDir, Vec<UnixListener>);

    const SESSION: &str = "/sys/fs/cgroup/user.slice/user-7.slice/session-1.scope";

    impl Machine {
        fn new() -> Self {
            let mut machine = Self(tempfile::tempdir().unwrap(), Vec::new());
            let mount = "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
            machine.write("/proc/self/mountinfo", mount);
            machine.write("/proc/self/cgroup", "0::/user.slice/user-7.slice/session-1.scope\n");
            machine.write("/proc/1/cgroup", "0::/init.scope\n");
            machine.write("/usr/bin/systemd-run", "");
            machine.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
            for limit in ["memory.max", "memory.high"] {
                machine.write(&format!("{SESSION}/{limit}"), "max\n");
            }
            machine.write(&format!("{SESSION}/cpu.max"), "max 100000\n");
            machine.write(&format!("{SESSION}/cpuset.cpus"), "\n");
            fs::create_dir_all(machine.path("/run/systemd/system")).unwrap();
            for manager in ["/run/systemd/private", "/run/user/7/systemd/private"] {
                let path = machine.path(manager);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                machine.1.push(UnixListener::bind(path).unwrap());
            }
            machine
        }

        fn path(&self, absolute: &str) -> PathBuf {
            self.0.path().join(absolute.trim_start_matches('/'))
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn find(&self, user: u32) -> Option<Scope> {
            let system = System::fake(self.0.path().to_owned(), |_| unreachable!(), |_| unreachable!());
            Scope::beside_us(&system, user)
        }
    }

    #[test]
    fn who_is_logged_in_can_ask_for_one() {
        let machine = Machine::new();
        let scope = machine.find(7).unwrap();
        assert_eq!(scope.runtime_dir().as_deref(), Some("/run/user/7"));
        assert_eq!(scope.mount(), machine.path("/sys/fs/cgroup"));
        let (program, args) = scope.command("run-tool-1", Path::new("/proc/self/fd/1"));
        assert_eq!(program, Path::new("/usr/bin/systemd-run"));
        assert!(
            args.contains(&"--user".into()) && args.ends_with(&["--".into(), "/proc/self/fd/1".into()]),
            "{args:?}"
        );

        assert!(args.contains(&"--property=TasksMax=infinity".into()), "{args:?}");

        machine.write(&format!("{SESSION}/pids.max"), "4915\n");
        let scope = machine.find(0).unwrap();
        assert_eq!(scope.runtime_dir(), None);
        let (_, args) = scope.command("run-tool-1", Path::new("/x"));
        assert!(
            args.contains(&"--slice=user-7.slice".into()) && !args.contains(&"--user".into()),
            "{args:?}"
        );
    }

    #[test]
    fn without_systemd_or_under_limits_there_is_none() {
        let without = |file: &str| {
            let machine = Machine::new();
            let path = machine.path(file);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
            machine.find(7)
        };
        let controllers = "/sys/fs/cgroup/cgroup.controllers";
        for file in
            ["/run/systemd/system", "/run/user/7/systemd/private", "/usr/bin/systemd-run", controllers]
        {
            assert_eq!(without(file), None, "without {file}");
        }
        assert!(without(&format!("{SESSION}/cpuset.cpus")).is_some(), "what is not there limits nothing");
        for (file, text) in
            [("memory.max", "1000\n"), ("cpu.max", "50000 100000\n"), ("cpuset.cpus", "0-1\n")]
        {
            let machine = Machine::new();
            machine.write(&format!("{SESSION}/{file}"), text);
            assert_eq!(machine.find(7), None, "{file}");
        }
        let machine = Machine::new();
        machine
            .write("/proc/self/cgroup", "0::/user.slice/user-7.slice/user@7.service/app.slice/tab-1.scope\n");
        assert!(machine.find(0).is_some(), "sudo");
        machine.write("/sys/fs/cgroup/user.slice/user-7.slice/user@7.service/memory.max", "1000\n");
        assert_eq!(machine.find(0), None, "it would be left");
        assert!(machine.find(7).is_some(), "it holds for the scope, too");
        let machine = Machine::new();
        machine.write("/proc/1/cgroup", "0::/user.slice/user-7.slice/session-1.scope\n");
        assert_eq!(machine.find(7), None, "in a process id namespace");
        let machine = Machine::new();
        machine.write("/proc/self/cgroup", "0::/system.slice/agent.service\n");
        assert_eq!(machine.find(0), None, "a service says itself what it may");
    }
}
