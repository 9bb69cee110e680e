//! Two calls at a time: one that behaves beside one that does not; and one that prepares what the next is shown.

use std::time::Duration;

use support::{ready, skip};
use tool_engine::Level;

use super::{
    judge::{judge, left, outcome},
    programs::{header, in_scene, meet},
    rig::{contained, engine, offered},
    scene::Scene,
};

/// Who behaves, goes on undisturbed beside this one.
fn beside(file: &'static str) {
    let (level, missing) = offered(Level::Full);
    if level < header(file).level {
        return skip(&format!("{file} needs {}, but there is {level}: {missing}", header(file).level));
    }
    in_scene(engine, |scene, engine| async move {
        let (good, bad) = (header("neighbour.py"), header(file));
        // What the one is told of its surroundings is reached by nobody.
        let neighbour = engine.start(contained("neighbour.py", &good, "neighbour", &scene));
        ready(&mut neighbour.events()).await;
        let other = Scene::new();
        let mut faults = judge(engine.start(contained(file, &bad, "only", &other)), &bad, &other).await;
        scene.open_gate();
        faults.extend(judge(neighbour, &good, &scene).await);
        engine.shutdown(Duration::from_secs(5)).await;
        faults.extend(left(&scene).await);
        faults.extend(left(&other).await);
        assert!(faults.is_empty(), "beside {file}: {}", faults.join("\n"));
    });
}

macro_rules! beside {
    ($($name:ident = $file:literal,)*) => { $(#[test] fn $name() { beside($file); })* };
}

beside! {
    beside_one_that_kills_everything = "kills-everything.py",
    beside_a_fork_bomb = "fork-bomb-sessions.py",
    beside_a_memory_hog = "memory-hog-many.py",
    beside_a_disk_filler = "disk-filler.py",
    beside_an_inode_hog = "inode-hog.py",
    beside_a_flood = "floods.py",
    beside_one_that_is_deaf = "deaf.py",
}

/// While a call exchanges a folder and a link, others are shown what lies there: they see a folder of the first one's,
/// or are told that it cannot be shown. They never see the secret. (That the folder is one that a tool can write to is
/// known because this engine showed it so.)
#[test]
fn a_folder_that_is_swapped_while_it_is_shown_leads_nowhere() {
    in_scene(engine, |scene, engine| async move {
        let swaps = header("swaps-folders.py");
        let swapper = engine.start(contained("swaps-folders.py", &swaps, "only", &scene));
        ready(&mut swapper.events()).await;
        let looks = header("looks-at-place.py");
        let (mut shown, mut refused) = (0, 0);
        // Else nothing was tried. The watchdog ends a test to which that never happens.
        while shown == 0 || refused == 0 || shown + refused < 100 {
            let end = engine.start(contained("looks-at-place.py", &looks, "only", &scene)).await;
            let report = end.as_ref().unwrap_or_else(|error| error.report());
            let said = report.stdout.text();
            assert!(!said.contains("ESCAPED"), "{said}");
            let started = report.enforced.is_some();
            assert!(end.is_ok() || !started, "{}", outcome(&end));
            *(if started { &mut shown } else { &mut refused }) += 1;
        }
        swapper.cancel("enough");
        let _ = swapper.await;
        assert!(scene.reached().is_empty(), "{:?}", scene.reached());
        engine.shutdown(Duration::from_secs(5)).await;
    });
}

/// Two executions of one program share nothing that either can see: not even when there are many of them at a time.
#[test]
fn many_pairs_of_siblings_find_nobody() {
    in_scene(engine, |_, engine| async move {
        let siblings = header("siblings.py");
        let scenes: Vec<_> = (0..4).map(|_| Scene::new()).collect();
        let mut runs = Vec::new();
        for scene in &scenes {
            for role in ["left", "right"] {
                runs.push((engine.start(contained("siblings.py", &siblings, role, scene)), scene));
            }
        }
        let faults = meet(runs, &siblings).await;
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        engine.shutdown(Duration::from_secs(5)).await;
    });
}
