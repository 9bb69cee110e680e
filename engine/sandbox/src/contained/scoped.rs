//! A zygote in a scope of its own, with a script in the place of systemd-run(1): on the v2 hierarchy that is mounted here, if
//! we may make cgroups there. What systemd itself does, `scripts/vm` shows.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use tool_zygote::protocol::{Bytes, Init};

use super::{
    Sandbox,
    zygote::{NoZygote, Source, Starting, Zygote},
};
use crate::{cgroup::Scope, launch::Launcher, level::Level, policy::Policy};

/// Makes scopes in a cgroup of its own.
struct Maker {
    folder: tempfile::TempDir,
    above: PathBuf,
    scope: Scope,
}

impl Maker {
    #[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
    fn new(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let Some(scope) = Scope::made_by(folder.path().join("maker")) else {
            eprintln!("skipped: no cgroup2 hierarchy is mounted");
            return None;
        };
        let above = scope.mount().join(format!("run-tool-test-{}-{test}", std::process::id()));
        if let Err(error) = fs::create_dir(&above) {
            eprintln!("skipped: {}: {error}", above.display());
            return None;
        }
        let maker = Self { folder, above, scope };
        maker.enters();
        Some(maker)
    }

    fn script(&self, does: &str) {
        let path = self.folder.path().join("maker");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do case $1 in --unit=*) s={}/${{1#--unit=}}.scope;; esac; shift; done\n\
             shift; {does}\n",
            self.above.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// As systemd-run: makes the cgroup, goes there, and becomes the program.
    fn enters(&self) {
        self.script("mkdir $s && echo 0 >$s/cgroup.procs && exec \"$@\"");
    }

    fn scopes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.above).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect()
    }

    fn begin(&self) -> Result<Zygote, NoZygote> {
        let prefix = Bytes(Vec::new());
        let init = Init { user: None, inside: (1000, 1000), namespaces: true, prefix, scope: None };
        let source = Source::Carried { temp_dir: "/tmp".into() };
        Starting::begin(&source, init, Some(&self.scope), &[]).and_then(|starting| starting.set_up([]))
    }
}

/// What systemd does when nobody is in there any more.
impl Drop for Maker {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        for scope in self.scopes() {
            // What the zygote was just making dies with it, and is dead a moment later.
            while fs::remove_dir(scope.join("keeper")).is_err() && Instant::now() < until {
                let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
            }
            let _ = fs::remove_dir(&scope);
        }
        let _ = fs::remove_dir(&self.above);
    }
}

fn processes(folder: &Path) -> String {
    fs::read_to_string(folder.join("cgroup.procs")).unwrap()
}

#[test]
fn that_there_is_none_is_told() {
    let Some(maker) = Maker::new("none") else { return };
    maker.script("exit 1");
    let none = maker.begin();
    assert!(matches!(none, Err(NoZygote::NoScope(_))), "{none:?}");
    maker.script("exec \"$@\"");
    let none = maker.begin();
    assert!(matches!(none, Err(NoZygote::Setup(_))), "nobody has moved it: {none:?}");
    fs::remove_file(maker.folder.path().join("maker")).unwrap();
    let none = maker.begin();
    assert!(matches!(none, Err(NoZygote::Start(..))), "{none:?}");
}

#[test]
fn the_zygote_steps_aside_for_the_cgroups_of_calls() {
    let Some(maker) = Maker::new("aside") else { return };
    let zygote = maker.begin().unwrap();
    let keeper = zygote.keeper().unwrap();
    let scope = maker.scopes().remove(0);
    assert_eq!(processes(&scope), "", "it can hand its controllers down");
    let aside = processes(&scope.join("keeper"));
    for process in [keeper, zygote.pid().unwrap()] {
        assert!(aside.lines().any(|line| line == process.to_string()), "{process} is not among {aside}");
    }
    let output = fs::read_link(format!("/proc/{keeper}/fd/1")).unwrap();
    assert_eq!(output, Path::new("/dev/null"), "nothing of its program's is open");
    zygote.end();
}

/// Calls have been told a level, and rely on it.
#[test]
fn when_a_scope_is_gone_there_is_another_or_an_error_but_not_less() {
    let Some(maker) = Maker::new("again") else { return };
    let mut builder = Sandbox::builder();
    builder.scope = Some(maker.scope.clone());
    let sandbox = builder.build();
    let level = sandbox.level(&Policy::default()).unwrap();
    let first = sandbox.0.offer().unwrap();
    if first.scope.is_none() {
        assert!(level < Level::Full, "there are cgroups only in the scope");
        return;
    }
    let ends = || {
        let zygotes: Vec<_> = sandbox.0.state().zygotes.values().cloned().collect();
        for zygote in zygotes {
            let pid = Pid::from_raw(zygote.pid().unwrap().try_into().unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            while !zygote.is_gone() {
                assert!(Instant::now() < until, "it does not die");
                let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
            }
        }
    };
    ends();
    let user = first.user;
    assert!(sandbox.0.zygote(&first, user).is_err(), "no zygote for what went with its scope");
    let second = sandbox.0.offer().unwrap();
    assert!(!Arc::ptr_eq(&first, &second) && second.scope.is_some() && second.level == level);
    assert!(sandbox.0.zygote(&first, user).is_err(), "nor the next one's");

    maker.script("exit 1");
    ends();
    for _ in 0..2 {
        let none = sandbox.level(&Policy::default()).unwrap_err().to_string();
        assert!(none.contains("another scope") && none.contains("exit status: 1"), "{none}");
    }
    maker.enters();
    assert_eq!(sandbox.level(&Policy::default()).unwrap(), level, "it is asked again");
    drop((first, second));
    sandbox.close();
}
