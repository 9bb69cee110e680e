//! What a report says is enforced, against what can be seen of the process.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use support::{at, failed, ready, succeeded};
use tool_engine::{Call, Enforced, Level, Network, Policy, Proc, ResourceLimits};

use crate::{LEVELS, folder, python};

/// Namespaces, in the report's words and in those of `/proc/PID/ns`.
const NAMESPACES: [(&str, &str); 7] = [
    ("user", "user"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("network", "net"),
];

/// What the program sees of itself. The last argument is a file that it is not shown.
const PROBE: &str = "
import json, os, signal, sys
from pathlib import Path
status = dict(line.split(':\\t', 1) for line in Path('/proc/self/status').read_text().splitlines() if ':\\t' in line)
def error(way):
    try:
        way()
    except OSError as error:
        return type(error).__name__
seen = {
    'seccomp': int(status['Seccomp']),
    'no_new_privs': int(status['NoNewPrivs']),
    'capabilities': int(status['CapEff'], 16) | int(status['CapPrm'], 16) | int(status['CapAmb'], 16),
    'processes': sum(name.isdigit() for name in os.listdir('/proc')),
    'secret': error(lambda: open(sys.argv[2]).read()),
    'etc': error(lambda: open('/etc/shadow').read()),
}
print(json.dumps(seen), flush=True)
print('ready', flush=True)
signal.pause()
";

/// What the machine sees of it.
fn from_outside(mark: &str) -> (BTreeMap<&'static str, bool>, u32, String) {
    let found = fs::read_dir("/proc").expect("/proc is mounted").flatten().find(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    });
    let proc = found.expect("it runs").path();
    let namespaces = NAMESPACES.iter().map(|(word, name)| {
        let of = |proc: &Path| fs::read_link(proc.join("ns").join(name)).expect("it may be looked at");
        (*word, of(&proc) != of(Path::new("/proc/self")))
    });
    let status = fs::read_to_string(proc.join("status")).expect("it runs");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).expect("it is somebody's");
    let uid = uid.split('\t').next().and_then(|uid| uid.parse().ok()).expect("a user is a number");
    let cgroups = fs::read_to_string(proc.join("cgroup")).expect("it runs");
    (namespaces.collect(), uid, cgroups)
}

#[test]
fn what_is_told_is_so() {
    for level in LEVELS {
        at(level, |engine| async move {
            let (work, elsewhere) = (folder(), folder());
            let secret = elsewhere.path().join("secret");
            fs::write(&secret, "secret").unwrap();
            let mark = format!("levels-{}-{}", std::process::id(), level.number());
            let call = python(level, work.path(), PROBE, &[&mark, &secret]);
            let run = engine.start(call);
            ready(&mut run.events()).await;
            // Another user's process may only be looked at by root.
            let outside = from_outside(&mark);
            run.cancel("seen");
            let (_, report) = failed(run).await;
            let enforced = report.enforced.expect("it ran");
            assert_eq!(enforced.level, level);
            let seen = report.stdout.text();
            let seen: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
            assert_agreement(&enforced, &seen, outside);
        });
    }
}

#[test]
fn what_is_asked_for_and_not_held_is_told() {
    for (level, expected) in [
        (Level::None, &["network", "ro", "rw", "hide", "memory", "tmp_size"][..]),
        (Level::Basic, &["ro", "hide", "tmp_size"]),
        (Level::NoNamespaces, &["ro", "hide", "tmp_size"]),
        (Level::NoCgroup, &[]),
        (Level::Full, &[]),
    ] {
        at(level, |engine| async move {
            let work = folder();
            for inner in ["ro", "hide"] {
                fs::create_dir(work.path().join(inner)).unwrap();
            }
            let policy = Policy {
                network: Some(Network::None),
                rw: vec![work.path().to_owned()],
                ro: vec![work.path().join("ro")],
                hide: vec![work.path().join("hide")],
                level: Some(level),
                ..Policy::default()
            };
            let limits = ResourceLimits {
                memory: Some(1 << 30),
                tmp_size: Some(1 << 20),
                ..ResourceLimits::default()
            };
            let call = Call::command(["true"]).workdir(work.path()).policy(policy).resources(limits);
            let enforced = succeeded(engine.start(call)).await.enforced.expect("it ran");
            assert_eq!(enforced.not_held, expected, "{level}");
        });
    }
}

fn assert_agreement(
    enforced: &Enforced,
    seen: &Value,
    (namespaces, uid, cgroups): (BTreeMap<&str, bool>, u32, String),
) {
    let level = enforced.level;
    for (word, own) in namespaces {
        assert_eq!(enforced.namespaces.iter().any(|told| told == word), own, "{level}: {word}");
    }
    // 2: a filter.
    assert_eq!(seen["seccomp"] == 2, enforced.seccomp, "{level}: {seen}");
    let contained = level > Level::None;
    assert_eq!(seen["no_new_privs"] == 1, contained, "{level}: {seen}");
    if contained {
        assert_eq!(seen["capabilities"], 0, "{level}");
        // Not there, or not to be touched.
        assert!(!seen["secret"].is_null() && !seen["etc"].is_null(), "{level}: {seen}");
    } else {
        assert!(seen["secret"].is_null(), "{level}: {seen}");
    }
    assert_eq!(enforced.landlock.is_some(), contained, "{level}");
    assert!(enforced.user.is_none_or(|user| user == uid), "{level}: {uid}");
    assert_eq!(enforced.user.is_some(), contained, "{level}");
    assert_eq!(enforced.cgroup.is_some(), cgroups.contains("run-tool"), "{level}: {cgroups}");
    let processes = seen["processes"].as_u64().expect("it counts them");
    match enforced.proc {
        // Ours are seen there, too.
        Proc::Host => assert!(processes > 1, "{level}: {processes}"),
        // Its first process is hidden from it.
        Proc::Own => assert_eq!(processes, 1, "{level}"),
        Proc::None => unreachable!("it could not have looked"),
    }
    assert_eq!(enforced.proc == Proc::Own, level >= Level::NoCgroup, "{level}");
    assert_eq!(enforced.not_held.is_empty(), contained, "{level}: {:?}", enforced.not_held);
}

/// A report says so when it does not name all.
#[test]
fn of_many_that_are_left_running_the_first_are_named() {
    for level in [Level::NoCgroup, Level::Full] {
        at(level, |engine| async move {
            for (left, named) in [(3, 3), (50, 50), (51, 50), (120, 50)] {
                // Whoever is forked is not `sleep` before it is `sleep`, but it is there.
                let script = format!("for i in $(seq {left}); do sleep 1000 & done");
                let report = succeeded(engine.start(Call::command(["sh", "-c", &script]))).await;
                assert_eq!(report.residue.len(), named, "{level}: {report:?}");
                assert_eq!(report.sweep_incomplete, left > 50, "{level}: {left}");
                assert!(report.residue.iter().all(|left| left.killed), "{report:?}");
            }
        });
    }
}
