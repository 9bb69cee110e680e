//! What a tool may touch, and how much it may use: the words that manifests, programs and command lines share.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{contained::PROTECTED, level::Level};

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
    /// Folders that are empty and writable, and gone when the call ends. Absolute paths.
    pub tmpfs: Vec<Tmpfs>,
    /// Files and folders that it may not write to though they lie in one that it may; what [`rw`](Self::rw) names itself
    /// it may. What is not there is not protected. Absolute paths.
    pub protect: Vec<PathBuf>,
    /// The user that it runs as on the host, by number; not 0. Only root can choose. Default: one that owns nothing.
    pub user: Option<u32>,
    /// The least [`Level`] that will do. Without it, what the rest needs: see [`least_level`](Self::least_level).
    pub level: Option<Level>,
}

/// A folder in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where.
    pub path: PathBuf,
    /// How much fits in, in bytes. Default: as much as into `/tmp`.
    pub size: Option<u64>,
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
    /// Bytes in `/tmp`, and in `/dev/shm`.
    pub tmp_size: Option<u64>,
    /// Files and folders in `/tmp`, and in `/dev/shm`.
    pub tmp_files: Option<u64>,
}

impl Policy {
    /// The least level that will do: the one that is named, or else what the restrictions need to be enforced.
    pub fn least_level(&self) -> Level {
        let paths = !self.ro.is_empty() || !self.rw.is_empty();
        self.level.unwrap_or(match self.network {
            // Only a network namespace keeps every protocol in, only a mount namespace puts a file out of sight.
            Some(Network::None) => Level::NoCgroup,
            _ if !self.hide.is_empty() || !self.tmpfs.is_empty() || self.user.is_some() => Level::NoCgroup,
            _ if paths => Level::Basic,
            _ => Level::None,
        })
    }

    /// This policy, with `below` where it says nothing. Of a path that both name, `below` is not heard; nor is its level:
    /// who accepts less containment says so for each tool.
    #[must_use]
    pub fn over(mut self, below: &Self) -> Self {
        let named: Vec<PathBuf> = self.paths().cloned().collect();
        let new = |path: &&PathBuf| !named.contains(path);
        let (ro, rw, hide): (Vec<_>, Vec<_>, Vec<_>) = (
            below.ro.iter().filter(new).cloned().collect(),
            below.rw.iter().filter(new).cloned().collect(),
            below.hide.iter().filter(new).cloned().collect(),
        );
        self.tmpfs.extend(below.tmpfs.iter().filter(|tmpfs| !named.contains(&tmpfs.path)).cloned());
        // Of one that both protect once is enough.
        let protect: Vec<_> =
            below.protect.iter().filter(|path| !self.protect.contains(path)).cloned().collect();
        self.protect.extend(protect);
        self.ro.extend(ro);
        self.rw.extend(rw);
        self.hide.extend(hide);
        Self { network: self.network.or(below.network), user: self.user.or(below.user), ..self }
    }

    /// The words for what it restricts.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        [
            ("network", self.network == Some(Network::None)),
            ("ro", !self.ro.is_empty()),
            ("rw", !self.rw.is_empty()),
            ("hide", !self.hide.is_empty()),
            ("protect", !self.protect.is_empty()),
            ("tmpfs", !self.tmpfs.is_empty()),
            ("user", self.user.is_some()),
        ]
        .into_iter()
        .filter_map(|(word, named)| named.then_some(word))
    }

    /// All paths that are named. What is only protected is not: it is shown where what it lies in is.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let tmpfs = self.tmpfs.iter().map(|tmpfs| &tmpfs.path);
        self.ro.iter().chain(&self.rw).chain(&self.hide).chain(tmpfs)
    }

    /// The same with the paths that are really meant: without links, where what they lead to is there, and without `..`.
    /// Blocks.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let all = |paths: &[PathBuf]| paths.iter().map(|path| resolved(path)).collect();
        let tmpfs = |tmpfs: &Tmpfs| Tmpfs { path: resolved(&tmpfs.path), size: tmpfs.size };
        Self {
            ro: all(&self.ro),
            rw: all(&self.rw),
            hide: all(&self.hide),
            protect: all(&self.protect),
            tmpfs: self.tmpfs.iter().map(tmpfs).collect(),
            ..*self
        }
    }

    /// What may be done where the path lies: what is said of the nearest place around it.
    fn access(&self, path: &Path) -> Option<Access> {
        let tmpfs = self.tmpfs.iter().map(|tmpfs| &tmpfs.path);
        let places = (self.ro.iter().map(|place| (place, Access::Read)))
            .chain(self.rw.iter().map(|place| (place, Access::Write)))
            .chain(self.hide.iter().map(|place| (place, Access::None)))
            // What is on disk there is out of sight.
            .chain(tmpfs.map(|place| (place, Access::None)));
        let around = places.filter(|(place, _)| path.starts_with(place));
        let (place, access) = around.max_by_key(|(place, _)| place.components().count())?;
        let is_protected = self.protect.iter().any(|kept| kept != place && path.starts_with(kept))
            || PROTECTED.iter().any(|name| path.starts_with(place.join(name)));
        Some(if access == Access::Write && is_protected { Access::Read } else { access })
    }

    /// What of this policy allows more than `tool` does: the word for it, and the path, if it is about one. A call may be
    /// stricter than its tool, not laxer. Of paths as they are written: see [`resolved`](Self::resolved).
    pub fn exceeds(&self, tool: &Self) -> Option<(&'static str, Option<&PathBuf>)> {
        if self.network == Some(Network::Host) && tool.network != Some(Network::Host) {
            return Some(("network", None));
        }
        if self.level == Some(Level::None) && tool.level != Some(Level::None) {
            return Some(("level", None));
        }
        if self.user.is_some() && self.user != tool.user {
            return Some(("user", None));
        }
        let beyond = |paths: &'_ [PathBuf], least| {
            paths.iter().position(|path| tool.access(path).unwrap_or(Access::None) < least)
        };
        if let Some(found) = beyond(&self.ro, Access::Read) {
            return Some(("ro", self.ro.get(found)));
        }
        beyond(&self.rw, Access::Write).map(|found| ("rw", self.rw.get(found)))
    }
}

/// What may be done with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    None,
    Read,
    Write,
}

/// Where a path leads; what is not there, or cannot be looked at, is taken at its word.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    plain.pop();
                }
                other => plain.push(other),
            }
        }
        plain
    })
}

impl ResourceLimits {
    /// The least level that can enforce these limits, if only for each process by itself.
    pub fn least_level(&self) -> Level {
        if *self == Self::default() { Level::None } else { Level::Basic }
    }

    /// The names of the limits that are set.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        [
            ("memory", self.memory.is_some()),
            ("pids", self.pids.is_some()),
            ("cpus", self.cpus.is_some()),
            ("cpu_time", self.cpu_time.is_some()),
            ("file_size", self.file_size.is_some()),
            ("open_files", self.open_files.is_some()),
            ("tmp_size", self.tmp_size.is_some()),
            ("tmp_files", self.tmp_files.is_some()),
        ]
        .into_iter()
        .filter_map(|(word, set)| set.then_some(word))
    }

    /// The name of a limit that is higher here than in `tool`, or set there and not here. A call may ask for less than its
    /// tool, not for more.
    pub fn exceeds(&self, tool: &Self) -> Option<&'static str> {
        fn more<T: PartialOrd>(asked: Option<T>, allowed: Option<T>) -> bool {
            matches!((asked, allowed), (Some(asked), Some(allowed)) if asked > allowed)
        }
        let raised = [
            ("memory", more(self.memory, tool.memory)),
            ("pids", more(self.pids, tool.pids)),
            ("cpus", more(self.cpus, tool.cpus)),
            ("cpu_time", more(self.cpu_time, tool.cpu_time)),
            ("file_size", more(self.file_size, tool.file_size)),
            ("open_files", more(self.open_files, tool.open_files)),
            ("tmp_size", more(self.tmp_size, tool.tmp_size)),
            ("tmp_files", more(self.tmp_files, tool.tmp_files)),
        ];
        raised.iter().find(|(_, raised)| *raised).map(|(name, _)| *name)
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
            tmp_size: self.tmp_size.or(below.tmp_size),
            tmp_files: self.tmp_files.or(below.tmp_files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_wins_over_the_one_below_it_and_may_only_be_stricter() {
        let tool = Policy { ro: vec!["/a".into()], rw: vec!["/b".into()], ..Policy::default() };
        let call = Policy { ro: vec!["/b".into()], hide: vec!["/a/c".into()], ..Policy::default() };
        assert_eq!(call.exceeds(&tool), None);
        let both = call.over(&tool);
        assert_eq!((both.ro, both.rw.is_empty()), (vec!["/b".into(), "/a".into()], true));
        let exceeds = |call: Policy| call.exceeds(&tool).map(|(word, _)| word);
        assert_eq!(exceeds(Policy { rw: vec!["/a".into()], ..Policy::default() }), Some("rw"));
        assert_eq!(exceeds(Policy { rw: vec!["/b/x".into()], ..Policy::default() }), None);
        assert_eq!(exceeds(Policy { ro: vec!["/c".into()], ..Policy::default() }), Some("ro"));
        assert_eq!(exceeds(Policy { network: Some(Network::Host), ..Policy::default() }), Some("network"));
        assert_eq!(exceeds(Policy { level: Some(Level::None), ..Policy::default() }), Some("level"));
    }

    #[test]
    fn a_call_cannot_open_what_its_tool_keeps_shut_within_what_it_may() {
        let tool = Policy {
            ro: vec!["/a".into(), "/b/kept".into()],
            rw: vec!["/b".into(), "/a/.git/hooks/mine".into()],
            hide: vec!["/a/secret".into()],
            tmpfs: vec![Tmpfs { path: "/b/cache".into(), size: None }],
            protect: vec!["/b/tools.toml".into()],
            ..Policy::default()
        };
        let ro = |path: &str| Policy { ro: vec![path.into()], ..Policy::default() };
        let rw = |path: &str| Policy { rw: vec![path.into()], ..Policy::default() };
        let word = |call: Policy| call.exceeds(&tool).map(|(word, _)| word);
        for path in ["/a/secret", "/a/secret/inner", "/b/cache", "/b/cache/inner", "/c"] {
            assert_eq!(word(ro(path)), Some("ro"), "{path}");
        }
        for path in ["/b/kept", "/b/kept/inner", "/b/tools.toml", "/b/.git/hooks", "/b/.bashrc", "/a/x"] {
            assert_eq!(word(rw(path)), Some("rw"), "{path}");
        }
        for path in ["/a", "/a/x", "/b/kept", "/b/tools.toml", "/b/.git/hooks"] {
            assert_eq!(word(ro(path)), None, "{path}");
        }
        for path in ["/b", "/b/x", "/a/.git/hooks/mine"] {
            assert_eq!(word(rw(path)), None, "{path}");
        }
    }

    #[test]
    fn links_and_dots_lead_to_what_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("in")).unwrap();
        std::os::unix::fs::symlink("/usr", path.join("in/link")).unwrap();
        let tool = Policy { rw: vec![path.join("in")], ..Policy::default() };
        for way in ["in/link", "in/link/bin", "in/../..", "in/gone/../../x"] {
            let call = Policy { rw: vec![path.join(way)], ..Policy::default() };
            assert!(call.resolved().exceeds(&tool.resolved()).is_some(), "{way}");
        }
        let call = Policy { rw: vec![path.join("in/gone/../x")], ..Policy::default() };
        assert_eq!(call.resolved().exceeds(&tool.resolved()), None);
    }

    #[test]
    fn what_one_layer_protects_the_other_cannot_open() {
        let tool = Policy { protect: vec!["/a/tools.toml".into()], ..Policy::default() };
        let call = Policy { protect: vec!["/a/b".into()], ..Policy::default() };
        let both = call.over(&tool).over(&tool);
        assert_eq!(both.protect, [PathBuf::from("/a/b"), PathBuf::from("/a/tools.toml")]);
        assert_eq!(both.paths().count(), 0);
        assert_eq!(
            both.least_level(),
            Level::None,
            "there is nothing to protect where nothing may be written"
        );
    }

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
