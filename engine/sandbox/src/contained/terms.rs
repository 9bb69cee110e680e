//! The terms of a call: what is run and what it may use, in the form that the zygote gets them; and what of that nobody can
//! hold it to.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::process::getrlimit;
use tool_zygote::protocol::{Bytes, Kind, Launch, Mount};

use super::{
    OPEN_FILES, PIDS, TMP,
    ahead::Want,
    bytes,
    offer::Offer,
    system,
    view::{Mode, View},
};
use crate::{
    launch::LaunchSpec,
    policy::{Network, ResourceLimits},
    residue::EXECUTION_VARIABLE,
};

/// The launch as the zygote gets it.
pub(super) fn describe(
    spec: &LaunchSpec,
    view: &View,
    mounts: Vec<Mount>,
    rlimits: Vec<Rlimit>,
    namespaced: bool,
    program: &Path,
) -> Launch {
    let mut args = vec![Bytes(spec.program.as_bytes().to_vec())];
    args.extend(spec.args.iter().map(|arg| Bytes(arg.as_bytes().to_vec())));
    let marker = (EXECUTION_VARIABLE.into(), spec.execution.clone().into());
    let env =
        spec.env.iter().chain([&marker]).map(|(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
            Bytes([name.as_bytes(), b"=", value.as_bytes()].concat())
        });
    let places = |wanted: fn(&Mode) -> bool| {
        let places = view.places.iter().filter(move |(_, place)| wanted(&place.mode));
        // Without a view of its own, places are where they are.
        places.map(move |(target, place)| bytes(if namespaced { target } else { &place.source }))
    };
    let mut writable: Vec<Bytes> = places(|mode| matches!(mode, Mode::ReadWrite | Mode::Tmpfs(_))).collect();
    let mut readable = Vec::new();
    if namespaced {
        // The rest is the zygote's to allow: it is the same for every call.
        writable.extend(spec.private.iter().map(|_| bytes(system::PRIVATE)));
    } else {
        writable.extend(system::writable_in_place().iter().map(bytes));
        writable.extend(spec.private.iter().filter_map(|path| std::fs::canonicalize(path).ok()).map(bytes));
        readable.extend(system::readable_in_place().iter().map(bytes));
        readable.extend(places(|mode| *mode == Mode::ReadOnly));
    }
    Launch {
        program: bytes(if namespaced { &view.program } else { program }),
        args,
        env: env.collect(),
        workdir: bytes(&view.workdir),
        mounts,
        rlimits,
        writable,
        readable,
        no_network: spec.policy.network != Some(Network::Host),
        pid_max: 0,
    }
}

/// What has to be known to make the sandbox. `points` are where something will be mounted.
pub(super) fn want(resources: &ResourceLimits, host_network: bool, points: Vec<(Bytes, bool)>) -> Want {
    // What lies in there is memory.
    let tmp_size = resources.memory.map_or(TMP.0, |memory| memory.min(TMP.0));
    let tmp = (resources.tmp_size.unwrap_or(tmp_size), resources.tmp_files.unwrap_or(TMP.1));
    let limits = ResourceLimits {
        memory: resources.memory,
        pids: Some(resources.pids.unwrap_or(PIDS)),
        cpus: resources.cpus,
        ..ResourceLimits::default()
    };
    Want { kind: Kind { host_network, points, tmp }, limits }
}

/// Numbers of resources, and their soft and hard limits.
type Rlimits = Vec<Rlimit>;

/// A limit of each process: its number, soft and hard.
type Rlimit = (u32, (u64, u64));

/// Limits of each process (getrlimit(2)), a bound on process ids, and the names of the limits that hold only so.
pub(super) fn limits(
    resources: &ResourceLimits,
    offer: &Offer,
    namespaced: bool,
    in_cgroup: bool,
) -> (Rlimits, u32, Vec<String>) {
    /// Once all have been used, the kernel does not hand out ids below this one again (RESERVED_PIDS). So there are as many
    /// as are allowed; at the beginning, more.
    const RESERVED_PIDS: u32 = 300;
    let mut per_process = Vec::new();
    // 1, not 0: with 0 a program that gets core dumps handed (`core_pattern` with a pipe) is still started.
    let mut limits = vec![(libc::RLIMIT_CORE, (1, 1))];
    let hard = getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let open_files = resources.open_files.map_or(OPEN_FILES, u64::from).min(hard);
    limits.push((libc::RLIMIT_NOFILE, (open_files, open_files)));
    if let Some(bytes) = resources.file_size {
        limits.push((libc::RLIMIT_FSIZE, (bytes, bytes)));
    }
    if let Some(time) = resources.cpu_time {
        // Whole seconds, and one more before it cannot be caught.
        let seconds = (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1);
        limits.push((libc::RLIMIT_CPU, (seconds, seconds + 1)));
        if !in_cgroup {
            per_process.push("cpu_time".into());
        }
    }
    let mut pid_max = 0;
    if !in_cgroup {
        if let Some(bytes) = resources.memory {
            limits.push((libc::RLIMIT_DATA, (bytes, bytes)));
            per_process.push("memory".into());
        }
        if namespaced && offer.pid_max {
            pid_max = resources.pids.unwrap_or(PIDS).max(1).saturating_add(RESERVED_PIDS);
        }
    }
    (limits, pid_max, per_process)
}

/// What of policy and limits is nobody's to hold.
pub(super) fn not_held(
    spec: &LaunchSpec,
    namespaced: bool,
    in_cgroup: bool,
    bounds_pids: bool,
) -> Vec<String> {
    let is_in_writable = |path: &PathBuf| spec.policy.rw.iter().any(|outer| path.starts_with(outer));
    let words = spec.policy.words().chain(spec.resources.words());
    words
        .filter(|word| match *word {
            "hide" | "protect" | "tmpfs" | "tmp_size" | "tmp_files" => !namespaced,
            // Landlock takes nothing back that holds for a folder around it.
            "ro" => !namespaced && spec.policy.ro.iter().any(is_in_writable),
            "cpus" => !in_cgroup,
            "pids" => !in_cgroup && !bounds_pids,
            _ => false,
        })
        .map(String::from)
        .collect()
}
