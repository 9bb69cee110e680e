//! Many executions at once: whose files stay open, and when what is not used again is removed.

use std::path::PathBuf;

use super::{super::Cgroup, Cgroups, Tree, fs, limits, service};

/// As many may have their files open as an eighth of 280 descriptors is enough for.
const OPEN: usize = 5;

/// An engine of a process that may have few descriptors.
fn with_few_descriptors(tree: &Tree) -> Cgroups {
    let mut system = tree.system();
    system.descriptors = 280;
    Cgroups::find(None, &system).unwrap()
}

/// How many files of its cgroups this process has open, those named so.
fn open_files(engine: &Cgroups, name: &str) -> usize {
    let ours = engine.folders();
    let targets = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|fd| fs::read_link(fd.path()));
    let is_ours = |file: &PathBuf| ours.iter().any(|folder| file.starts_with(folder));
    targets.flatten().filter(|file| is_ours(file) && file.ends_with(name)).count()
}

#[test]
fn beyond_a_bound_one_that_was_joined_has_its_files_closed_and_is_read_and_used_again_all_the_same() {
    let tree = service();
    let engine = with_few_descriptors(&tree);
    let mut taken: Vec<_> = (0..12).map(|_| engine.take(&limits()).unwrap()).collect();
    assert_eq!(open_files(&engine, "cgroup.procs"), 12, "all of them can be joined");
    taken.iter_mut().for_each(Cgroup::joined);
    for name in ["cgroup.procs", "pids.current", "cpu.stat", "memory.events.local", "pids.events"] {
        assert_eq!(open_files(&engine, name), OPEN, "{name}");
    }
    assert_eq!(open_files(&engine, "memory.peak"), 12, "a reset holds for an open file");

    for folder in fs::read_dir(&engine.folders()[0]).unwrap().flatten().filter(|entry| entry.path().is_dir())
    {
        fs::write(folder.path().join("memory.events.local"), "oom_kill 3\n").unwrap();
        fs::write(folder.path().join("cpu.stat"), "usage_usec 7\nuser_usec 7\nsystem_usec 0\n").unwrap();
    }
    for cgroup in &taken {
        assert_eq!(cgroup.counters().oom_kills, Some(3));
        assert_eq!(cgroup.cpu_used().unwrap().as_micros(), 7);
    }
    assert_eq!(open_files(&engine, "cpu.stat"), OPEN, "what is opened to be read is closed again");

    // Those come first that had theirs closed.
    drop(taken);
    assert_eq!(engine.pooled(), OPEN);
    assert_eq!(open_files(&engine, "cgroup.procs"), OPEN);
    let again: Vec<_> = (0..OPEN).map(|_| engine.take(&limits()).unwrap()).collect();
    assert!(again.iter().all(|cgroup| cgroup.join().count() == 1), "they can be joined");
    assert!(again.iter().all(|cgroup| cgroup.counters().oom_kills == Some(0)), "they count from zero");
}

#[test]
fn what_is_not_used_again_is_removed_when_most_have_ended() {
    let tree = service();
    let engine = with_few_descriptors(&tree);
    let take = || {
        let mut taken = engine.take(&limits()).unwrap();
        // Or this test would need more descriptors than a process usually may have.
        taken.joined();
        taken
    };
    let mut taken: Vec<_> = (0..200).map(|_| take()).collect();
    taken.truncate(100);
    taken[0].tidying()();
    assert_eq!(engine.quarantined(), 100 - OPEN, "half of them run");
    taken.truncate(20);
    taken[0].tidying()();
    assert_eq!(engine.quarantined(), 0);
    drop(taken);
    assert_eq!(engine.quarantined(), 20, "few may wait");
    engine.tidy_some();
    let left = engine.quarantined();
    assert!((1..20).contains(&left), "{left}");
}
