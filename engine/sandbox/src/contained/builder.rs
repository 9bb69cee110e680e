//! How a launcher is set up.

use std::{path::PathBuf, sync::Arc};

use super::{Inner, Sandbox, zygote::Source};
use crate::{cgroup::Scope, level::Level};

/// Sets a [`Sandbox`] up.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct SandboxBuilder {
    pub(super) highest: Level,
    pub(super) user: Option<u32>,
    source: Option<PathBuf>,
    temp_dir: PathBuf,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) without_cgroup: bool,
    /// In place of what systemd makes.
    #[cfg(test)]
    pub(super) scope: Option<Scope>,
}

impl Default for SandboxBuilder {
    fn default() -> Self {
        Self {
            highest: Level::Full,
            user: None,
            source: None,
            temp_dir: "/tmp".into(),
            cgroup: None,
            without_cgroup: false,
            #[cfg(test)]
            scope: None,
        }
    }
}

impl SandboxBuilder {
    /// Uses no more than this level, even where there is more. Default: [`Level::Full`].
    pub fn highest(mut self, level: Level) -> Self {
        self.highest = level;
        self
    }

    /// The user that tools run as on the host, if we are root. Default: 65519, the last of those that systemd hands out to
    /// services for as long as they run, and so nobody's for ever. Where that one does not exist (we are root of a user namespace
    /// with nobody else in it), tools run as we do, as they do for who is not root; never as the machine's root.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// The zygote's program. Default: the one that this library carries.
    pub fn zygote(mut self, program: impl Into<PathBuf>) -> Self {
        self.source = Some(program.into());
        self
    }

    /// Where the zygote's program is put for a moment if the kernel does not execute it from memory. Default `/tmp`.
    pub fn temp_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.temp_dir = folder.into();
        self
    }

    /// A cgroup (version 2) that was delegated to us, to make those of calls in. Default: found, or had from systemd: where we are
    /// in the scope of a session, `systemd-run` makes one for the zygote.
    pub fn cgroup(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(folder.into());
        self
    }

    /// Makes no cgroups, and asks nobody for any. Limits hold for each process by itself, and the level is
    /// [`Level::NoCgroup`] at most.
    pub fn without_cgroup(mut self) -> Self {
        self.without_cgroup = true;
        self
    }

    /// The launcher. Nothing is tried out yet.
    pub fn build(self) -> Sandbox {
        Sandbox(Arc::new(Inner::new(self)))
    }
}

impl SandboxBuilder {
    pub(super) fn wants_cgroups(&self) -> bool {
        !self.without_cgroup && matches!(self.highest, Level::Full | Level::NoNamespaces)
    }

    pub(super) fn scope(&self) -> Option<Scope> {
        #[cfg(test)]
        if self.scope.is_some() {
            return self.scope.clone();
        }
        (self.wants_cgroups() && self.cgroup.is_none()).then(Scope::find).flatten()
    }

    pub(super) fn source(&self) -> Source {
        match &self.source {
            Some(path) => Source::File(path.clone()),
            None => Source::Carried { temp_dir: self.temp_dir.clone() },
        }
    }
}
