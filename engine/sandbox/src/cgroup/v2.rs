//! cgroup v2: a cgroup of ours is a folder in a subtree that was delegated to us.
//!
//! A cgroup that holds processes cannot hand its controllers down, and no process of the caller's is ever moved. So our
//! folder is made in one that holds none: the one that was given, or else the root of the hierarchy, or else the parent
//! of the cgroup that we are in, where somebody put us there in order to delegate it (systemd's `DelegateSubgroup=`, an
//! entrypoint in a container). Where there is none of these, systemd may make one: see [`scope`](super::scope).

use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};

use super::{
    CgroupError, Counters, NoCgroups,
    file::{self, number, set},
    kept::Kept,
    limits::{Limits, PERIOD},
    pool::{Group, LEFT_OVER, Place},
    stale::{self, Identity},
    system::{Mounted, System},
};

const HINT: &str = "have a cgroup delegated: systemd does that for who is logged in as himself (not by `su`); for a service put `Delegate=yes` and \
    `DelegateSubgroup=engine` (systemd 254) into its unit; in Docker start it with `--privileged --cgroupns=private` through \
    `sh -c 'mkdir /sys/fs/cgroup/engine && echo $$ >/sys/fs/cgroup/engine/cgroup.procs && exec \"$@\"' sh …`; or name a \
    delegated folder without processes, which root can make (`sudo`)";

/// Our folder in a delegated subtree.
#[derive(Debug)]
pub(super) struct Subtree {
    pub(super) folder: PathBuf,
    pub(super) has_cpu: bool,
    pub(super) system: System,
}

/// Makes our folder in `given`, or where one may be made.
pub(super) fn find(
    given: Option<&Path>,
    mounted: &[Mounted],
    identity: &Identity,
    system: &System,
) -> Result<Subtree, NoCgroups> {
    let none = |missing: String| NoCgroups { missing, hint: HINT.into() };
    let mut mounts = mounted.iter().filter(|one| one.v2);
    let (base, mount) = match given {
        Some(given) => {
            let folder =
                given.canonicalize().map_err(|error| none(format!("{}: {error}", given.display())))?;
            let mount = mounts
                .find(|one| folder.starts_with(&one.mount))
                .ok_or_else(|| none(format!("{} is in no mounted cgroup2 hierarchy", given.display())))?;
            (folder, mount)
        }
        None => {
            let mount = mounts.find(|one| one.own.is_some()).ok_or_else(|| NoCgroups {
                missing: "no cgroup2 hierarchy is mounted where we can see our place".into(),
                hint: "mount it (`mount -t cgroup2`), or in a container have it mounted".into(),
            })?;
            (delegated(mount).map_err(none)?, mount)
        }
    };
    let has_cpu = hand_down(&base).map_err(none)?;
    may_be_joined(&base, mount).map_err(none)?;
    stale::remove(&base, identity, system.rmdir);
    let folder = base.join(identity.folder_name());
    (system.mkdir)(&folder).map_err(|error| none(format!("{} cannot be made: {error}", folder.display())))?;
    let made = Subtree { folder, has_cpu, system: system.clone() };
    match hand_down(&made.folder) {
        Ok(has_cpu) => Ok(Subtree { has_cpu: has_cpu && made.has_cpu, ..made }),
        Err(missing) => {
            let _ = file::remove(&made.folder, system.rmdir);
            Err(none(missing))
        }
    }
}

/// The root of a hierarchy is a cgroup without limits, and may hold processes.
fn is_root(folder: &Path) -> bool {
    !folder.join("cgroup.type").exists()
}

/// Where we may make cgroups though nobody named a place.
fn delegated(mount: &Mounted) -> Result<PathBuf, String> {
    let below = mount.own.as_deref().unwrap_or(Path::new(""));
    let own = mount.mount.join(below);
    if is_root(&own) {
        return Ok(own);
    }
    let is_unit = |path: &Path| path.extension().is_some_and(|kind| kind == "service" || kind == "scope");
    let is_slice = |path: &Path| path.extension().is_some_and(|kind| kind == "slice");
    // Who puts us into a child of a unit, or of what a container sees as the root, does it in order to delegate that. Any
    // other parent is somebody else's, and tools in it would be free of the limits that are set on us.
    let parent = below.parent().filter(|parent| {
        !is_unit(below) && !is_slice(below) && (is_unit(parent) || parent.as_os_str().is_empty())
    });
    let parent = parent.map(|parent| mount.mount.join(parent)).filter(|parent| !is_root(parent));
    parent.ok_or_else(|| {
        format!(
            "the cgroup {} holds processes, ours among them, and cannot hand its controllers down",
            own.display()
        )
    })
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(|word| word.trim_start_matches('+').to_owned()).collect()
}

/// Has `folder` give its children the controllers for memory, pids and, if it can, cpu: whether it could.
fn hand_down(folder: &Path) -> Result<bool, String> {
    let there = words(&folder.join("cgroup.controllers"));
    if let Some(missing) = ["memory", "pids"].into_iter().find(|name| !there.iter().any(|has| has == name)) {
        return Err(format!("the cgroup {} has no {missing} controller", folder.display()));
    }
    let switch = folder.join("cgroup.subtree_control");
    let missing = |on: &[String]| -> Vec<&str> {
        let all = ["memory", "pids", "cpu"].into_iter();
        all.filter(|name| !on.iter().any(|on| on == name) && there.iter().any(|has| has == name)).collect()
    };
    let off = missing(&words(&switch));
    if !off.is_empty() {
        if !is_root(folder) && file::holds_processes(folder) {
            return Err(format!(
                "the cgroup {} holds processes, and cannot hand its controllers down",
                folder.display()
            ));
        }
        let all = off.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        set(&switch, &all)
            // One that cannot be had (cpu, beside real-time processes) must not take the others with it.
            .or_else(|_| {
                off.iter()
                    .filter(|name| **name != "cpu")
                    .try_for_each(|name| set(&switch, &format!("+{name}")))
            })
            .map_err(|error| error.to_string())?;
    }
    let on = words(&switch);
    match missing(&on).into_iter().find(|name| *name != "cpu") {
        Some(name) => {
            Err(format!("the cgroup {} does not hand its {name} controller down", folder.display()))
        }
        None => Ok(on.iter().any(|on| on == "cpu")),
    }
}

/// A process may only be moved by who may write to `cgroup.procs` of the closest cgroup that is above both places.
fn may_be_joined(base: &Path, mount: &Mounted) -> Result<(), String> {
    let own = mount.own.as_ref().map(|own| mount.mount.join(own));
    let common = own.as_ref().and_then(|own| base.ancestors().find(|above| own.starts_with(above)));
    let Some(common) = common.filter(|common| common.starts_with(&mount.mount)) else {
        return Err(format!("no cgroup that we can see is above both us and {}", base.display()));
    };
    let file = common.join("cgroup.procs");
    accessat(CWD, &file, Access::WRITE_OK, AtFlags::EACCESS).map_err(|errno| {
        format!("no process can be moved into {}: {}: {errno}", base.display(), file.display())
    })
}

impl Place for Subtree {
    fn make(&self, name: &str) -> Result<Box<dyn Group>, CgroupError> {
        let path = self.folder.join(name);
        (self.system.mkdir)(&path).map_err(|error| CgroupError::new("making the cgroup", &path, error))?;
        match Cgroup::open(&path) {
            Ok(group) => Ok(Box::new(group)),
            Err(error) => {
                let _ = file::remove(&path, self.system.rmdir);
                Err(error)
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.folder.clone()]
    }

    fn has_cpu(&self) -> bool {
        self.has_cpu
    }

    fn rmdir(&self) -> fn(&Path) -> io::Result<()> {
        self.system.rmdir
    }
}

#[derive(Debug)]
struct Cgroup {
    path: Arc<Path>,
    procs: Kept,
    /// `pids.current`, or where there is none `cgroup.events`.
    population: Population,
    cpu_stat: Option<Kept>,
    memory_events: Option<Kept>,
    memory_peak: Option<Kept>,
    pids_events: Option<Kept>,
    pids_peak: Option<Kept>,
}

#[derive(Debug)]
enum Population {
    Current(Kept),
    Events(Kept),
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, CgroupError> {
        let path: Arc<Path> = Arc::from(path);
        let read = |name: &'static str| Kept::optional(&path, name, OFlags::RDONLY);
        let off = |name: &str, text: &str| match set(&path.join(name), text) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // Not there without swap, and before Linux 4.19.
        off("memory.swap.max", "0")?;
        off("memory.oom.group", "1")?;
        Ok(Self {
            procs: Kept::needed(&path, "cgroup.procs", OFlags::WRONLY)?,
            population: match read("pids.current")? {
                Some(file) => Population::Current(file),
                None => Population::Events(Kept::needed(&path, "cgroup.events", OFlags::RDONLY)?),
            },
            cpu_stat: read("cpu.stat")?,
            memory_events: read("memory.events.local")?
                .map_or_else(|| read("memory.events"), |file| Ok(Some(file)))?,
            // Read-only before Linux 6.12.
            memory_peak: match Kept::optional(&path, "memory.peak", OFlags::RDWR) {
                Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => read("memory.peak")?,
                other => other?,
            },
            pids_events: read("pids.events")?,
            pids_peak: read("pids.peak")?,
            path,
        })
    }

    fn set(&self, name: &str, text: &str) -> Result<(), CgroupError> {
        set(&self.path.join(name), text)
    }
}

fn number_or_max(limit: Option<u64>) -> String {
    limit.map_or("max".into(), |limit| limit.to_string())
}

fn value(file: Option<&Kept>, key: &str) -> io::Result<Option<u64>> {
    let Some(file) = file else { return Ok(None) };
    file.values([key]).map(|[value]| value)
}

impl Group for Cgroup {
    fn limit(&self, before: &Limits, now: &Limits) -> Result<(), CgroupError> {
        if now.memory != before.memory {
            self.set("memory.max", &number_or_max(now.memory))?;
        }
        if now.pids != before.pids {
            self.set("pids.max", &number_or_max(now.pids.map(u64::from)))?;
        }
        if now.quota != before.quota {
            self.set("cpu.max", &format!("{} {PERIOD}", number_or_max(now.quota)))?;
        }
        Ok(())
    }

    fn join(&self) -> Vec<BorrowedFd<'_>> {
        self.procs.fd().into_iter().collect()
    }

    /// Not that of the peak of memory: a reset holds for whoever reads through the file that it was written to.
    fn files(&mut self) -> Vec<&mut Kept> {
        let (Population::Current(population) | Population::Events(population)) = &mut self.population;
        let optional =
            [&mut self.cpu_stat, &mut self.memory_events, &mut self.pids_events, &mut self.pids_peak];
        [&mut self.procs, population].into_iter().chain(optional.into_iter().flatten()).collect()
    }

    fn cpu(&self) -> io::Result<Option<Duration>> {
        let micros = value(self.cpu_stat.as_ref(), "usage_usec")?;
        Ok(micros.map(Duration::from_micros))
    }

    fn counters(&self) -> io::Result<Counters> {
        let cpu = match &self.cpu_stat {
            Some(file) => file.values(["usage_usec", "user_usec", "system_usec"])?,
            None => [None; 3],
        };
        let [cpu, cpu_user, cpu_system] = cpu.map(|micros| micros.map(Duration::from_micros));
        Ok(Counters {
            peak_memory: None,
            cpu,
            cpu_user,
            cpu_system,
            oom_kills: value(self.memory_events.as_ref(), "oom_kill")?,
            pids_max_hits: value(self.pids_events.as_ref(), "max")?,
            peak_pids: self.pids_peak.as_ref().map(Kept::number).transpose()?,
        })
    }

    fn peak_memory(&self) -> Option<u64> {
        self.memory_peak.as_ref()?.number().ok()
    }

    fn is_empty(&self) -> bool {
        match &self.population {
            Population::Current(file) => file.number().is_ok_and(|count| count == 0),
            Population::Events(file) => file.values(["populated"]).is_ok_and(|[value]| value == Some(0)),
        }
    }

    fn recycle(&self) -> bool {
        let left = match &self.memory_peak {
            // Whatever is written, after it this file's peak is what is still charged. An old kernel refuses to reset, and the peak of
            // the next one could not be told.
            Some(peak) => peak.write("0").ok().and_then(|()| peak.number().ok()),
            // No peak is told at all.
            None => file::open(&self.path.join("memory.current"), OFlags::RDONLY).and_then(number).ok(),
        };
        left.is_some_and(|left| left <= LEFT_OVER)
    }

    fn kill(&self) -> bool {
        // Since Linux 5.14.
        self.set("cgroup.kill", "1").is_ok()
    }

    fn processes(&self) -> Vec<u32> {
        file::processes(&self.path)
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.to_path_buf()]
    }
}
