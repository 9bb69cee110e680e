//! How each runtime is started for a tool: the arguments and variables that keep the working folder, the home folder and
//! the network from changing what runs.

use std::{
    ffi::OsString,
    fs,
    io::Read,
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
            plan.shows = self.shows();
            return plan;
        };
        let mut plan = Plan::new(self.program, Protocol::Channel { config: self.tool.config.clone() });
        let (args, env) = match self.runtime {
            Runtime::Bun => bun(self.entry),
            Runtime::Node => node(*version, self.entry),
            Runtime::Deno => deno(&self.tool.policy, self.entry, folder),
            Runtime::Python => python(),
            Runtime::Shell | Runtime::Command => Default::default(),
        };
        plan.args = args;
        plan.args.push(worker.into());
        plan.args.push(self.entry.into());
        plan.args.extend(self.export.map(Into::into));
        plan.env = env;
        plan.shows = self.shows();
        plan.shows.push(folder.clone());
        plan
    }

    /// What belongs to the tool: its package, and the packages that this one finds above itself.
    fn shows(&self) -> Vec<PathBuf> {
        let package = package_folder(self.entry);
        let modules = package.ancestors().skip(1).map(|above| above.join("node_modules"));
        let modules = modules.filter(|folder| self.runtime.is_javascript() && folder.is_dir());
        [package.to_owned()].into_iter().chain(modules).collect()
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
    let marks = ["package.json", "pyproject.toml"];
    let is_package = |folder: &&Path| marks.iter().any(|mark| folder.join(mark).is_file());
    own.ancestors().find(is_package).unwrap_or(own)
}

/// The first version that runs TypeScript without being asked to.
pub(crate) const NODE_TYPESCRIPT: Version = Version(22, 18, 0);

/// The first version that only takes types out of TypeScript: enums and namespaces, which have to be made into JavaScript,
/// it refuses, and it refuses to start with the option that asked for them.
const NODE_STRIPS_ONLY: Version = Version(26, 0, 0);

fn node(version: Option<Version>, entry: &Path) -> Start {
    let mut args = words(&[
        "--no-global-search-paths",
        "--experimental-detect-module",
        "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON",
    ]);
    if version.is_some_and(|version| version >= NODE_TYPESCRIPT) {
        // That it runs TypeScript is news to nobody here.
        args.push("--disable-warning=ExperimentalWarning".into());
    }
    if version.is_some_and(|version| (NODE_TYPESCRIPT..NODE_STRIPS_ONLY).contains(&version))
        && may_need_more_than_stripping(entry)
    {
        args.push("--experimental-transform-types".into());
    }
    (args, Vec::new())
}

/// Whether a file, or one that it imports, may have enums, namespaces and the like, which Bun and Deno run, too. To ask Node.js
/// for them without need makes TypeScript take 50 ms longer; JavaScript takes no longer for it.
fn may_need_more_than_stripping(entry: &Path) -> bool {
    const WORDS: [&str; 9] =
        ["enum", "module", "namespace", "override", "private", "protected", "public", "readonly", "require"];
    // Beginnings of what leads to other files of the tool's.
    const IMPORTED: [&str; 4] = ["./", "../", "/", "#"];
    const LONGEST: u64 = 1 << 20;
    let typescript = entry.extension().is_some_and(|ending| ending.to_string_lossy().contains("ts"));
    let mut text = String::new();
    let read = fs::File::open(entry).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    if !typescript || !read.is_ok_and(|length| length as u64 <= LONGEST) {
        return true;
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    // As a word before a name: in `enum: [` it is a key of a schema.
    let declares = |word: &&str| {
        text.match_indices(word).any(|(at, _)| {
            let after = &text[at + word.len()..];
            let name = after.trim_start();
            !text[..at].ends_with(is_name) && name.len() < after.len() && name.starts_with(is_name)
        })
    };
    let imports = |quote| {
        text.split(quote).skip(1).any(|rest: &str| IMPORTED.iter().any(|place| rest.starts_with(place)))
    };
    WORDS.iter().any(declares)
        || ["require(", "export =", "file:"].into_iter().any(|word| text.contains(word))
        || ['"', '\'', '`'].into_iter().any(imports)
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
    let Policy { network, ro, rw, hide, tmpfs, .. } = policy;
    if network.is_none() && [ro, rw, hide].iter().all(|paths| paths.is_empty()) && tmpfs.is_empty() {
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
    let ro = ro.iter().map(PathBuf::as_path);
    let rw = rw.iter().chain(tmpfs.iter().map(|tmpfs| &tmpfs.path)).map(PathBuf::as_path);
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
    fn node_is_asked_for_all_of_typescript_where_it_knows_that_and_it_may_be_needed() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |name: &str, text: &str, version: Option<Version>| {
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            node(version, &file).0.iter().any(|word| word == "--experimental-transform-types")
        };
        let with_enum = |version| asked("a.ts", "enum A { B }", version);
        for version in [Version(22, 18, 0), Version(24, 21, 0), Version(25, 9, 0)] {
            assert!(with_enum(Some(version)), "{version}");
        }
        for version in [Version(20, 11, 0), Version(22, 17, 9), Version(26, 0, 0)] {
            assert!(!with_enum(Some(version)), "{version}");
        }
        assert!(!with_enum(None));
        for (name, text, expected) in [
            ("a.ts", "export default (a: string): number => a.length;", false),
            ("a.ts", "import { readFile } from \"node:fs\"; const enumerated = '';", false),
            ("a.ts", "export const inputSchema = { enum: ['a.b', \".\"] };", false),
            ("a.ts", "export enum\tA { B }", true),
            ("a.ts", "import a = b.c; import fs = require('fs');", true),
            ("a.ts", "class A { constructor(private b: number) {} }", true),
            ("a.mts", "import { B } from './b.ts';", true),
            ("a.ts", "await import(`#lib/b`);", true),
            ("a.mjs", "export default () => 1;", true),
        ] {
            assert_eq!(asked(name, text, Some(Version(24, 21, 0))), expected, "{text}");
        }
        assert!(may_need_more_than_stripping(Path::new("/nonexistent/a.ts")));
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
            ..Policy::default()
        };
        let channel = CHANNEL_PLACEHOLDER;
        assert_eq!(
            flags(offline.clone()),
            format!(
                "--allow-read={channel},/t,/data,/out --allow-write={channel},/out --allow-env --allow-sys \
                 --deny-read=/data/key --deny-write=/data/key"
            )
        );
        let memory = Policy {
            tmpfs: vec![tool_engine::Tmpfs { path: "/cache".into(), size: None }],
            ..Policy::default()
        };
        assert!(flags(memory).contains("--allow-write={RUN_TOOL_CHANNEL},/cache "));
        let not_about_places =
            Policy { user: Some(9), protect: vec!["/tools.toml".into()], ..Policy::default() };
        assert_eq!(flags(not_about_places), "--allow-all");
        let contained = flags(Policy { level: None, network: Some(Network::Host), ..offline });
        assert!(contained.ends_with("--allow-net --allow-run --allow-ffi"), "{contained}");
    }
}
