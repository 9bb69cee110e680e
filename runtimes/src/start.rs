//! How each runtime is started for a tool: the arguments and variables that keep the working folder, the home folder and
//! the network from changing what runs.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use tool_engine::{CHANNEL_PLACEHOLDER, Level, Network, Plan, Policy, Protocol};

use crate::{
    runtime::{Runtime, Version},
    tool::Tool,
};

/// What is known when a script is started.
pub(crate) struct Script<'a> {
    pub(crate) tool: &'a Tool,
    pub(crate) runtime: Runtime,
    pub(crate) program: &'a Path,
    /// Absolute.
    pub(crate) entry: &'a Path,
    pub(crate) export: Option<&'a str>,
    /// Where the runtime has a worker.
    pub(crate) loader: Option<&'a Loader>,
}

/// What loads a tool's file.
pub(crate) struct Loader {
    /// The worker script.
    pub(crate) worker: PathBuf,
    /// The runtime's version, where it was told.
    pub(crate) version: Option<Version>,
    /// A folder of ours, for what a runtime keeps.
    pub(crate) folder: PathBuf,
}

impl Script<'_> {
    pub(crate) fn plan(&self) -> Plan {
        let Some(Loader { worker, version, folder }) = self.loader else {
            let mut plan = Plan::new(self.program, Protocol::Stdio);
            plan.args.push(self.entry.into());
            return plan;
        };
        let mut plan = Plan::new(self.program, Protocol::Channel { config: self.tool.config.clone() });
        let (args, env) = match self.runtime {
            Runtime::Bun => bun(self.entry),
            Runtime::Node => node(*version),
            Runtime::Deno => deno(&self.tool.policy, self.entry, folder),
            Runtime::Python => python(),
            Runtime::Shell | Runtime::Command => Default::default(),
        };
        plan.args = args;
        plan.args.push(worker.into());
        plan.args.push(self.entry.into());
        plan.args.extend(self.export.map(Into::into));
        plan.env = env;
        plan
    }
}

type Start = (Vec<OsString>, Vec<(String, String)>);

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// Against `.env` files, `bunfig.toml` with its preloads, packages fetched on the fly, and a `tsconfig.json` of the working
/// folder, whose `paths` could catch the worker itself.
fn bun(entry: &Path) -> Start {
    let mut args = words(&["--no-env-file", "--config=/dev/null", "--no-install"]);
    let mut tsconfig = OsString::from("--tsconfig-override=");
    tsconfig.push(own_tsconfig(entry).unwrap_or_else(|| "/dev/null".into()));
    args.push(tsconfig);
    // Compiled files are not kept: Bun would do so in the home folder, which is a `/tmp` that others can write to.
    (args, vec![("BUN_RUNTIME_TRANSPILER_CACHE_PATH".into(), "0".into())])
}

/// The `tsconfig.json` of the package that the tool belongs to: in the tool's folder, or above it up to the folder with
/// the package's `package.json`. Without one only the tool's own folder counts: what is above may be anybody's.
fn own_tsconfig(entry: &Path) -> Option<PathBuf> {
    let folders = || entry.ancestors().skip(1);
    let package = folders().position(|folder| folder.join("package.json").is_file()).unwrap_or(0);
    folders().take(package + 1).map(|folder| folder.join("tsconfig.json")).find(|file| file.is_file())
}

/// The folder of the package that a tool belongs to, or else its own.
fn package_folder(entry: &Path) -> &Path {
    let own = entry.parent().unwrap_or(entry);
    own.ancestors().find(|folder| folder.join("package.json").is_file()).unwrap_or(own)
}

/// The first version that runs TypeScript without being asked to.
pub(crate) const NODE_TYPESCRIPT: Version = Version(22, 18, 0);

fn node(version: Option<Version>) -> Start {
    let mut args = words(&[
        "--no-global-search-paths",
        "--experimental-detect-module",
        "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON",
    ]);
    if version.is_some_and(|version| version >= NODE_TYPESCRIPT) {
        // That it runs TypeScript is news to nobody here.
        args.push("--disable-warning=ExperimentalWarning".into());
    }
    (args, Vec::new())
}

/// Against `deno.json`, lock files, packages fetched on the fly, and questions. What a policy forbids is forbidden to Deno,
/// too, on top of the sandbox.
fn deno(policy: &Policy, entry: &Path, cache: &Path) -> Start {
    let mut args = words(&[
        "run",
        "--no-prompt",
        "--no-config",
        "--no-lock",
        "--no-remote",
        // Packages come from the tool's own node_modules; without this they would be fetched.
        "--node-modules-dir=manual",
        "--unstable-detect-cjs",
    ]);
    args.extend(deno_permissions(policy, entry));
    let env = [
        // What Deno keeps it would keep in the home folder, which is a `/tmp` that others can write to.
        ("DENO_DIR", cache.join("deno").display().to_string()),
        ("DENO_NO_UPDATE_CHECK", "1".into()),
        ("NO_COLOR", "1".into()),
    ];
    (args, env.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

/// Without a policy: everything, as in every other runtime. With one, only what it names, and what the tool itself and its
/// channel need. Programs and native libraries are out of Deno's reach, so they may be used only where the kernel
/// enforces the policy on them.
fn deno_permissions(policy: &Policy, entry: &Path) -> Vec<OsString> {
    if *policy == Policy::default() || *policy == (Policy { level: policy.level, ..Policy::default() }) {
        return words(&["--allow-all"]);
    }
    let list = |flag: &str, paths: Vec<&Path>| {
        let mut word = OsString::from(flag);
        for (index, path) in paths.into_iter().enumerate() {
            word.push(if index == 0 { "=" } else { "," });
            // A comma in a path is written twice.
            word.push(path.to_string_lossy().replace(',', ",,"));
        }
        word
    };
    let channel = Path::new(CHANNEL_PLACEHOLDER);
    let (ro, rw) = (policy.ro.iter().map(PathBuf::as_path), policy.rw.iter().map(PathBuf::as_path));
    let mut args = vec![
        list(
            "--allow-read",
            [channel, package_folder(entry)].into_iter().chain(ro).chain(rw.clone()).collect(),
        ),
        list("--allow-write", [channel].into_iter().chain(rw).collect()),
        "--allow-env".into(),
        "--allow-sys".into(),
    ];
    if !policy.hide.is_empty() {
        let hidden = || policy.hide.iter().map(PathBuf::as_path).collect();
        args.extend([list("--deny-read", hidden()), list("--deny-write", hidden())]);
    }
    if policy.network != Some(Network::None) {
        args.push("--allow-net".into());
    }
    if policy.least_level() > Level::None {
        args.extend(words(&["--allow-run", "--allow-ffi"]));
    }
    args
}

/// Against `PYTHON*` variables, the working folder and the user's own packages; files are UTF-8 whatever the locale says; and
/// no compiled ones are written.
fn python() -> Start {
    (words(&["-I", "-B", "-X", "utf8"]), Vec::new())
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

    #[test]
    fn denos_permissions_follow_the_policy() {
        let flags = |policy: Policy| {
            let words = deno_permissions(&policy, Path::new("/t/tool.ts"));
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(flags(Policy::default()), "--allow-all");
        let offline = Policy {
            network: Some(Network::None),
            ro: vec!["/data".into()],
            rw: vec!["/out".into()],
            hide: vec!["/data/key".into()],
            level: Some(Level::None),
        };
        let channel = CHANNEL_PLACEHOLDER;
        assert_eq!(
            flags(offline.clone()),
            format!(
                "--allow-read={channel},/t,/data,/out --allow-write={channel},/out --allow-env --allow-sys \
                 --deny-read=/data/key --deny-write=/data/key"
            )
        );
        let contained = flags(Policy { level: None, network: Some(Network::Host), ..offline });
        assert!(contained.ends_with("--allow-net --allow-run --allow-ffi"), "{contained}");
    }
}
