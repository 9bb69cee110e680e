//! Tools in Bun.

use std::path::{Path, PathBuf};

use tool_engine::{Plan, Protocol};

use crate::tool::Tool;

/// A Bun binary. The library looks for none: it is told.
#[derive(Debug, Clone)]
pub struct Bun {
    path: PathBuf,
}

/// What keeps the working folder from changing what runs: `.env` files, `bunfig.toml` with its preloads, packages fetched
/// on the fly, and a `tsconfig.json` whose `paths` could catch the worker itself.
const FLAGS: [&str; 4] =
    ["--no-env-file", "--config=/dev/null", "--no-install", "--tsconfig-override=/dev/null"];

impl Bun {
    /// The binary at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// What to start for a tool in `entry`.
    pub(crate) fn plan(&self, worker: &Path, tool: &Tool, entry: &Path, export: Option<&str>) -> Plan {
        let mut plan = Plan::new(&self.path, Protocol::Channel { config: tool.config.clone() });
        plan.args = FLAGS.iter().map(Into::into).collect();
        plan.args.push(worker.into());
        plan.args.push(entry.into());
        plan.args.extend(export.map(Into::into));
        plan
    }
}
