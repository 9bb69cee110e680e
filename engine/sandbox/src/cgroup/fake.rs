//! v2 against a tree of plain files: where cgroups are made and where not, what is written, read and removed. What the
//! kernel makes of it, it does not show.

mod many;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{CgroupVersion, Cgroups, Counters, NoCgroups, System};
use crate::policy::ResourceLimits;

/// In the root of a tree whose kernel refuses to reset a peak.
const OLD_KERNEL: &str = "old-kernel";

/// A machine with one cgroup2 hierarchy at `/sys/fs/cgroup`.
struct Tree(tempfile::TempDir);

impl Tree {
    /// We are in `own`, which holds our process, below a root with all controllers.
    fn new(own: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.path("/proc/self")).unwrap();
        fs::create_dir_all(tree.path("/sys/fs/cgroup")).unwrap();
        let mount = "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        fs::write(tree.path("/proc/self/mountinfo"), mount).unwrap();
        fs::write(tree.path("/proc/self/cgroup"), format!("0::{own}\n")).unwrap();
        tree.write("", "cgroup.controllers", "cpu memory pids");
        tree.write("", "cgroup.subtree_control", "cpu memory pids");
        tree.write("", "cgroup.procs", "");
        tree
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(absolute.trim_start_matches('/'))
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        self.path(&format!("/sys/fs/cgroup/{path}"))
    }

    fn write(&self, cgroup: &str, file: &str, text: &str) {
        fs::write(self.cgroup(cgroup).join(file), format!("{text}\n").trim_start()).unwrap();
    }

    /// A cgroup that hands nothing down yet.
    fn make(&self, cgroup: &str) -> PathBuf {
        mkdir(&self.cgroup(cgroup)).unwrap();
        self.cgroup(cgroup)
    }

    /// A cgroup that hands all it has down, with us in its child.
    fn make_with_us_below(&self, cgroup: &str, child: &str) {
        let folder = self.make(cgroup);
        fs::copy(folder.join("cgroup.controllers"), folder.join("cgroup.subtree_control")).unwrap();
        let own = format!("{cgroup}/{child}");
        self.make(&own);
        self.write(&own, "cgroup.procs", "42");
    }

    fn system(&self) -> System {
        System::fake(self.path("/"), mkdir, rmdir)
    }

    fn find(&self, given: Option<&str>) -> Result<Cgroups, NoCgroups> {
        Cgroups::find(given.map(|cgroup| self.cgroup(cgroup)).as_deref(), &self.system())
    }

    /// Everything that was made by us.
    fn ours(&self, cgroup: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cgroup(cgroup)).unwrap().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().contains("run-tool."))
            .collect()
    }
}

/// As the kernel does: what the parent hands down is there.
fn mkdir(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    let parent = path.parent().unwrap();
    let controllers = fs::read_to_string(parent.join("cgroup.subtree_control"))?.replace('+', "");
    let mut files = vec![
        ("cgroup.type", "domain\n"),
        ("cgroup.procs", ""),
        ("cgroup.subtree_control", "\n"),
        ("cgroup.controllers", &controllers),
        ("cgroup.events", "populated 0\nfrozen 0\n"),
        ("cgroup.kill", ""),
        ("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n"),
    ];
    if controllers.contains("memory") {
        files.push(("memory.max", "max\n"));
        files.push(("memory.swap.max", "max\n"));
        files.push(("memory.oom.group", "0\n"));
        files.push(("memory.events.local", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"));
        if path.ancestors().any(|above| above.join(OLD_KERNEL).exists()) {
            // What is written there is refused.
            symlink("/dev/full", path.join("memory.peak"))?;
        } else {
            files.push(("memory.peak", "0\n"));
        }
    }
    if controllers.contains("pids") {
        files.extend([
            ("pids.max", "max\n"),
            ("pids.current", "0\n"),
            ("pids.peak", "0\n"),
            ("pids.events", "max 0\n"),
        ]);
    }
    if controllers.contains("cpu") {
        files.push(("cpu.max", "max 100000\n"));
    }
    files.iter().try_for_each(|(name, text)| fs::write(path.join(name), text))
}

/// As the kernel does: not while a process or a cgroup is in it.
fn rmdir(path: &Path) -> io::Result<()> {
    let has_cgroups = fs::read_dir(path)?.flatten().any(|entry| entry.path().is_dir());
    if has_cgroups || !fs::read(path.join("cgroup.procs"))?.is_empty() {
        return Err(rustix::io::Errno::BUSY.into());
    }
    fs::remove_dir_all(path)
}

fn first_line(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap().lines().next().unwrap_or_default().to_owned()
}

fn limits() -> ResourceLimits {
    let memory = Some(64 << 20);
    ResourceLimits { memory, pids: Some(16), cpus: Some(0.5), ..ResourceLimits::default() }
}

/// The only cgroup of an engine.
fn only(engine: &Cgroups) -> PathBuf {
    let folders = engine.folders();
    let [folder] = folders.as_slice() else { panic!("one folder in v2: {folders:?}") };
    let mut cgroups = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).filter(|path| path.is_dir());
    let first = cgroups.next().unwrap();
    assert_eq!(cgroups.next(), None);
    first
}

fn service() -> Tree {
    let tree = Tree::new("/a.service/engine");
    tree.make_with_us_below("a.service", "engine");
    tree
}

#[test]
fn in_a_child_of_a_delegated_unit_cgroups_are_made_beside_us() {
    let tree = service();
    tree.write("a.service", "cgroup.subtree_control", "");
    let engine = tree.find(None).unwrap();
    assert_eq!(engine.version(), CgroupVersion::V2);
    assert!(engine.can_limit_cpus());
    assert_eq!(engine.folders(), tree.ours("a.service"));
    assert_eq!(first_line(tree.cgroup("a.service").join("cgroup.subtree_control")), "+memory +pids +cpu");

    let cgroup = engine.take(&limits()).unwrap();
    let folder = only(&engine);
    let written = ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"]
        .map(|name| first_line(folder.join(name)));
    assert_eq!(written, ["67108864", "0", "1", "16", "50000 100000"]);
    assert_eq!(cgroup.join().count(), 1);
    assert!(cgroup.kill());
    assert_eq!(first_line(folder.join("cgroup.kill")), "1");

    drop(cgroup);
    drop(engine);
    assert_eq!(tree.ours("a.service"), [] as [PathBuf; 0]);
}

#[test]
fn a_container_that_put_us_into_a_child_of_its_root_has_delegated_it() {
    let tree = Tree::new("/engine");
    tree.write("", "cgroup.type", "domain");
    tree.make("engine");
    tree.write("engine", "cgroup.procs", "1");
    assert_eq!(tree.find(None).unwrap().folders(), tree.ours(""));
}

#[test]
fn the_root_of_a_machine_may_hold_processes() {
    let tree = Tree::new("/");
    tree.write("", "cgroup.procs", "1");
    tree.write("", "cgroup.subtree_control", "");
    assert_eq!(tree.find(None).unwrap().folders(), tree.ours(""));
}

#[test]
fn a_cgroup_that_holds_us_is_not_used_nor_one_that_is_somebody_elses() {
    let refused = |tree: &Tree, place: &str| {
        let error = tree.find(None).unwrap_err();
        assert!(error.missing.contains("holds processes"), "{}", error.missing);
        assert!(
            error.hint.contains("Delegate=yes") && error.hint.contains("DelegateSubgroup"),
            "{}",
            error.hint
        );
        assert_eq!(tree.ours(place), [] as [PathBuf; 0]);
    };
    let scope = Tree::new("/app.slice/run-1.scope");
    scope.make_with_us_below("app.slice", "run-1.scope");
    refused(&scope, "app.slice");
    let docker = Tree::new("/docker/1234");
    docker.make_with_us_below("docker", "1234");
    refused(&docker, "docker");
    let user = Tree::new("/user.slice");
    user.make("user.slice");
    refused(&user, "");
    // A unit that is delegated, but where somebody else is left beside the child that we are in.
    let crowded = service();
    crowded.write("a.service", "cgroup.subtree_control", "");
    crowded.write("a.service", "cgroup.procs", "77");
    refused(&crowded, "a.service");
}

#[test]
fn a_given_folder_is_used_or_refused_in_words() {
    let tree = Tree::new("/user.slice");
    tree.make("user.slice");
    tree.make("mine");
    assert_eq!(tree.find(Some("mine")).unwrap().folders().len(), 1);
    assert_eq!(tree.ours("mine"), [] as [PathBuf; 0], "the engine is dropped");

    let refused = |given: &str, why: &str| {
        let error = tree.find(Some(given)).unwrap_err();
        assert!(error.missing.contains(why), "{}", error.missing);
    };
    tree.make("full");
    tree.write("full", "cgroup.procs", "9");
    refused("full", "holds processes");
    tree.make("poor");
    tree.write("poor", "cgroup.controllers", "cpu pids");
    refused("poor", "no memory controller");
    refused("missing", "No such file");
    refused("../..", "in no mounted cgroup2");
    assert!(tree.ours("full").is_empty() && tree.ours("poor").is_empty());
}

#[test]
fn a_pooled_cgroup_counts_from_zero_and_is_written_only_where_it_differs() {
    let tree = service();
    let engine = tree.find(None).unwrap();
    let cgroup = engine.take(&limits()).unwrap();
    let folder = only(&engine);
    let set = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let run = |seconds: u64, kills: u64, hits: u64, peak: u64| {
        set("cpu.stat", &format!("usage_usec {seconds}000500\nuser_usec {seconds}000000\nsystem_usec 500\n"));
        set("memory.events.local", &format!("oom 9\noom_kill {kills}\noom_group_kill 9\n"));
        set("pids.events", &format!("max {hits}\n"));
        set("pids.peak", &format!("{peak}\n"));
        set("memory.peak", "5000000\n");
    };
    run(1, 1, 2, 3);
    let first = cgroup.counters();
    let expected = Counters {
        peak_memory: Some(5_000_000),
        cpu: Some(Duration::from_micros(1_000_500)),
        cpu_user: Some(Duration::from_secs(1)),
        cpu_system: Some(Duration::from_micros(500)),
        oom_kills: Some(1),
        pids_max_hits: Some(2),
        peak_pids: Some(3),
    };
    assert_eq!(first, expected);
    assert_eq!(cgroup.cpu_used(), Some(Duration::from_micros(1_000_500)));
    drop(cgroup);
    assert_eq!((engine.pooled(), engine.quarantined()), (1, 0));

    set("memory.max", "untouched\n");
    let cgroup = engine.take(&limits()).unwrap();
    assert_eq!(first_line(folder.join("memory.peak")), "0", "it was reset");
    assert_eq!(cgroup.counters().oom_kills, Some(0));
    assert_eq!(cgroup.counters().peak_pids, None, "the three may be the first one's");
    run(3, 1, 7, 4);
    let cpu = Some(Duration::from_secs(2));
    let second = Counters { cpu, cpu_user: cpu, cpu_system: Some(Duration::ZERO), ..first };
    let second = Counters { oom_kills: Some(0), pids_max_hits: Some(5), peak_pids: Some(4), ..second };
    assert_eq!(cgroup.counters(), second);
    drop(cgroup);

    let _other = engine.take(&ResourceLimits { pids: None, ..limits() }).unwrap();
    let written = ["memory.max", "pids.max"].map(|name| first_line(folder.join(name)));
    assert_eq!(written, ["untouched", "max"]);
    let _another = engine.take(&limits()).unwrap();
    assert_eq!((engine.taken(), engine.pooled()), (2, 0));
}

#[test]
fn where_a_peak_cannot_be_reset_a_cgroup_is_used_once() {
    let tree = service();
    fs::write(tree.path(OLD_KERNEL), "").unwrap();
    let engine = tree.find(None).unwrap();
    drop(engine.take(&limits()).unwrap());
    assert_eq!((engine.taken(), engine.pooled(), engine.quarantined()), (0, 0, 1));
    engine.tidy();
    assert_eq!(engine.quarantined(), 0);
    drop(engine.take(&limits()).unwrap());
}

#[test]
fn what_is_not_empty_is_kept_aside_until_it_is() {
    let tree = service();
    let engine = tree.find(None).unwrap();
    let cgroup = engine.take(&limits()).unwrap();
    let folder = only(&engine);
    fs::write(folder.join("pids.current"), "1\n").unwrap();
    fs::write(folder.join("cgroup.procs"), "1234\n0\n").unwrap();
    assert_eq!(cgroup.processes(), [1234]);
    assert_eq!((engine.taken(), engine.pooled()), (1, 0));
    drop(cgroup);
    engine.tidy();
    assert_eq!((engine.taken(), engine.pooled(), engine.quarantined()), (0, 0, 1));
    fs::write(folder.join("cgroup.procs"), "").unwrap();
    engine.tidy();
    assert_eq!(engine.quarantined(), 0);
    assert!(!folder.exists());
}

#[test]
fn without_the_cpu_controller_only_a_share_of_processors_is_refused() {
    let tree = service();
    tree.write("a.service", "cgroup.controllers", "memory pids");
    tree.write("a.service", "cgroup.subtree_control", "memory pids");
    let engine = tree.find(None).unwrap();
    assert!(!engine.can_limit_cpus());
    let error = engine.take(&limits()).unwrap_err();
    assert!(error.hint.is_some() && error.to_string().contains("processors"), "{error}");
    engine.take(&ResourceLimits { cpus: None, ..limits() }).unwrap();
}

#[test]
fn the_pool_is_bounded() {
    let tree = service();
    let engine = tree.find(None).unwrap();
    let many: Vec<_> = (0..70).map(|_| engine.take(&limits()).unwrap()).collect();
    assert_eq!((engine.taken(), engine.pooled()), (70, 0));
    drop(many);
    let kept = engine.pooled();
    assert!((1..=64).contains(&kept), "{kept}");
    engine.tidy();
    assert_eq!((engine.taken(), engine.pooled(), engine.quarantined()), (0, kept, 0));
    let folders = fs::read_dir(&engine.folders()[0]).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(folders.count(), kept);
}

#[test]
fn v1_hierarchies_that_lack_or_refuse_something_are_named() {
    let tree = Tree::new("/");
    let mount = |id: u32, name: &str| {
        format!("{id} 31 0:{id} / /sys/fs/cgroup/{name} rw - cgroup cgroup ro,{name}\n")
    };
    let read_only = |path: &Path| match path.parent().unwrap().ends_with("memory") {
        true => Err(rustix::io::Errno::ROFS.into()),
        false => fs::create_dir(path),
    };
    let find = || Cgroups::find(None, &System::fake(tree.path("/"), read_only, |path| fs::remove_dir(path)));
    fs::write(tree.path("/proc/self/cgroup"), "2:pids:/\n1:memory:/\n").unwrap();
    fs::write(tree.path("/proc/self/mountinfo"), mount(1, "memory")).unwrap();
    let without_pids = find().unwrap_err();
    assert!(without_pids.missing.contains("no cgroup2"), "{}", without_pids.missing);
    assert!(without_pids.missing.contains("the pids controller"), "{}", without_pids.missing);

    fs::write(tree.path("/proc/self/mountinfo"), mount(1, "memory") + &mount(2, "pids")).unwrap();
    fs::create_dir(tree.cgroup("pids")).unwrap();
    let refused = find().unwrap_err();
    assert!(refused.missing.contains("Read-only"), "{}", refused.missing);
    assert!(refused.hint.contains("sudo") && refused.hint.contains("--privileged"), "{}", refused.hint);
    assert_eq!(fs::read_dir(tree.cgroup("pids")).unwrap().count(), 0, "what was made is removed");
}
