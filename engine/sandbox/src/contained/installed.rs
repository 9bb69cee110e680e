//! What is shown with a program, wherever it is installed: its own folder tree, each link on the way to it, and the
//! interpreter that its first line names.
//!
//! Promised: a file that a tool may have written widens nothing. What lies in the working folder, in a place that the policy
//! names, or in a folder that another call of this launcher was shown writable, may be a tool's work. Where a link or a first
//! line in there leads, and wherever it goes from there, these alone are shown: what the call sees anyway; the package, if it
//! is in the same `node_modules`; and the installation of a runtime (below), so that a virtual environment in a project finds
//! the Python of a version manager. Nothing below a place that the policy hides is shown with any program.
//!
//! Not promised: that a folder is known in which only another process let a tool write, and which this policy does not name.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::{
    names::Written,
    system,
    view::{Mode, View, is_too_much, own_home},
};
use crate::launch::{Architecture, LaunchError, LaunchStep};

/// How many links a program's path may go through, as in the kernel.
const MOST_LINKS: u32 = 40;

impl View {
    /// Shows a program and what belongs to it.
    pub(super) fn show_program(&mut self, program: &Path, written: &Written) -> Result<(), LaunchError> {
        let failed = |error| LaunchError::new(LaunchStep::Lookup, program.display().to_string(), error);
        self.program = beside_links(program).map_err(failed)?;
        let mut path = self.program.clone();
        // The caller named it.
        let mut shown = self.show_installed(&path, written).map_err(failed)?;
        let mut by_a_tool = false;
        for _ in 0..MOST_LINKS {
            let target = match fs::read_link(&path) {
                Ok(target) => path.parent().unwrap_or(Path::new("/")).join(target),
                Err(_) => match Head::of(&path) {
                    Head::Script { interpreter } if interpreter.is_absolute() && interpreter.exists() => {
                        interpreter
                    }
                    Head::Script { .. } => break,
                    Head::Program { foreign } => {
                        self.foreign = foreign;
                        break;
                    }
                },
            };
            by_a_tool |= written.knows(&path)
                || path
                    .ancestors()
                    .any(|outer| self.places.contains_key(outer) && !shown.contains(&outer.into()));
            let next = beside_links(&target).map_err(failed)?;
            if !by_a_tool {
                shown.extend(self.show_installed(&next, written).map_err(failed)?);
            } else if !self.shows(&next) && !self.show_runtime(&path, &next, written).map_err(failed)? {
                break;
            }
            path = next;
        }
        Ok(())
    }

    /// Shows the folder tree that a program is installed in. Returns what was shown.
    fn show_installed(&mut self, path: &Path, written: &Written) -> io::Result<Vec<PathBuf>> {
        if system::shows(path) {
            return Ok(Vec::new());
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let named = |name: &str| folder.file_name() == Some(OsStr::new(name));
        let prefix = folder.parent().filter(|prefix| {
            (named("bin") || named("sbin") || named("shims"))
                && !is_too_much(prefix)
                && prefix.file_name() != Some(OsStr::new(".local"))
        });
        match prefix {
            Some(prefix) => self.show_here(prefix, prefix),
            // `node_modules/.bin` holds links only.
            None if named(".bin") => self.show_here(folder, folder),
            None if self.shows(path) => Ok(Vec::new()),
            // Not followed to where a tool may have pointed it.
            None => self.show_here(path, &written.resolve(path)?),
        }
    }

    /// As [`show_at`](Self::show_at), unless the policy hides what is around it.
    fn show_here(&mut self, target: &Path, source: &Path) -> io::Result<Vec<PathBuf>> {
        if [target, source].iter().any(|path| self.hides(path)) {
            return Ok(Vec::new());
        }
        self.show_at(target, source)?;
        Ok(vec![target.to_owned()])
    }

    /// Shows what `link`, which may be a tool's work, leads to, if it is a package beside it or a runtime. Whether it is.
    fn show_runtime(&mut self, link: &Path, path: &Path, written: &Written) -> io::Result<bool> {
        if let Some(packages) = packages_around(link)
            && path.starts_with(packages)
        {
            return Ok(!self.show_installed(path, written)?.is_empty());
        }
        let Some(Runtime { file, tree }) = Runtime::of(path) else { return Ok(false) };
        // What a tool can write looks like whatever the tool likes.
        if [&file].into_iter().chain(&tree).any(|path| written.knows(path) || self.hides(path)) {
            return Ok(false);
        }
        if let Some(tree) = &tree {
            self.show_here(tree, tree)?;
        }
        for target in [path, &file] {
            if !tree.as_ref().is_some_and(|tree| target.starts_with(tree)) {
                self.show_here(target, &file)?;
            }
        }
        Ok(true)
    }

    /// Whether the call sees this anyway.
    fn shows(&self, path: &Path) -> bool {
        let around = path.ancestors().find_map(|outer| self.places.get(outer));
        match around.map(|place| place.mode) {
            Some(Mode::ReadOnly | Mode::ReadWrite) => true,
            Some(Mode::Hidden | Mode::Tmpfs(_)) => false,
            None => system::shows(path),
        }
    }

    /// Whether the policy hides it, or covers it with something else.
    fn hides(&self, path: &Path) -> bool {
        let around = path.ancestors().find_map(|outer| self.places.get(outer));
        matches!(around.map(|place| place.mode), Some(Mode::Hidden | Mode::Tmpfs(_)))
    }
}

/// The `node_modules` that this is in.
fn packages_around(path: &Path) -> Option<&Path> {
    path.ancestors().find(|outer| outer.file_name() == Some(OsStr::new("node_modules")))
}

/// An installed runtime.
struct Runtime {
    /// Its program, without a link on the way.
    file: PathBuf,
    /// What belongs to it; nothing, where it is all in one file.
    tree: Option<PathBuf>,
}

impl Runtime {
    /// The runtime that is installed at this path: it bears the name of one, what makes an installation of it lies where it has
    /// to, and all that is root's or our own, and not everybody's to write to.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::canonicalize(path).ok()?;
        let (folder, name) = (file.parent()?, file.file_name()?.to_str()?);
        let is_owned = |path: &Path| {
            fs::metadata(path).is_ok_and(|found| {
                let owner = Uid::from_raw(found.uid());
                (owner.is_root() || owner == Uid::effective()) && found.mode() & 0o002 == 0
            })
        };
        let is_program = fs::metadata(&file).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0);
        if !is_program || !is_owned(&file) || !is_owned(folder) {
            return None;
        }
        let landmark = match name {
            "bun" | "deno" => return Some(Self { file, tree: None }),
            "node" => "include/node/node_version.h".into(),
            _ if ["python", "pypy"].iter().any(|kind| name.starts_with(kind)) => format!("lib/{name}/os.py"),
            _ => return None,
        };
        let tree = folder.parent().filter(|_| folder.file_name() == Some(OsStr::new("bin")))?;
        let is_home = is_too_much(tree)
            || tree.file_name() == Some(OsStr::new(".local"))
            || own_home().is_some_and(|home| home.starts_with(tree));
        let tree = tree.to_owned();
        (!is_home && is_owned(&tree) && tree.join(landmark).is_file())
            .then_some(Self { file, tree: Some(tree) })
    }
}

/// The beginning of a file that is to be executed.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// A first line that names what runs it (execve(2)).
    Script { interpreter: PathBuf },
    /// Anything else; for an architecture whose system calls are refused.
    Program { foreign: Option<Architecture> },
}

impl Head {
    fn of(path: &Path) -> Self {
        /// What the kernel looks at.
        const FIRST: u64 = 256;
        let mut head = Vec::new();
        // What cannot be read is a program for who executes it: that fails, or says more.
        let _ = File::open(path).and_then(|file| file.take(FIRST).read_to_end(&mut head));
        let line = head.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next());
        let mut words = line.into_iter().flat_map(|line| line.split(|byte| byte.is_ascii_whitespace()));
        match words.find(|word| !word.is_empty()) {
            Some(word) => Head::Script { interpreter: OsStr::from_bytes(word).into() },
            None => Head::Program { foreign: foreign(&head) },
        }
    }
}

/// The architecture that a program is for, by its header (elf(5)), where this kernel may execute it, but the sandbox's filter
/// refuses all its system calls.
fn foreign(head: &[u8]) -> Option<Architecture> {
    const NARROW: u8 = 1;
    const LITTLE_ENDIAN: u8 = 1;
    let [0x7f, b'E', b'L', b'F', NARROW, LITTLE_ENDIAN, ..] = head else { return None };
    let machine = u16::from_le_bytes([*head.get(18)?, *head.get(19)?]);
    match machine {
        3 if cfg!(target_arch = "x86_64") => Some(Architecture::I386),
        62 if cfg!(target_arch = "x86_64") => Some(Architecture::X32),
        40 if cfg!(target_arch = "aarch64") => Some(Architecture::Arm),
        _ => None,
    }
}

/// The program that runs this one, if its first line names one.
pub(super) fn interpreter(path: &Path) -> Option<PathBuf> {
    match Head::of(path) {
        Head::Script { interpreter } => Some(interpreter),
        Head::Program { .. } => None,
    }
}

/// The path with all links but the last part's followed: what a program is called may matter to it (`sys.prefix`).
fn beside_links(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(fs::canonicalize(folder)?.join(name)),
        _ => fs::canonicalize(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::{
        launch::{LaunchSpec, Stdin},
        policy::{Policy, ResourceLimits},
    };

    /// A project in which a tool works, and what lies elsewhere.
    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Self {
            let scene = Self(tempfile::tempdir_in("/var/tmp").unwrap());
            fs::create_dir(scene.path("work")).unwrap();
            scene.file("me/project/bin/tool", "");
            scene.file("me/project/secret", "");
            scene
        }

        fn path(&self, inner: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(inner)
        }

        /// A program.
        fn file(&self, inner: &str, content: &str) -> PathBuf {
            let path = self.path(inner);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn link(&self, inner: &str, target: &str) {
            fs::create_dir_all(self.path(inner).parent().unwrap()).unwrap();
            symlink(self.path(target), self.path(inner)).unwrap();
        }

        fn script(&self, inner: &str, interpreter: &str) {
            self.file(inner, &format!("#!{}\n", self.path(interpreter).display()));
        }

        fn spec(&self, policy: Policy) -> LaunchSpec {
            LaunchSpec {
                execution: "e".into(),
                program: "x".into(),
                args: vec![],
                env: vec![],
                workdir: Some(self.path("work")),
                stdin: Stdin::Null,
                policy,
                resources: ResourceLimits::default(),
                shows: vec![],
                private: None,
            }
        }

        /// What is shown when this program runs.
        fn shown_by(&self, program: &str, policy: Policy, written: &Written) -> Vec<String> {
            let view = View::of(&self.spec(policy), &self.path(program), written).unwrap();
            let root = self.path("");
            let shown = view.places.iter().filter(|(_, place)| place.mode != Mode::Hidden);
            let inner = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
            shown.map(|(path, _)| inner(path)).collect()
        }

        /// The same with the defaults.
        fn shown(&self, program: &str) -> Vec<String> {
            self.shown_by(program, Policy::default(), &Written::default())
        }
    }

    #[test]
    fn what_a_tool_may_have_written_shows_nothing_new() {
        let scene = Scene::new();
        scene.script("work/script", "me/project/bin/tool");
        scene.link("work/link", "me/project/bin/tool");
        scene.script("work/by-another", "work/link");
        scene.link("me/links/installed", "me/project/bin/tool");
        scene.script("work/by-the-callers", "me/links/installed");
        for program in ["work/script", "work/link", "work/by-another", "work/by-the-callers"] {
            assert_eq!(scene.shown(program), ["work"], "{program}");
            let policy = Policy { rw: vec![scene.path("work")], ..Policy::default() };
            assert_eq!(scene.shown_by(program, policy, &Written::default()), ["work"], "{program}");
        }
        // The caller's own links lead where the caller wants.
        assert_eq!(scene.shown("me/links/installed"), ["me/links/installed", "me/project", "work"]);
    }

    #[test]
    fn what_another_call_was_shown_writable_is_not_forgotten() {
        let scene = Scene::new();
        scene.script("other/run", "me/project/bin/tool");
        assert_eq!(scene.shown("other/run"), ["me/project", "other/run", "work"]);
        let written = Written::default();
        written.note(&scene.path("other"));
        assert_eq!(scene.shown_by("other/run", Policy::default(), &written), ["other/run", "work"]);
        // Its place alone would show what it leads to.
        scene.link("other/link", "me/project/secret");
        let refused = View::of(&scene.spec(Policy::default()), &scene.path("other/link"), &written);
        assert!(refused.unwrap_err().to_string().contains("leads out of"));
    }

    #[test]
    fn a_runtime_is_shown_to_what_a_tool_may_have_written() {
        let scene = Scene::new();
        let python = "me/.manager/versions/3.12.1/bin/python3.12";
        scene.file(python, "");
        scene.link("me/.manager/versions/3.12.1/bin/python3", python);
        scene.link("work/.venv/bin/python3", "me/.manager/versions/3.12.1/bin/python3");
        scene.link("work/.venv/bin/python", "work/.venv/bin/python3");
        scene.script("work/run", "work/.venv/bin/python");
        let all = ["work/.venv/bin/python", "work/.venv/bin/python3", "work/run"];
        for program in all {
            assert_eq!(scene.shown(program), ["work"], "{program}: only its program is there");
        }
        let library = scene.file("me/.manager/versions/3.12.1/lib/python3.12/os.py", "");
        for program in all {
            assert_eq!(scene.shown(program), ["me/.manager/versions/3.12.1", "work"], "{program}");
        }
        let hide = |inner: &str| Policy { hide: vec![scene.path(inner)], ..Policy::default() };
        let versions = |policy| scene.shown_by("work/run", policy, &Written::default());
        assert_eq!(versions(hide("me/.manager")), ["work"], "it is hidden");
        assert_eq!(versions(hide("me/project")), ["me/.manager/versions/3.12.1", "work"]);
        // One that a tool could have made.
        let written = Written::default();
        written.note(&scene.path("me/.manager/versions"));
        assert_eq!(scene.shown_by("work/run", Policy::default(), &written), ["work"]);
        // One that anybody could have made.
        let everybody = |mode| fs::Permissions::from_mode(mode);
        let prefix = library.ancestors().nth(3).unwrap();
        fs::set_permissions(prefix, everybody(0o777)).unwrap();
        assert_eq!(scene.shown("work/run"), ["work"]);
        fs::set_permissions(prefix, everybody(0o755)).unwrap();
        assert_eq!(scene.shown("work/run"), ["me/.manager/versions/3.12.1", "work"]);
    }

    #[test]
    fn of_a_runtime_in_one_file_that_file_is_shown() {
        let scene = Scene::new();
        scene.file("me/.bun/bin/bun", "");
        scene.file("me/.bun/install/cache", "");
        scene.link("me/.bun/bin/bunx", "me/.bun/bin/bun");
        scene.script("work/run", "me/.bun/bin/bunx");
        assert_eq!(scene.shown("work/run"), ["me/.bun/bin/bun", "me/.bun/bin/bunx", "work"]);
        assert_eq!(scene.shown("me/.bun/bin/bunx"), ["me/.bun", "work"], "the caller's own program");
    }

    #[test]
    fn a_package_is_shown_to_what_lies_in_the_same_folder_of_packages() {
        let scene = Scene::new();
        scene.file("other/node_modules/pack/bin/pack.js", "");
        scene.link("other/node_modules/.bin/pack", "other/node_modules/pack/bin/pack.js");
        scene.link("other/node_modules/.bin/out", "me/project/bin/tool");
        let written = Written::default();
        written.note(&scene.path("other"));
        let shown = |program| scene.shown_by(program, Policy::default(), &written);
        let both = ["other/node_modules/.bin", "other/node_modules/pack", "work"];
        assert_eq!(shown("other/node_modules/.bin/pack"), both);
        assert_eq!(shown("other/node_modules/.bin/out"), ["other/node_modules/.bin", "work"]);
    }

    #[test]
    fn a_header_tells_what_a_program_is() {
        let scene = Scene::new();
        let head = |content: &str| Head::of(&scene.file("work/head", content));
        let script = |word: &str| Head::Script { interpreter: word.into() };
        assert_eq!(head("#! /bin/a b\n"), script("/bin/a"));
        assert_eq!(head("#!/bin/a"), script("/bin/a"));
        for other in ["", "#", "#!", "#! \nx", "/bin/a", "\u{7f}ELF", "\u{7f}ELF\u{1}\u{1}"] {
            assert_eq!(head(other), Head::Program { foreign: None }, "{other:?}");
        }
        let machine =
            |class: u8, number: u8| foreign(&[&b"\x7fELF"[..], &[class, 1], &[0; 12], &[number, 0]].concat());
        if cfg!(target_arch = "x86_64") {
            assert_eq!((machine(1, 3), machine(1, 62)), (Some(Architecture::I386), Some(Architecture::X32)));
        }
        assert_eq!((machine(2, 62), machine(2, 183), machine(1, 8)), (None, None, None));
    }
}
