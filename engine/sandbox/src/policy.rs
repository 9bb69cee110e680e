//! What a tool may touch, and how much it may use: the words that manifests, programs and command lines share.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::level::Level;

/// What a tool may touch. What is not named is not restricted by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whom it may connect to.
    pub network: Option<Network>,
    /// Files and folders that it may read. Absolute paths.
    pub ro: Vec<PathBuf>,
    /// Files and folders that it may also write. Absolute paths.
    pub rw: Vec<PathBuf>,
    /// Files and folders that it must not see, though they lie in one that it may. Absolute paths.
    pub hide: Vec<PathBuf>,
    /// The least [`Level`] that will do. Without it, what the rest needs: see [`least_level`](Self::least_level).
    pub level: Option<Level>,
}

/// Whom a tool may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nobody.
    None,
    /// Whomever the host can reach.
    Host,
}

/// How much a tool may use. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceLimits {
    /// Bytes of memory, of all its processes together.
    pub memory: Option<u64>,
    /// Processes and threads at a time.
    pub pids: Option<u32>,
    /// A share of processors: 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Time on processors, in all.
    pub cpu_time: Option<Duration>,
    /// Bytes of the largest file it may write.
    pub file_size: Option<u64>,
    /// Open files of one process.
    pub open_files: Option<u32>,
}

impl Policy {
    /// The least level that will do: the one that is named, or else what the restrictions need to be enforced.
    pub fn least_level(&self) -> Level {
        let paths = !self.ro.is_empty() || !self.rw.is_empty();
        self.level.unwrap_or(match self.network {
            // Only a network namespace keeps every protocol in, only a mount namespace puts a file out of sight.
            Some(Network::None) => Level::NoCgroup,
            _ if !self.hide.is_empty() => Level::NoCgroup,
            _ if paths => Level::Basic,
            _ => Level::None,
        })
    }
}

impl ResourceLimits {
    /// The least level that can enforce these limits, if only for each process by itself.
    pub fn least_level(&self) -> Level {
        if *self == Self::default() { Level::None } else { Level::Basic }
    }

    /// These limits, with `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            memory: self.memory.or(below.memory),
            pids: self.pids.or(below.pids),
            cpus: self.cpus.or(below.cpus),
            cpu_time: self.cpu_time.or(below.cpu_time),
            file_size: self.file_size.or(below.file_size),
            open_files: self.open_files.or(below.open_files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restriction_needs_a_level_that_can_enforce_it() {
        assert_eq!(Policy::default().least_level(), Level::None);
        assert_eq!(Policy { ro: vec!["/a".into()], ..Policy::default() }.least_level(), Level::Basic);
        let offline = Policy { network: Some(Network::None), ..Policy::default() };
        assert_eq!(offline.least_level(), Level::NoCgroup);
        assert_eq!(
            Policy { level: Some(Level::None), ..offline }.least_level(),
            Level::None,
            "who says so, gets so"
        );
        assert_eq!(ResourceLimits { pids: Some(9), ..ResourceLimits::default() }.least_level(), Level::Basic);
    }
}
