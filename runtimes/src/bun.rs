//! Tools in Bun.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use tool_engine::{Plan, Protocol};

use crate::tool::Tool;

/// A Bun binary. The library looks for none: it is told.
#[derive(Debug, Clone)]
pub struct Bun {
    path: PathBuf,
}

/// What keeps the working folder from changing what runs: `.env` files, `bunfig.toml` with its preloads, and packages
/// fetched on the fly.
const FLAGS: [&str; 3] = ["--no-env-file", "--config=/dev/null", "--no-install"];

/// Compiled files are not kept: Bun would do so in the home folder, which is a `/tmp` that others can write to.
const NO_CACHE: (&str, &str) = ("BUN_RUNTIME_TRANSPILER_CACHE_PATH", "0");

impl Bun {
    /// The binary at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// What to start for a tool in `entry`.
    pub(crate) fn plan(&self, worker: &Path, tool: &Tool, entry: &Path, export: Option<&str>) -> Plan {
        let mut plan = Plan::new(&self.path, Protocol::Channel { config: tool.config.clone() });
        plan.args = FLAGS.iter().map(Into::into).collect();
        // Bun takes the working folder's, whose `paths` could catch the worker itself.
        let mut tsconfig = OsString::from("--tsconfig-override=");
        tsconfig.push(own_tsconfig(entry).unwrap_or_else(|| "/dev/null".into()));
        plan.args.push(tsconfig);
        plan.args.push(worker.into());
        plan.args.push(entry.into());
        plan.args.extend(export.map(Into::into));
        plan.env.push((NO_CACHE.0.into(), NO_CACHE.1.into()));
        plan
    }
}

/// The `tsconfig.json` of the package that the tool belongs to: in the tool's folder, or above it up to the folder with
/// the package's `package.json`. Without one only the tool's own folder counts: what is above may be anybody's.
fn own_tsconfig(entry: &Path) -> Option<PathBuf> {
    let folders = || entry.ancestors().skip(1);
    let package = folders().position(|folder| folder.join("package.json").is_file()).unwrap_or(0);
    folders().take(package + 1).map(|folder| folder.join("tsconfig.json")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_packages_own_tsconfig_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("package/src");
        fs::create_dir_all(&folder).unwrap();
        let (entry, outer) = (folder.join("tool.ts"), root.path().join("tsconfig.json"));
        fs::write(&outer, "{}").unwrap();
        assert_eq!(own_tsconfig(&entry), None);
        fs::write(root.path().join("package/package.json"), "{}").unwrap();
        assert_eq!(own_tsconfig(&entry), None);
        let own = root.path().join("package/tsconfig.json");
        fs::write(&own, "{}").unwrap();
        assert_eq!(own_tsconfig(&entry), Some(own));
    }
}
