//! One test for each hostile program, in two places: contained, where it must end as it declares; and where nothing
//! holds it, which shows that the first test can fail.

use std::{collections::BTreeSet, fs};

use support::{Flavour, Mark, Watchdog, ready, skip, wait_for_output};
use tool_engine::{Call, Engine, Execution, Level};

use super::{
    header::{Header, Need, Roles, ShownBy},
    judge::{judge, left},
    rig::{contained, engine_at, offered, uncontained},
    scene::{Scene, programs},
};

macro_rules! programs {
    ($($name:ident = $file:literal,)*) => {
        const PROGRAMS: &[&str] = &[$($file),*];

        mod held {
            $(#[test] fn $name() { super::is_held($file, tool_engine::Level::Full); })*
        }

        mod held_by_the_least {
            $(#[test] fn $name() { super::is_held_by_the_least($file); })*
        }

        mod shown {
            $(#[test] fn $name() { super::is_shown($file); })*
        }
    };
}

programs! {
    abstract_sockets = "abstract-sockets.py",
    alarm = "alarm.py",
    cgroups = "cgroups.py",
    chain_of_names = "chain-of-names.py",
    core_dump = "core-dump.py",
    cpu_burner = "cpu-burner.py",
    cpu_burners = "cpu-burners.py",
    credentials = "credentials.py",
    daemon_adopted = "daemon-adopted.py",
    daemons = "daemons.py",
    deaf = "deaf.py",
    devices = "devices.py",
    disk_filler = "disk-filler.py",
    environment = "environment.py",
    fd_hog = "fd-hog.py",
    file_size = "file-size.py",
    filter_of_its_own = "filter-of-its-own.py",
    floods = "floods.py",
    fork_bomb = "fork-bomb.py",
    fork_bomb_left_going_off = "fork-bomb-left-going-off.sh",
    fork_bomb_sessions = "fork-bomb-sessions.py",
    hidden_file = "hidden-file.py",
    host_secrets = "host-secrets.py",
    host_sockets = "host-sockets.py",
    inherited_descriptors = "inherited-descriptors.py",
    inode_hog = "inode-hog.py",
    int_80 = "int-80.py",
    io_uring = "io-uring.py",
    kernel_doors = "kernel-doors.py",
    keys = "keys.py",
    kills_everything = "kills-everything.py",
    left_behind = "left-behind.py",
    limits_of_pid_1 = "limits-of-pid-1.py",
    limits_of_the_parent = "limits-of-the-parent.py",
    looks_at_place = "looks-at-place.py",
    machine = "machine.py",
    memory_hog = "memory-hog.py",
    memory_hog_files = "memory-hog-files.py",
    memory_hog_many = "memory-hog-many.py",
    memory_of_others = "memory-of-others.py",
    mknod = "mknod.py",
    mounts = "mounts.py",
    moves_its_folder = "moves-its-folder.py",
    namespaces = "namespaces.py",
    neighbour = "neighbour.py",
    network = "network.py",
    network_shown = "network-shown.py",
    nohup = "nohup.sh",
    oom_score = "oom-score.py",
    orphans = "orphans.py",
    own_code = "own-code.py",
    own_program = "own-program.py",
    personality = "personality.py",
    ping = "ping.py",
    priority = "priority.py",
    private_folders = "private-folders.py",
    proc_of_pid_1 = "proc-of-pid-1.py",
    proc_of_the_kernel = "proc-of-the-kernel.py",
    processes_of_others = "processes-of-others.py",
    ptrace = "ptrace.py",
    raises_limits = "raises-limits.py",
    setuid_left = "setuid-left.py",
    setuid_programs = "setuid-programs.py",
    siblings = "siblings.py",
    signals_to_pid_1 = "signals-to-pid-1.py",
    socket_families = "socket-families.py",
    stops_itself = "stops-itself.py",
    swaps_folders = "swaps-folders.py",
    terminal = "terminal.py",
    threads = "threads.py",
    timers = "timers.py",
    ways_around_paths = "ways-around-paths.py",
    writes_outside = "writes-outside.py",
    x32 = "x32.py",
}

#[test]
fn every_program_has_a_test_and_a_header() {
    let entries = fs::read_dir(programs()).expect("the programs are there");
    let mut files: BTreeSet<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for shared in ["attempts.py", "bomb.py", "__pycache__"] {
        files.remove(shared);
    }
    let tested = PROGRAMS.iter().map(ToString::to_string).collect();
    assert_eq!(files, tested, "each file in {} has a test, and the other way round", programs().display());
    for file in PROGRAMS {
        header(file);
    }
}

pub(crate) fn header(file: &str) -> Header {
    let text = fs::read_to_string(programs().join(file)).expect("the program is there");
    Header::parse(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// At the least level that it declares, where a machine has no more.
fn is_held_by_the_least(file: &str) {
    match header(file).level {
        // There, `held` says the same.
        Level::None | Level::Full => {}
        level => is_held(file, level),
    }
}

/// Contained, it ends as it declares, has reached nothing, and nothing of it is left.
fn is_held(file: &str, highest: Level) {
    let header = header(file);
    if let Some(missing) = header.needs.iter().find(|need| !is_there(**need)) {
        return skip(&format!("{file} needs {missing:?}"));
    }
    let (offered, missing) = offered(highest);
    if offered < header.level {
        return skip(&format!("{file} needs {}, but there is {offered}: {missing}", header.level));
    }
    in_scene(
        |scene| engine_at(highest, scene),
        |scene, engine| async move {
            let calls = |role: &str| contained(file, &header, role, &scene);
            let mut faults = in_roles(&engine, &header, &scene, calls).await;
            engine.shutdown(std::time::Duration::from_secs(5)).await;
            faults.extend(left(&scene).await);
            assert!(faults.is_empty(), "{file}: {}\n{}", faults.join("\n"), header.about);
        },
    );
}

/// Where nothing holds it, something is found wrong with it.
fn is_shown(file: &str) {
    let header = header(file);
    if header.shown_by == ShownBy::Hand {
        return skip(&format!("{file} is shown by hand only: its header says why"));
    }
    if let Some(missing) = header.needs.iter().find(|need| !is_there(**need)) {
        return skip(&format!("{file} needs {missing:?}"));
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(&format!("{file} shows what root can do"));
    }
    in_scene(
        |scene| engine_at(Level::None, scene),
        |scene, engine| async move {
            let calls =
                |role: &str| uncontained(file, &header, role, &scene).expect("it is not shown by hand");
            let mut faults = in_roles(&engine, &header, &scene, calls).await;
            engine.shutdown(std::time::Duration::from_secs(5)).await;
            faults.extend(left(&scene).await);
            scene.clean_up();
            assert!(!faults.is_empty(), "{file} does no harm where nothing holds it");
            // That a program does not run at all shows nothing.
            let broken =
                faults.iter().find(|fault| fault.contains("Traceback") || fault.contains("exit 127"));
            assert!(broken.is_none(), "{file}: {broken:?}");
            tell(&faults);
        },
    );
}

#[expect(clippy::print_stderr, reason = "for whoever runs it by hand")]
fn tell(faults: &[String]) {
    eprintln!("{}", faults.join("\n"));
}

fn is_there(need: Need) -> bool {
    match need {
        Need::X86_64 => cfg!(target_arch = "x86_64"),
    }
}

/// The calls of a program's roles, and what is wrong with them.
async fn in_roles(
    engine: &Engine,
    header: &Header,
    scene: &Scene,
    call: impl Fn(&str) -> Call,
) -> Vec<String> {
    match &header.roles {
        Roles::One => {
            // Who waits for it waits for nobody.
            scene.open_gate();
            judge(engine.start(call("only")), header, scene).await
        }
        Roles::Then(first, second) => {
            let mut faults = judge(engine.start(call(first)), header, scene).await;
            faults.extend(judge(engine.start(call(second)), header, scene).await);
            faults
        }
        Roles::With(one, other) => {
            let runs = [one, other].map(|role| (engine.start(call(role)), scene));
            meet(runs.into(), header).await
        }
    }
}

/// What is wrong with runs that look for each other: none looks before all are there, and none ends before all have looked.
pub(crate) async fn meet(runs: Vec<(Execution, &Scene)>, header: &Header) -> Vec<String> {
    for (run, _) in &runs {
        ready(&mut run.events()).await;
    }
    runs.iter().for_each(|(_, scene)| scene.open_gate());
    for (run, _) in &runs {
        wait_for_output(&mut run.events(), "looked\n").await;
    }
    runs.iter().for_each(|(_, scene)| scene.close_gate());
    let mut faults = Vec::new();
    for (run, scene) in runs {
        faults.extend(judge(run, header, scene).await);
    }
    faults
}

/// Runs a test in surroundings of its own, and looks for what is left of its engine.
pub(crate) fn in_scene<F: Future<Output = ()>>(
    engine: impl FnOnce(&Scene) -> Engine,
    test: impl FnOnce(std::sync::Arc<Scene>, Engine) -> F,
) {
    let _watchdog = Watchdog::new(std::time::Duration::from_secs(100));
    drop(Flavour::CurrentThread.runtime());
    Flavour::MultiThread.runtime().block_on(async {
        let scene = std::sync::Arc::new(Scene::new());
        let mark = Mark::take(scene.engine());
        test(scene.clone(), engine(&scene)).await;
        mark.assert_settled("after the test").await;
    });
}
