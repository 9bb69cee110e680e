//! Programs and folders that come and go while they are used. Whatever the moment, the outcome is `ok`, or a `Spawn` that
//! names the right step and does not guess at a wrong reason.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::errno::Errno;
use support::{failed, succeeded, with_engine};
use tempfile::TempDir;
use tool_engine::{Call, ErrorKind, LaunchStep};

use crate::{plain, refused, sh};

const ROUNDS: usize = 400;

/// Does `flicker` again and again on a thread of its own, while `test` runs.
fn while_flickering(flicker: impl Fn() + Send + Sync, test: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                flicker();
            }
        });
        let stop = StopOnDrop(&stop);
        test();
        drop(stop);
    });
}

/// Ends the other thread also when the test panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The interpreter is there. Who looks again too late may suspect it, but must say that it may have been otherwise.
fn assert_no_wrong_reason(words: &str) {
    let suspects = words.contains("interpreter");
    assert!(!suspects || words.contains("unless file or working folder were away for a moment"), "{words}");
}

/// Another name for a program, that comes and goes.
fn flicker(program: &Path, name: &Path) {
    // Whatever fails here fails because it has been done already.
    let _ = fs::hard_link(program, name);
    thread::yield_now();
    let _ = fs::remove_file(name);
}

#[test]
fn a_program_that_vanishes_between_lookup_and_exec() {
    let folder = TempDir::new().unwrap();
    let (program, name) = (folder.path().join("program"), folder.path().join("flickering"));
    fs::copy("/bin/true", &program).unwrap();
    while_flickering(
        || flicker(&program, &name),
        || {
            with_engine(plain, |engine| async {
                for _ in 0..ROUNDS {
                    match engine.start(Call::command([&name])).await {
                        Ok(_) => {}
                        Err(error) => {
                            let (step, errno) = refused(error.kind());
                            assert!(matches!(step, LaunchStep::Lookup | LaunchStep::Exec), "{error}");
                            assert_eq!(errno, Errno::ENOENT, "{error}");
                            assert_no_wrong_reason(&error.to_string());
                        }
                    }
                }
                drop(engine);
            });
        },
    );
}

#[test]
fn a_working_folder_that_vanishes_while_the_program_is_started() {
    let folder = TempDir::new().unwrap();
    let workdir = folder.path().join("flickering");
    while_flickering(
        || {
            let _ = fs::create_dir(&workdir);
            thread::yield_now();
            let _ = fs::remove_dir(&workdir);
        },
        || {
            with_engine(plain, |engine| async {
                for _ in 0..ROUNDS {
                    match engine.start(Call::command(["/bin/true"]).workdir(&workdir)).await {
                        Ok(_) => {}
                        Err(error) => {
                            let (step, errno) = refused(error.kind());
                            assert_eq!(errno, Errno::ENOENT, "{error}");
                            assert!(matches!(step, LaunchStep::Workdir | LaunchStep::Exec), "{error}");
                            assert_no_wrong_reason(&error.to_string());
                        }
                    }
                }
                drop(engine);
            });
        },
    );
}

#[test]
fn a_program_that_is_gone_for_good_and_comes_back() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("runtime");
    with_engine(plain, |engine| async {
        for _ in 0..3 {
            fs::copy("/bin/true", &program).unwrap();
            succeeded(engine.start(Call::command([&program]))).await;
            fs::remove_file(&program).unwrap();
            let (kind, _) = failed(engine.start(Call::command([&program]))).await;
            assert_eq!(refused(&kind), (LaunchStep::Lookup, Errno::ENOENT));
        }
        drop(engine);
    });
}

#[test]
fn a_working_folder_that_vanishes_while_the_tool_runs_in_it() {
    with_engine(plain, |engine| async move {
        let folder = TempDir::new().unwrap();
        let run = engine.start(sh("echo ready; exec sleep 100").workdir(folder.path()));
        support::ready(&mut run.events()).await;
        drop(folder);
        run.cancel("enough");
        assert!(matches!(failed(run).await.0, ErrorKind::Canceled { .. }));
    });
}

#[test]
fn a_program_that_is_written_again_and_again() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    fs::copy("/bin/true", &program).unwrap();
    while_flickering(
        || {
            drop(fs::OpenOptions::new().append(true).open(&program));
            thread::yield_now();
        },
        || {
            with_engine(plain, |engine| async {
                for _ in 0..ROUNDS {
                    if let Err(error) = engine.start(Call::command([&program])).await {
                        assert_eq!(refused(error.kind()), (LaunchStep::Exec, Errno::ETXTBSY), "{error}");
                    }
                }
                drop(engine);
            });
        },
    );
    // Nobody writes any more.
    with_engine(plain, |engine| async {
        succeeded(engine.start(Call::command([&program]))).await;
        drop(engine);
    });
}
