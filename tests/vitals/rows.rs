//! Each row can grow, and goes back when what made it grow is let go of.

use std::{
    fs::{self, File},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{
    Endless, Flavour, PATIENCE, Rig, end_of, hostile, level, ready, succeeded, uncontained, until,
};
use tokio::task::JoinSet;
use tool_engine::{Call, Engine, Level, Vitals};
use tool_sandbox::own_prefix;

use super::{grows, settled};

/// With an engine that has made a call of each kind and a mark from then; looks afterwards whether all went back.
fn with_mark<F: Future<Output = ()>>(test: impl FnOnce(Engine, Vitals, std::path::PathBuf) -> F) {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().catalog(Endless::catalog()).max_running(1).build().unwrap();
        let fresh = engine.vitals();
        succeeded(engine.start(Call::command(["true"]))).await;
        support::is_canceled(&engine, Endless::Sleep, 1).await;
        // The first of these starts what sweeps them up: a task that stays.
        engine.registry().remove(&keep_a_record(&engine).await).unwrap();
        // What is still let go of would be missing from what is more later.
        let mark = until("all to be let go of", PATIENCE, || {
            let now = engine.vitals();
            let held = [now.executions, now.event_bytes, now.sandboxes, now.cgroups, now.records];
            let is_calm = held == [0; 5] && now.tasks <= fresh.tasks.map(|tasks| tasks + 1);
            is_calm.then_some(now)
        })
        .await;
        test(engine.clone(), mark.clone(), rig.temp().to_owned()).await;
        settled(&engine, &mark).await;
        engine.shutdown(Duration::from_secs(20)).await;
    });
}

#[test]
fn descriptors() {
    with_mark(|engine, mark, temp| async move {
        let path = temp.join("held");
        // Several: one that was open for a moment when the mark was taken does not hide them.
        let held: Vec<_> = (0..10).map(|_| File::create(&path).unwrap()).collect();
        let text = grows(&engine, &mark, "fds").await;
        assert!(text.contains(&format!(" = {}", path.display())), "{text}");
        drop(held);
    });
}

#[test]
fn threads() {
    with_mark(|engine, mark, _| async move {
        let (let_go, held) = mpsc::channel::<()>();
        let work = move || held.recv().is_ok();
        let thread = thread::Builder::new().name("held".into()).spawn(work).unwrap();
        let text = grows(&engine, &mark, "threads").await;
        assert!(text.contains("; new: "), "{text}");
        drop(let_go);
        thread.join().unwrap();
    });
}

#[test]
fn tasks() {
    with_mark(|engine, mark, _| async move {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending::<()>());
        grows(&engine, &mark, "tasks").await;
        tasks.shutdown().await;
    });
}

#[test]
fn executions_that_run_and_that_wait() {
    with_mark(|engine, mark, _| async move {
        let running = engine.start(hostile(["sleep"]));
        ready(&mut running.events()).await;
        let waiting = engine.start(hostile(["sleep"]));
        let grown = grows(&engine, &mark, "executions").await;
        assert_eq!(grown, "executions: 0 before, 2 now");
        waiting.cancel("enough");
        running.cancel("enough");
        end_of(waiting).await.unwrap_err();
        end_of(running).await.unwrap_err();
    });
}

#[test]
fn children() {
    with_mark(|engine, mark, _| async move {
        let run = engine.start(uncontained(hostile(["sleep"])));
        let text = grows(&engine, &mark, "children").await;
        // It has another name until it is executed.
        assert!(text.contains("; new: "), "{text}");
        run.cancel("enough");
        end_of(run).await.unwrap_err();
    });
}

#[test]
fn sandboxes_and_cgroups() {
    with_mark(|engine, mark, _| async move {
        let run = engine.start(hostile(["sleep"]));
        ready(&mut run.events()).await;
        let now = engine.vitals();
        let enforced = level();
        assert_eq!(now.sandboxes, u64::from(enforced > Level::None), "{now:?}");
        assert_eq!(now.zygotes.len(), usize::from(enforced > Level::None), "{now:?}");
        for zygote in &now.zygotes {
            assert!(zygote.children.is_none_or(|children| children > 0), "its sandbox is its child: {now:?}");
        }
        run.cancel("enough");
        let report = end_of(run).await.unwrap_err().into_parts().1;
        let cgroups = u64::from(report.enforced.unwrap().cgroup.is_some());
        assert_eq!(now.cgroups, cgroups, "{now:?}");
        settled(&engine, &mark).await;
        let after = engine.vitals();
        assert_eq!((after.sandboxes, after.cgroups), (0, 0), "{after:?}");
        assert_eq!(after.pooled_cgroups > 0, cgroups > 0, "it waits for its next call: {after:?}");
    });
}

/// A process of ours may have so many descriptors, and the calls that run share them.
#[test]
fn descriptors_of_calls_that_run() {
    /// More than have the files of their cgroup open with the limit below.
    const FIRST: usize = 30;
    const MORE: usize = 20;
    /// Stdout and stderr, its first process and the line to that, both watched and held, and its mounts; and one to spare.
    const EACH: u64 = 8;
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().max_running(FIRST + MORE).build().unwrap();
        // How many cgroups may have their files open is settled when the first one is made.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(2048), hard).unwrap();
        succeeded(engine.start(Call::command(["true"]))).await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let mut running = Vec::new();
        let mut held = Vec::new();
        for count in [FIRST, MORE] {
            let begun: Vec<_> = (0..count).map(|_| engine.start(hostile(["sleep"]))).collect();
            for run in &begun {
                ready(&mut run.events()).await;
            }
            running.extend(begun);
            // All of them: the vitals leave out what pools keep.
            let own = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let zygote = engine.vitals().zygotes.first().and_then(|zygote| zygote.fds);
            held.push([own, zygote.unwrap_or(0)]);
        }
        let each = |what: usize| (held[1][what].saturating_sub(held[0][what])) as f64 / MORE as f64;
        assert!(each(0) <= EACH as f64, "{} a call: {held:?}", each(0));
        // Its network.
        assert!(each(1) <= 2.0, "{} a call in the zygote: {held:?}", each(1));
        for run in running {
            run.cancel("enough");
            let report = end_of(run).await.unwrap_err().into_parts().1;
            let counted = report.enforced.unwrap().cgroup.is_none() || report.usage.oom_kills == Some(0);
            assert!(counted, "its cgroup is read all the same: {:?}", report.usage);
        }
        engine.shutdown(Duration::from_secs(20)).await;
    });
}

#[test]
fn temporary_folders() {
    with_mark(|engine, mark, _| async move {
        // Its channel is never opened, and so its folder stays for as long as it runs.
        let run = engine.start(Endless::Sleep.tool());
        let text = grows(&engine, &mark, "temp dirs").await;
        assert!(text.contains(own_prefix()), "{text}");
        run.cancel("enough");
        end_of(run).await.unwrap_err();
    });
}

#[test]
fn bytes_of_events() {
    with_mark(|engine, mark, _| async move {
        let run = engine.start(Call::command(["sh", "-c", "head -c 100000 /dev/zero"]));
        let late = run.events_from(0);
        run.await.unwrap();
        let held = engine.vitals().event_bytes;
        assert!(held >= 100_000, "{held}");
        assert_eq!(grows(&engine, &mark, "event bytes").await, format!("event bytes: 0 before, {held} now"));
        drop(late);
    });
}

#[test]
fn memory() {
    with_mark(|engine, mark, _| async move {
        const MUCH: usize = 64 << 20;
        let held = vec![1_u8; MUCH];
        let (before, now) = (mark.rss.unwrap(), engine.vitals().rss.unwrap());
        assert!(now > before + MUCH as u64 / 2, "{before} {now}");
        drop(held);
    });
}

#[test]
fn records() {
    with_mark(|engine, mark, _| async move {
        let id = keep_a_record(&engine).await;
        assert_eq!(grows(&engine, &mark, "records").await, "records: 0 before, 1 now");
        assert!(engine.vitals().event_bytes > 0, "its events are kept, too");
        engine.registry().remove(&id).unwrap();
    });
}

/// The id of an execution that has ended.
async fn keep_a_record(engine: &Engine) -> String {
    let registry = engine.registry();
    let id = registry.submit(Call::command(["echo", "done"])).unwrap().id;
    assert!(registry.wait(&id).await.unwrap().is_ok());
    id
}
