//! Starts the process of one tool call, watches it, kills it with everything it started, and reaps it.
//!
//! There is no async runtime in here: what may block says so, and what must be awaited is handed out as a file
//! descriptor ([`Launched::exit`]). How much of a call is contained depends on the [`Level`]; [`ProcessGroups`] is the
//! launcher for [`Level::None`].

mod cgroup;
mod contained;
mod launch;
mod level;
mod policy;
mod process_group;
mod procfs;
mod program;
mod residue;
mod vitals;
mod wait;

pub use cgroup::{Cgroup, CgroupError, CgroupVersion, Cgroups, Counters, NoCgroups, System};
pub use contained::{
    CgroupFound, Examination, FolderFound, LandlockFound, Owners, Remark, Sandbox, SandboxBuilder, Trial,
    ZygoteFound,
};
pub use launch::{
    Architecture, Counted, Exit, ExitStatus, LaunchError, LaunchSpec, LaunchStep, Launched, Launcher,
    Missing, Process, Stdin, Usage,
};
pub use level::{Enforced, Landlock, Level, Proc};
pub use policy::{Network, Policy, ResourceLimits, Tmpfs};
pub use process_group::ProcessGroups;
pub use procfs::own_prefix;
pub use residue::{EXECUTION_VARIABLE, Residents, Residue, ScanTarget, Straggler, Swept, scan};
pub use vitals::{LauncherVitals, ProcessVitals, ZygoteVitals};
