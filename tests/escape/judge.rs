//! What is held against a call that has ended.

use std::{fs, path::Path, time::Duration};

use support::{PATIENCE, alive};
use tokio::time::{sleep, timeout};
use tool_engine::{Clock, ErrorKind, Execution, ExecutionError, ExitStatus, Report};

use super::{header::Header, scene::Scene};

/// An ending, in the words of a header.
pub(crate) fn outcome(end: &Result<Report, ExecutionError>) -> String {
    let Err(error) = end else { return "ok".into() };
    match error.kind() {
        ErrorKind::Process { status: ExitStatus::Code(code) } => format!("exit {code}"),
        ErrorKind::Process { status: ExitStatus::Signal(number) } => format!("signal {number}"),
        ErrorKind::Timeout { clock: Clock::Wall, .. } => "timeout".into(),
        kind @ ErrorKind::Limit { .. } => {
            let document = serde_json::to_value(kind).expect("a kind of error is JSON");
            format!("limit {}", document["limit"].as_str().unwrap_or_default())
        }
        kind => format!("{}: {kind}", kind.name()),
    }
}

/// Awaits the end of a call and says everything that is wrong with it; nothing, when it is as its header says.
pub(crate) async fn judge(run: Execution, header: &Header, scene: &Scene) -> Vec<String> {
    let id = run.id();
    let Ok(end) = timeout(PATIENCE, run).await else { return vec![format!("no end within {PATIENCE:?}")] };
    let mut faults = Vec::new();
    let left = alive(id);
    if !left.is_empty() {
        faults.push(format!("alive after the end: {left:?}"));
    }
    let outcome = outcome(&end);
    let report = end.as_ref().unwrap_or_else(ExecutionError::report);
    let (stdout, stderr) = (report.stdout.text(), report.stderr.text());
    if !header.ends.contains(&outcome) {
        faults.push(format!(
            "ended in {outcome:?}, not {:?}; stdout {stdout:?}; stderr {stderr:?}",
            header.ends
        ));
    }
    faults
        .extend(stdout.lines().chain(stderr.lines()).filter(|line| line.contains("ESCAPED")).map(Into::into));
    // Of more than these, it names the first.
    let unnamed = report.sweep_incomplete && report.residue.len() < 50;
    if report.pipe_held || report.kill_pending || unnamed {
        faults.push(format!("somebody was out of reach: {report:?}"));
    }
    if report.residue.iter().any(|residue| !residue.killed) {
        faults.push(format!("survivors: {:?}", report.residue));
    }
    faults.extend(scene.reached());
    faults
}

/// What was left of the calls of a scene when all have ended; asked once the engine has been shut down.
pub(crate) async fn left(scene: &Scene) -> Vec<String> {
    let mut left = Vec::new();
    // The last descriptor of a process is closed after its parent was told of its death.
    for _ in 0..50 {
        if !scene.held() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    if scene.held() {
        left.push(format!("the leash is held by {:?}", scene.holders()));
    }
    let marked = scene.marked();
    if !marked.is_empty() {
        left.push(format!("started by the call, and alive: {marked:?}"));
    }
    let entries = fs::read_dir(scene.engine()).map_or(0, Iterator::count);
    if entries > 0 {
        left.push(format!("{entries} entries in the engine's folder"));
    }
    cgroups(Path::new("/sys/fs/cgroup"), 4, &mut left);
    left
}

/// Cgroups of this process's engines are named after it: `run-tool.PID.…`.
fn cgroups(folder: &Path, depth: u32, left: &mut Vec<String>) {
    let own = format!("run-tool.{}.", std::process::id());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(&own) {
            left.push(format!("a cgroup: {}", entry.path().display()));
        } else if depth > 0 {
            cgroups(&entry.path(), depth - 1, left);
        }
    }
}
