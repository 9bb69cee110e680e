//! cgroup v1: a cgroup of ours is one folder in each hierarchy that has a controller we use.
//!
//! A process joins by writing `0` to `tasks`, which moves the writing thread: the first process of a tool does it while
//! it has one thread. `pids` comes first, so that whoever is in any of the folders is in that of `pids` as well, and
//! `pids.current` alone tells whether somebody is left.

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::OFlags;

use super::{
    CgroupError, Counters, NoCgroups,
    file::{self, number, set},
    kept::Kept,
    limits::Limits,
    pool::{Group, LEFT_OVER, Place},
    stale::{self, Identity},
    system::{Mounted, System},
};

/// Our folder in each hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchies {
    /// `pids` first.
    folders: Vec<Folder>,
    has_cpu: bool,
    system: System,
}

#[derive(Clone, Debug)]
struct Folder {
    path: PathBuf,
    controllers: Vec<String>,
}

impl Folder {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// Makes our folders where they can be made: memory and pids there must be, cpu and cpuacct may be.
pub(super) fn find(
    mounted: &[Mounted],
    identity: &Identity,
    system: &System,
) -> Result<Hierarchies, NoCgroups> {
    let mut found = Hierarchies { folders: Vec::new(), has_cpu: false, system: system.clone() };
    for (controller, needed) in [("pids", true), ("memory", true), ("cpu", false), ("cpuacct", false)] {
        if found.folders.iter().any(|folder| folder.has(controller)) {
            continue;
        }
        match make_folder(controller, mounted, identity, system) {
            Ok(folder) => found.folders.push(folder),
            Err(missing) if needed => {
                found.undo(&found.folders());
                return Err(missing);
            }
            Err(missing) => tracing::debug!("{}", missing.missing),
        }
    }
    found.has_cpu = found.folders.iter().any(|folder| folder.has("cpu"));
    Ok(found)
}

fn make_folder(
    controller: &str,
    mounted: &[Mounted],
    identity: &Identity,
    system: &System,
) -> Result<Folder, NoCgroups> {
    let mut last = NoCgroups {
        missing: format!(
            "no v1 hierarchy of the {controller} controller is mounted where we can see our place"
        ),
        hint: "mount it (`mount -t cgroup`), or use a machine with cgroup v2".into(),
    };
    for one in mounted.iter().filter(|one| one.controllers.iter().any(|name| name == controller)) {
        let Some(own) = &one.own else { continue };
        let base = one.mount.join(own);
        let path = base.join(identity.folder_name());
        stale::remove(&base, identity, system.rmdir);
        match (system.mkdir)(&path) {
            Ok(()) => {
                // Children inherit it, and would start somebody's program when they become empty.
                let _ = set(&path.join("notify_on_release"), "0");
                if controller == "memory" {
                    keep_in_hierarchy(&path);
                }
                return Ok(Folder { path, controllers: one.controllers.clone() });
            }
            Err(error) => {
                last = NoCgroups {
                    missing: format!("{} cannot be made: {error}", path.display()),
                    hint:
                        "start it as root (`sudo`), or let root give you that folder (`chown`); in Docker: \
                           `--privileged`, for else the hierarchies are read-only"
                            .into(),
                };
            }
        }
    }
    Err(last)
}

/// Before Linux 5.11, what is in a folder counts against the limits of those above it only if this is set.
fn keep_in_hierarchy(folder: &Path) {
    let switch = folder.join("memory.use_hierarchy");
    let is_off = |path: &Path| file::open(path, OFlags::RDONLY).and_then(number).is_ok_and(|on| on == 0);
    if !is_off(&switch) {
        return;
    }
    let _ = set(&switch, "1");
    tracing::warn!(folder = %folder.display(), "limits of the cgroup that we are in do not hold for tools here");
}

impl Place for Hierarchies {
    fn make(&self, name: &str) -> Result<Box<dyn Group>, CgroupError> {
        let mut made = Vec::with_capacity(self.folders.len());
        for folder in &self.folders {
            let path = folder.path.join(name);
            if let Err(error) = (self.system.mkdir)(&path) {
                self.undo(&made);
                return Err(CgroupError::new("making the cgroup", &path, error));
            }
            made.push(path);
        }
        match Cgroup::open(&self.folders, &made) {
            Ok(group) => Ok(Box::new(group)),
            Err(error) => {
                self.undo(&made);
                Err(error)
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.path.clone()).collect()
    }

    fn has_cpu(&self) -> bool {
        self.has_cpu
    }

    fn rmdir(&self) -> fn(&Path) -> io::Result<()> {
        self.system.rmdir
    }
}

impl Hierarchies {
    fn undo(&self, made: &[PathBuf]) {
        for path in made {
            let _ = file::remove(path, self.system.rmdir);
        }
    }
}

/// One folder in each hierarchy, with the files that every use needs.
#[derive(Debug)]
struct Cgroup {
    folders: Vec<Arc<Path>>,
    /// For each folder.
    tasks: Vec<Kept>,
    memory: Arc<Path>,
    /// Memory and swap together are limited as well; without it a tool could swap.
    memsw: bool,
    /// The folder in the hierarchy of the cpu controller.
    cpu: Option<Arc<Path>>,
    pids_current: Kept,
    pids_events: Option<Kept>,
    pids_peak: Option<Kept>,
    max_usage: Kept,
    oom_control: Kept,
    /// Nanoseconds on processors.
    usage: Option<Kept>,
    /// The same in user mode and in the kernel, but in timer ticks that happened to fall there.
    sampled: Option<[Kept; 2]>,
    pids: Arc<Path>,
}

impl Cgroup {
    fn open(hierarchies: &[Folder], folders: &[PathBuf]) -> Result<Self, CgroupError> {
        let folders: Vec<Arc<Path>> = folders.iter().map(|path| Arc::from(path.as_path())).collect();
        let of = |controller: &str| {
            hierarchies
                .iter()
                .zip(&folders)
                .find(|(folder, _)| folder.has(controller))
                .map(|(_, path)| Arc::clone(path))
        };
        let needed = |controller: &str| {
            of(controller)
                .ok_or_else(|| CgroupError::new("looking for", controller, io::ErrorKind::NotFound.into()))
        };
        let (memory, pids) = (needed("memory")?, needed("pids")?);
        let oom_control = Kept::needed(&memory, "memory.oom_control", OFlags::RDWR)?;
        // Inherited from above: at its limit a tool would then wait for ever instead of being killed.
        if let Ok([Some(1)]) = oom_control.values(["oom_kill_disable"]) {
            oom_control.write("0").map_err(|error| {
                CgroupError::new("writing \"0\" to", memory.join("memory.oom_control"), error)
            })?;
        }
        let memsw = memory.join("memory.memsw.limit_in_bytes").exists();
        if !memsw {
            let _ = set(&memory.join("memory.swappiness"), "0");
        }
        let cpuacct = of("cpuacct");
        let time = |name: &'static str| match &cpuacct {
            Some(path) => Kept::optional(path, name, OFlags::RDONLY),
            None => Ok(None),
        };
        let tasks = folders.iter().map(|path| Kept::needed(path, "tasks", OFlags::WRONLY));
        Ok(Self {
            tasks: tasks.collect::<Result<_, _>>()?,
            memsw,
            cpu: of("cpu"),
            pids_current: Kept::needed(&pids, "pids.current", OFlags::RDONLY)?,
            pids_events: Kept::optional(&pids, "pids.events", OFlags::RDONLY)?,
            pids_peak: Kept::optional(&pids, "pids.peak", OFlags::RDONLY)?,
            max_usage: Kept::needed(&memory, "memory.max_usage_in_bytes", OFlags::RDWR)?,
            oom_control,
            usage: time("cpuacct.usage")?,
            sampled: time("cpuacct.usage_user")?
                .zip(time("cpuacct.usage_sys")?)
                .map(|(user, system)| [user, system]),
            folders,
            memory,
            pids,
        })
    }

    /// Memory alone may never be allowed more than memory and swap together: raised from above, lowered from below.
    fn limit_memory(&self, before: Option<u64>, now: Option<u64>) -> Result<(), CgroupError> {
        let text = now.map_or("-1".into(), |bytes| bytes.to_string());
        let mut files = vec!["memory.limit_in_bytes"];
        if self.memsw {
            files.push("memory.memsw.limit_in_bytes");
        }
        if now.unwrap_or(u64::MAX) > before.unwrap_or(u64::MAX) {
            files.reverse();
        }
        files.into_iter().try_for_each(|name| set(&self.memory.join(name), &text))
    }

    fn limit_cpu(&self, quota: Option<u64>) -> Result<(), CgroupError> {
        let Some(cpu) = &self.cpu else { return Ok(()) };
        let file = cpu.join("cpu.cfs_quota_us");
        let unlimited = "-1";
        match quota {
            None => set(&file, unlimited),
            Some(quota) => set(&file, &quota.to_string()).or_else(|error| {
                // A cgroup above us has less: then its quota is the one that holds.
                if error.source.kind() == io::ErrorKind::InvalidInput {
                    set(&file, unlimited)
                } else {
                    Err(error)
                }
            }),
        }
    }
}

fn nanoseconds(file: Option<&Kept>) -> io::Result<Option<Duration>> {
    Ok(file.map(Kept::number).transpose()?.map(Duration::from_nanos))
}

impl Group for Cgroup {
    fn limit(&self, before: &Limits, now: &Limits) -> Result<(), CgroupError> {
        if now.memory != before.memory {
            self.limit_memory(before.memory, now.memory)?;
        }
        if now.pids != before.pids {
            let text = now.pids.map_or("max".into(), |pids| pids.to_string());
            set(&self.pids.join("pids.max"), &text)?;
        }
        if now.quota != before.quota {
            self.limit_cpu(now.quota)?;
        }
        Ok(())
    }

    fn join(&self) -> Vec<BorrowedFd<'_>> {
        self.tasks.iter().filter_map(Kept::fd).collect()
    }

    fn files(&mut self) -> Vec<&mut Kept> {
        let needed = [&mut self.pids_current, &mut self.max_usage, &mut self.oom_control];
        let optional = [&mut self.pids_events, &mut self.pids_peak, &mut self.usage];
        let tasks = self.tasks.iter_mut().chain(needed);
        tasks.chain(optional.into_iter().flatten()).chain(self.sampled.iter_mut().flatten()).collect()
    }

    fn cpu(&self) -> io::Result<Option<Duration>> {
        nanoseconds(self.usage.as_ref())
    }

    fn counters(&self) -> io::Result<Counters> {
        let [user, system] = self.sampled.as_ref().map_or([None; 2], |files| files.each_ref().map(Some));
        let [oom_kills] = self.oom_control.values(["oom_kill"])?;
        let hits = self.pids_events.as_ref().map(|file| file.values(["max"])).transpose()?;
        Ok(Counters {
            peak_memory: None,
            cpu: self.cpu()?,
            cpu_user: nanoseconds(user)?,
            cpu_system: nanoseconds(system)?,
            oom_kills,
            pids_max_hits: hits.and_then(|[hits]| hits),
            peak_pids: self.pids_peak.as_ref().map(Kept::number).transpose()?,
        })
    }

    fn peak_memory(&self) -> Option<u64> {
        self.max_usage.number().ok()
    }

    fn is_empty(&self) -> bool {
        self.pids_current.number().is_ok_and(|count| count == 0)
    }

    fn recycle(&self) -> bool {
        // After the reset the peak is what is still charged.
        self.max_usage.write("0").is_ok() && self.peak_memory().is_some_and(|left| left <= LEFT_OVER)
    }

    /// There is only the freezer, and what is frozen cannot be killed.
    fn kill(&self) -> bool {
        false
    }

    fn processes(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.folders.iter().flat_map(|folder| file::processes(folder)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.to_path_buf()).collect()
    }
}
