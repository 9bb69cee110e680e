//! Looking for processes in `/proc`.

use std::{collections::HashSet, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tool_engine::ExecutionId;

/// The variable by which every process of an execution is known.
const VARIABLE: &str = "RUN_TOOL_EXECUTION";

/// A process, as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: u32,
    group: u32,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = text.rsplit_once(')')?;
        let mut fields = after.split_ascii_whitespace();
        Some(Self {
            name: before.split_once('(')?.1.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }

    /// A zombie is dead: whether and when it is reaped is its parent's affair.
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn living() -> impl Iterator<Item = (u32, Stat)> {
    all().filter_map(|pid| Some((pid, Stat::of(pid)?))).filter(|(_, stat)| stat.is_alive())
}

/// Whether this process runs; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_alive())
}

/// Whether this process is our child, which a zombie still is.
pub fn is_own_child(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.parent == std::process::id())
}

/// All living descendants of a process, with their names.
pub fn descendants(of: u32) -> Vec<(u32, String)> {
    let all: Vec<(u32, Stat)> = living().collect();
    let mut family = vec![of];
    let mut known = 0;
    while known < family.len() {
        let parent = family[known];
        known += 1;
        family.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
    }
    all.into_iter()
        .filter(|(pid, _)| *pid != of && family.contains(pid))
        .map(|(pid, stat)| (pid, stat.name))
        .collect()
}

/// All living descendants of a process that have this name.
pub fn descendants_named(of: u32, name: &str) -> Vec<u32> {
    descendants(of).into_iter().filter(|(_, own)| own == name).map(|(pid, _)| pid).collect()
}

/// Sends a signal to a process, which may be dead.
///
/// # Panics
/// When that is no process id.
pub fn send(signal: Signal, pid: u32) {
    let _ = kill(Pid::from_raw(pid.try_into().expect("a process id")), signal);
}

/// Whether this process is stopped.
pub fn is_stopped(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state == 'T')
}

/// Whether this process runs and still has this name.
pub fn is_named(pid: u32, name: &str) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_alive() && stat.name == name)
}

/// The folders of cgroups that an engine of this process has made.
pub fn own_cgroups(pid: u32) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let places =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let prefix = format!("run-tool.{pid}.");
    let mut found = Vec::new();
    let mut waiting: Vec<_> = places.map(std::path::PathBuf::from).collect();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path().display().to_string());
            } else {
                waiting.push(entry.path());
            }
        }
    }
    found
}

/// The living processes of the machine that belong to this execution by their environment, or are in the process group
/// of its leader. As `pid name`.
pub fn remains(execution: ExecutionId, leader: Option<u32>) -> Vec<String> {
    find(&[execution], leader)
}

/// The living processes of the machine that belong to this execution, by their environment, as `pid name`.
pub fn alive(execution: ExecutionId) -> Vec<String> {
    find(&[execution], None)
}

/// As [`alive`], for many executions with one look at the machine.
pub fn alive_of(executions: &[ExecutionId]) -> Vec<String> {
    find(executions, None)
}

fn find(executions: &[ExecutionId], leader: Option<u32>) -> Vec<String> {
    let lines: HashSet<Vec<u8>> =
        executions.iter().map(|execution| format!("{VARIABLE}={execution}").into_bytes()).collect();
    let belongs = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| lines.contains(entry))
    };
    living()
        .filter(|(pid, stat)| Some(stat.group) == leader || belongs(*pid))
        .map(|(pid, stat)| format!("{pid} {}", stat.name))
        .collect()
}

/// The living processes of this process group, as `pid name`.
pub fn group_alive(group: u32) -> Vec<String> {
    living()
        .filter(|(_, stat)| stat.group == group)
        .map(|(pid, stat)| format!("{pid} {}", stat.name))
        .collect()
}
