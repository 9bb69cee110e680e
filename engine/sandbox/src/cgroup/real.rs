//! Against this machine's kernel: unprivileged processes join, are limited and counted; nothing stays behind.
//!
//! Without cgroups that can be written to (root on v1, a delegated subtree on v2) the tests are skipped and say so: run
//! with `--no-capture`. The parts of v2 that need controllers are tested on a tree of plain files beside this file.

use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{Timespec, poll};

use super::{
    Cgroup, CgroupVersion, Cgroups, System, file,
    pool::{Place, Pool},
    stale::Identity,
    v2::Subtree,
};
use crate::policy::ResourceLimits;

const NOBODY: u32 = 65534;

#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "still not: {what}");
        let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
    }
}

/// Kills what is left in the cgroups, so that they can be removed also when a test fails.
struct Engine(Cgroups);

impl std::ops::Deref for Engine {
    type Target = Cgroups;

    fn deref(&self) -> &Cgroups {
        &self.0
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while !kill_below(&self.0.folders()) && Instant::now() < end {
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
        }
    }
}

/// Whether nobody was there any more.
fn kill_below(folders: &[PathBuf]) -> bool {
    let mut nobody = true;
    for folder in folders {
        for child in
            fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            for pid in file::processes(&child.path()) {
                nobody = false;
                let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
        }
    }
    nobody
}

fn engine() -> Option<Engine> {
    if !rustix::process::geteuid().is_root() {
        say("skipped: starting processes as another user needs root");
        return None;
    }
    match Cgroups::find(None, &System::real()) {
        Ok(engine) => Some(Engine(engine)),
        Err(no) => {
            say(&format!("skipped: {}", no.missing));
            None
        }
    }
}

/// A shell of an unprivileged user, in the cgroup. Killed and reaped when it is dropped.
struct Tool(Child);

impl Tool {
    fn start(cgroup: &Cgroup, script: &str) -> Self {
        // Without close-on-exec, unlike the originals.
        let files: Vec<_> = cgroup.join().map(|file| rustix::io::dup(file).unwrap()).collect();
        let mut all = String::new();
        for file in &files {
            let number = std::os::fd::AsRawFd::as_raw_fd(file);
            write!(all, "echo 0 >&{number} || exit 99; exec {number}>&-; ").unwrap();
        }
        #[expect(clippy::disallowed_methods, reason = "a test that needs no launcher")]
        let mut command = Command::new("/bin/bash");
        command
            .arg("-c")
            .arg(all + "exec /bin/sh -c \"$0\"")
            .arg(script)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn limits() -> ResourceLimits {
    let memory = Some(64 << 20);
    ResourceLimits { memory, pids: Some(8), cpus: Some(1.0), ..ResourceLimits::default() }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// The file of this name in the only cgroup that there is.
fn in_only_cgroup(engine: &Cgroups, name: &str) -> PathBuf {
    let below = engine.folders().into_iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let mut found = below.map(|entry| entry.path().join(name)).filter(|path| path.exists());
    let first = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(found.next(), None);
    first
}

#[test]
fn an_unprivileged_process_joins_and_is_counted() {
    let Some(engine) = engine() else { return };
    let cgroup = engine.take(&limits()).unwrap();
    let mut tool = Tool::start(&cgroup, "sleep 60");
    wait_until("the process is in the cgroup", || cgroup.processes().contains(&tool.0.id()));
    wait_until("it has joined everywhere", || cgroup.cpu_used() > Some(Duration::ZERO));
    wait_until("memory was charged", || cgroup.counters().peak_memory > Some(0));
    let _ = tool.0.kill();
    assert_eq!(tool.code(), None, "it joined, so it did not exit by itself");
    let counters = cgroup.counters();
    assert!(counters.cpu.unwrap() > Duration::ZERO);
    assert!(counters.peak_memory.unwrap() > 0);
    assert_eq!((counters.oom_kills, counters.pids_max_hits), (Some(0), Some(0)));
}

#[test]
fn limits_are_in_force_and_their_hits_are_counted() {
    let Some(engine) = engine() else { return };
    let cgroup = engine.take(&limits()).unwrap();
    if engine.version() == CgroupVersion::V1 {
        assert_eq!(text(&in_only_cgroup(&engine, "memory.limit_in_bytes")), "67108864");
        assert_eq!(text(&in_only_cgroup(&engine, "cpu.cfs_quota_us")), "100000");
    }
    // Reads a line that has no end into memory.
    let mut hungry = Tool::start(&cgroup, "head -c 256M /dev/zero | tail -n 1");
    assert_ne!(hungry.code(), Some(0));
    let counters = cgroup.counters();
    assert!(counters.oom_kills.unwrap() > 0, "{counters:?}");
    assert!(counters.peak_memory.unwrap() <= 64 << 20, "{counters:?}");
    assert!(counters.peak_memory.unwrap() > 32 << 20, "{counters:?}");
    let mut many = Tool::start(&cgroup, "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done");
    assert_ne!(many.code(), Some(0));
    assert!(cgroup.counters().pids_max_hits.unwrap() > 0);
    if let Some(peak) = cgroup.counters().peak_pids {
        assert_eq!(peak, 8);
    }
}

#[test]
fn limits_can_be_raised_lowered_and_taken_away_from_one_to_the_next() {
    let Some(engine) = engine() else { return };
    for memory in [Some(64 << 20), Some(256 << 20), None, Some(16 << 20), None] {
        for cpus in [None, Some(0.25), Some(3.0)] {
            let limits = ResourceLimits { memory, cpus, ..limits() };
            drop(engine.take(&limits).unwrap());
            assert_eq!((engine.taken(), engine.pooled(), engine.quarantined()), (0, 1, 0), "{limits:?}");
        }
    }
}

#[test]
fn a_used_cgroup_counts_from_zero_again_and_no_file_stays_open() {
    let Some(engine) = engine() else { return };
    // Of this engine: other tests of this process have their own.
    let ours = engine.folders();
    let is_ours = |file: PathBuf| ours.iter().any(|folder| file.starts_with(folder));
    let targets = || fs::read_dir("/proc/self/fd").unwrap().flatten().map(|fd| fs::read_link(fd.path()));
    let open_files = || targets().flatten().filter(|file| is_ours(file.clone())).count();
    drop(engine.take(&limits()).unwrap());
    let before = open_files();
    for _ in 0..20 {
        let cgroup = engine.take(&limits()).unwrap();
        let counters = cgroup.counters();
        assert_eq!(counters.cpu, Some(Duration::ZERO), "{counters:?}");
        assert!(counters.peak_memory.is_none_or(|peak| peak <= 1 << 20), "{counters:?}");
        assert_eq!(Tool::start(&cgroup, "exit 7").code(), Some(7));
        assert!(cgroup.counters().cpu > Some(Duration::ZERO));
    }
    engine.tidy();
    assert_eq!(engine.quarantined(), 0);
    assert!(before > 0 && open_files() <= before);
}

#[test]
fn one_with_much_left_in_it_is_not_used_again() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let cgroup = engine.take(&limits()).unwrap();
    let file = folder.path().join("big");
    fs::File::create(&file).unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(Tool::start(&cgroup, &format!("head -c 8M /dev/zero >{}", file.display())).code(), Some(0));
    drop(cgroup);
    assert_eq!((engine.pooled(), engine.quarantined()), (0, 1));
    engine.tidy();
    assert_eq!(engine.quarantined(), 0, "the files it wrote do not keep it");
}

#[test]
fn one_that_is_not_empty_is_kept_aside_until_it_is() {
    let Some(engine) = engine() else { return };
    let cgroup = engine.take(&limits()).unwrap();
    let mut tool = Tool::start(&cgroup, "setsid sleep 60 & wait");
    wait_until("both are in the cgroup", || cgroup.processes().len() == 2);
    let both = cgroup.processes();
    drop(cgroup);
    engine.tidy();
    assert_eq!((engine.taken(), engine.pooled(), engine.quarantined()), (0, 0, 1));
    assert!(both.contains(&tool.0.id()));
    wait_until("it is empty", || kill_below(&engine.folders()));
    let _ = tool.code();
    wait_until("it is removed", || {
        engine.tidy();
        engine.quarantined() == 0
    });
}

#[test]
fn engines_of_one_process_do_not_meet_and_leave_nothing() {
    let (Some(one), Some(other)) = (engine(), engine()) else { return };
    let folders = [one.folders(), other.folders()].concat();
    let unique: std::collections::HashSet<_> = folders.iter().collect();
    assert_eq!(unique.len(), folders.len());
    let cgroup = other.take(&limits()).unwrap();
    // A tool may have made cgroups itself.
    fs::create_dir(other.folders()[0].join("0/made-by-the-tool")).unwrap();
    let clone = other.0.clone();
    drop((one, other));
    assert!(clone.folders().iter().all(|folder| folder.exists()), "somebody still has it");
    drop(clone);
    drop(cgroup);
    assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
}

#[test]
fn threads_share_an_engine() {
    let Some(engine) = engine() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for _ in 0..10 {
                    let limits = ResourceLimits { pids: Some(8 + thread), ..limits() };
                    let cgroup = engine.take(&limits).unwrap();
                    assert_eq!(Tool::start(&cgroup, "exit 7").code(), Some(7));
                    assert!(cgroup.counters().cpu > Some(Duration::ZERO));
                }
            });
        }
    });
    engine.tidy();
    assert_eq!((engine.taken(), engine.quarantined()), (0, 0));
    assert!((1..=4).contains(&engine.pooled()));
}

#[test]
fn one_that_vanished_is_replaced() {
    let Some(engine) = engine() else { return };
    for folder in engine.folders() {
        fs::remove_dir(folder.join("0")).unwrap();
    }
    let cgroup = engine.take(&limits()).unwrap();
    assert_eq!(Tool::start(&cgroup, "exit 3").code(), Some(3));
}

#[test]
fn folders_of_a_dead_engine_are_removed_by_the_next() {
    let Some(first) = engine() else { return };
    let own = Identity::new().unwrap();
    let dead = own.with_pid(i32::MAX).folder_name();
    let left: Vec<PathBuf> = first.folders().iter().map(|folder| folder.with_file_name(&dead)).collect();
    for folder in &left {
        // Any engine that starts meanwhile, in another test, removes it.
        let _ = fs::create_dir_all(folder.join("0"));
    }
    let _second = engine();
    assert!(left.iter().all(|folder| !folder.exists()), "{left:?}");
    assert!(first.folders().iter().all(|folder| folder.exists()), "the living one's stay");
}

/// cgroup2 without controllers, as it is mounted beside v1, or any that may be written to.
#[test]
fn cgroup_kill_reaches_what_left_the_session() {
    let mounted = System::real().hierarchies().unwrap();
    let Some(mount) = mounted.into_iter().find(|one| one.v2 && one.own.is_some()) else {
        say("skipped: no cgroup2 is mounted");
        return;
    };
    let base = mount.mount.join(mount.own.unwrap());
    let folder = base.join(Identity::new().unwrap().folder_name());
    if let Err(error) = fs::create_dir(&folder) {
        say(&format!("skipped: {}: {error}", folder.display()));
        return;
    }
    let place: Box<dyn Place> = Box::new(Subtree { folder, has_cpu: false, system: System::real() });
    let engine =
        Engine(Cgroups { version: CgroupVersion::V2, pool: Pool::new(place, 20_000).unwrap().into() });
    let cgroup = engine.take(&ResourceLimits::default()).unwrap();
    if !in_only_cgroup(&engine, "cgroup.procs").with_file_name("cgroup.kill").exists() {
        say("skipped: this kernel has no cgroup.kill");
        return;
    }
    let mut tool = Tool::start(&cgroup, "setsid sleep 60 & exec sleep 60");
    wait_until("both are in the cgroup", || cgroup.processes().len() == 2);
    assert!(cgroup.kill());
    assert_eq!(tool.code(), None, "killed");
    wait_until("the other one is dead", || cgroup.processes().is_empty());
    assert!(cgroup.counters().cpu > Some(Duration::ZERO));
    assert_eq!(cgroup.counters().peak_memory, None, "there is no such controller");
}
