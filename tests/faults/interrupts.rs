//! EINTR: signals that the embedding program handles, on every thread of the runtime and of the engine, all the time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        pthread::{Pthread, pthread_kill, pthread_self},
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};
use serde_json::json;
use support::{Scripted, Watchdog, ended, failed, patient, pattern, sh_up, succeeded};
use tokio::signal::unix::{SignalKind, signal};
use tool_engine::{Call, Engine, ErrorKind, Limits, Stdin};

use crate::{
    inner::{self, is_inner},
    sh,
};

/// The threads that are to be interrupted.
#[derive(Default)]
struct Threads(Mutex<BTreeSet<Pthread>>);

impl Threads {
    fn with(&self, act: impl FnOnce(&mut BTreeSet<Pthread>) -> bool) {
        act(&mut self.0.lock().expect("nobody panics while it is held"));
    }
}

#[test]
fn calls_go_on_as_if_nothing_had_happened() {
    // In the inner half the signal is blocked where it is not explicitly let through, in the test harness above all.
    let mut command = inner::command("env");
    command.args(["--block-signal=USR1", &inner::own_path()]);
    inner::run(command, "interrupts::inner_storm");
}

#[test]
#[ignore = "the inner half of `calls_go_on_as_if_nothing_had_happened`"]
fn inner_storm() {
    if !is_inner() {
        return;
    }
    let _watchdog = Watchdog::new(Duration::from_secs(100));
    let mut storm = SigSet::empty();
    storm.add(Signal::SIGUSR1);
    let threads = Arc::new(Threads::default());
    let (begin, end) = (Arc::clone(&threads), Arc::clone(&threads));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(move || {
            storm.thread_unblock().expect("a signal can be let through");
            begin.with(|threads| threads.insert(pthread_self()));
        })
        .on_thread_stop(move || end.with(|threads| threads.remove(&pthread_self())))
        .enable_all()
        .build()
        .unwrap();
    // From here on the signal has a handler.
    let mut handled = runtime.block_on(async { signal(SignalKind::user_defined1()).unwrap() });
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A thread cannot end while the list is held.
                threads.with(|threads| {
                    for thread in threads.iter() {
                        pthread_kill(*thread, Signal::SIGUSR1).expect("the thread is there");
                    }
                    true
                });
                // One for whoever lets it through: the engine's own threads, too.
                kill(Pid::this(), Signal::SIGUSR1).expect("a process may signal itself");
                sent.fetch_add(1, Ordering::Relaxed);
                thread::park_timeout(Duration::from_micros(50));
            }
        });
        let stop = Stop(&stop);
        runtime.block_on(async {
            let temp = tempfile::tempdir().unwrap();
            let builder = Engine::builder().temp_dir(temp.path()).limits(patient()).catalog(Scripted);
            // Its threads let through what this one lets through.
            storm.thread_unblock().unwrap();
            let engine = builder.build().unwrap();
            storm.thread_block().unwrap();
            for _ in 0..10 {
                every_kind_of_call(&engine).await;
            }
            engine.shutdown(Duration::from_secs(20)).await;
            handled.recv().await;
        });
        drop(stop);
    });
    assert!(sent.into_inner() > 1000);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn every_kind_of_call(engine: &Engine) {
    let text = pattern(0..2_000_000);
    let limits = Limits { timeout: Some(Duration::from_millis(100)), ..Limits::default() };
    let (echoed, code, timeout, worker, left) = tokio::join!(
        succeeded(engine.start(Call::command(["cat"]).stdin(Stdin::Bytes(text.clone().into())))),
        failed(engine.start(sh("exit 7"))),
        failed(engine.start(sh("exec sleep 100").limits(limits))),
        succeeded(engine.start(Scripted::call(&["begin", "big=1000000"]))),
        ended(engine.start(sh_up("setsid sleep 109 & up; echo done"))),
    );
    support::assert_same(&echoed.stdout.bytes(), &text, "stdout");
    assert_eq!(code.0.to_string(), "exited with code 7");
    assert!(matches!(timeout.0, ErrorKind::Timeout { .. }), "{timeout:?}");
    assert_eq!(worker.value, Some(json!("x".repeat(1_000_000))));
    let left = left.expect("it ended by itself");
    assert_eq!((left.stdout.text().as_str(), left.residue.len(), left.pipe_held), ("done\n", 1, false));
}
