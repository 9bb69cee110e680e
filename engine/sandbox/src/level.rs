//! How much of a policy a machine can enforce.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupVersion;

/// How much of a policy is enforced by the kernel, from nothing to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A process group of its own and a clean environment. The tool can read, write and connect to what its user can,
    /// and a descendant that leaves the group is found only by the pipes it holds or the environment it inherited.
    None,
    /// Landlock, seccomp, a process group, and a subreaper that sweeps up what left the group.
    Basic,
    /// A cgroup and Landlock and seccomp, without user namespaces.
    NoNamespaces,
    /// Namespaces, Landlock and seccomp, without a cgroup: limits are per process.
    NoCgroup,
    /// Namespaces, a cgroup, Landlock and seccomp.
    Full,
}

impl Level {
    /// The level with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Level::None, Level::Basic, Level::NoNamespaces, Level::NoCgroup, Level::Full]
            .get(usize::from(number))
            .copied()
    }

    /// The level as a number, 0 (nothing) to 4 (everything).
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self {
            Level::None => "process group only",
            Level::Basic => "Landlock, seccomp and process group",
            Level::NoNamespaces => "cgroup, Landlock and seccomp, no namespaces",
            Level::NoCgroup => "namespaces, Landlock and seccomp, no cgroup",
            Level::Full => "namespaces, cgroup, Landlock and seccomp",
        };
        write!(f, "level {} ({words})", self.number())
    }
}

/// What was really enforced on an execution; part of every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enforced {
    /// The level the execution ran at.
    pub level: Level,
    /// The kinds of namespaces that it had for itself (namespaces(7)).
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// The fence around files, if there was one.
    #[serde(default)]
    pub landlock: Option<Landlock>,
    /// Whether system calls were filtered.
    #[serde(default)]
    pub seccomp: bool,
    /// The version of the cgroup it was in.
    #[serde(default)]
    pub cgroup: Option<CgroupVersion>,
    /// The user it ran as on the host.
    #[serde(default)]
    pub user: Option<u32>,
    /// Which `/proc` it saw.
    #[serde(default)]
    pub proc: Proc,
    /// Which of the limits hold for each of its processes only, not for all of them together.
    #[serde(default)]
    pub per_process: Vec<String>,
    /// What policy and limits ask for and nobody holds at this level. Only a call that accepts the level by name runs so.
    #[serde(default)]
    pub not_held: Vec<String>,
}

impl Enforced {
    /// Nothing but a process group.
    pub fn nothing() -> Self {
        Self {
            level: Level::None,
            namespaces: Vec::new(),
            landlock: None,
            seccomp: false,
            cgroup: None,
            user: None,
            proc: Proc::Host,
            per_process: Vec::new(),
            not_held: Vec::new(),
        }
    }
}

/// What Landlock (landlock(7)) did, as it was tried out on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Landlock {
    /// The kernel's ABI.
    pub abi: u32,
    /// Whether it kept abstract sockets and signals in, too.
    pub scopes: bool,
}

/// Which `/proc` a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proc {
    /// The host's.
    #[default]
    Host,
    /// Its own, which shows nothing but the call.
    Own,
    /// None: it cannot be mounted here.
    None,
}
