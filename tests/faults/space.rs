//! ENOSPC, EROFS, EACCES, ENOENT: the temporary folder, where the channels of workers are made.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use nix::{errno::Errno, unistd::Uid};
use support::{Flavour, Rig, Scripted, failed, skip, succeeded, with_engine};
use tempfile::TempDir;
use tool_engine::{Call, Engine, LaunchStep};

use crate::{
    inner::{self, is_inner},
    refused, sh,
};

fn worker() -> Call {
    Scripted::call(&["begin", "line={\"type\":\"result\",\"value\":1}"])
}

/// Runs the inner half with mounts of its own, which go away with it.
fn with_own_mounts(test: &str) {
    let own = inner::own_path();
    let unshare = |words: &[&str]| {
        let mut command = inner::command("unshare");
        command.args(if Uid::current().is_root() { &["-m"][..] } else { &["-Urm"] }).args(words);
        command
    };
    let mut probe = unshare(&["mount", "-t", "tmpfs", "none", "/mnt"]);
    let probe = probe.stdin(Stdio::null()).stdout(Stdio::null()).output();
    match probe {
        Ok(output) if output.status.success() => inner::run(unshare(&[&own]), test),
        Ok(output) => {
            skip(&format!("no mounts can be made here: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Err(error) => skip(&format!("no `unshare`: {error}")),
    }
}

fn mount(options: &str, folder: &TempDir) {
    let mut mount = inner::command("mount");
    mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(folder.path());
    assert!(mount.status().is_ok_and(|status| status.success()), "mount {options}");
}

/// Asserts that no worker can be started and nothing is left; that commands can, which need no folder; and that workers
/// can, once the folder is mounted anew.
async fn no_worker(engine: &Engine, folder: &TempDir, errno: Errno) {
    let entries = || fs::read_dir(folder.path()).expect("the folder can be read").count();
    let remains = entries();
    for _ in 0..3 {
        let (kind, report) = failed(engine.start(worker())).await;
        assert_eq!(refused(&kind), (LaunchStep::Channel, errno), "{kind}");
        assert!(kind.to_string().contains(&*folder.path().to_string_lossy()), "{kind}");
        assert!(
            kind.to_string().ends_with("the engine's temporary folder must exist, be writable and have room"),
            "{kind}"
        );
        assert_eq!(report.enforced, None);
        assert_eq!(entries(), remains, "nothing is left in the folder");
    }
    succeeded(engine.start(sh("true"))).await;
    mount("remount,rw,size=1m,nr_inodes=100", folder);
    assert_eq!(succeeded(engine.start(worker())).await.value, Some(1.into()));
}

#[test]
fn a_full_or_read_only_temporary_folder() {
    with_own_mounts("space::inner_full_or_read_only");
}

#[test]
#[ignore = "the inner half of `a_full_or_read_only_temporary_folder`"]
fn inner_full_or_read_only() {
    if !is_inner() {
        return;
    }
    // So many inodes: room for nothing, for the channel's folder, for one FIFO in it.
    for (options, errno) in [
        ("nr_inodes=1", Errno::ENOSPC),
        ("size=4k,nr_inodes=2", Errno::ENOSPC),
        ("nr_inodes=3", Errno::ENOSPC),
        ("ro", Errno::EROFS),
    ] {
        Rig::run(Flavour::MultiThread, |_| async move {
            let folder = TempDir::new().unwrap();
            mount(options, &folder);
            let engine = Engine::builder().catalog(Scripted).temp_dir(folder.path()).build().unwrap();
            no_worker(&engine, &folder, errno).await;
            engine.shutdown(Duration::from_secs(10)).await;
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            let mut umount = inner::command("umount");
            assert!(umount.arg(folder.path()).status().unwrap().success());
        });
    }
}

#[test]
fn a_temporary_folder_that_vanished() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_owned();
    let temp = path.clone();
    with_engine(
        |builder| builder.catalog(Scripted).temp_dir(temp),
        |engine| async move {
            succeeded(engine.start(worker())).await;
            drop(folder);
            let (kind, _) = failed(engine.start(worker())).await;
            assert_eq!(refused(&kind), (LaunchStep::Channel, Errno::ENOENT), "{kind}");
            fs::create_dir(&path).unwrap();
            succeeded(engine.start(worker())).await;
            // Nothing is in it: otherwise this fails.
            fs::remove_dir(&path).unwrap();
        },
    );
}

#[test]
fn a_temporary_folder_that_may_not_be_written_to() {
    if Uid::current().is_root() {
        return skip("root may write everywhere");
    }
    let folder = TempDir::new().unwrap();
    with_engine(
        |builder| builder.catalog(Scripted).temp_dir(folder.path()),
        |engine| async {
            let allow = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            allow(0o500);
            let (kind, _) = failed(engine.start(worker())).await;
            assert_eq!(refused(&kind), (LaunchStep::Channel, Errno::EACCES), "{kind}");
            allow(0o700);
            succeeded(engine.start(worker())).await;
            drop(engine);
        },
    );
}

#[test]
fn an_engine_is_not_built_on_what_is_no_folder() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let gone = rig.temp().join("gone");
        let error = Engine::builder().temp_dir(&gone).build().unwrap_err();
        let words = format!(
            "the temporary folder {gone:?} is not a folder; name one that exists with `Engine::builder().temp_dir(…)`"
        );
        assert_eq!(error.to_string(), words);
    });
}
