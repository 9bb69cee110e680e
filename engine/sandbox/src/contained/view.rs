//! From a policy to what is mounted where: which paths a call is shown, what may be done there, and in which order.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::unistd::{Uid, User};

use super::{
    names::{Written, without_dots},
    system,
};
use crate::{
    launch::{Architecture, LaunchError, LaunchSpec, LaunchStep},
    policy::Network,
};

/// What may be done with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    ReadOnly,
    ReadWrite,
    Hidden,
    Tmpfs(Option<u64>),
}

/// Something that is shown, or hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What is shown there; without a symbolic link.
    pub(super) source: PathBuf,
    pub(super) mode: Mode,
    /// Whether the policy names it. What it does not name gives way.
    named: bool,
    pub(super) folder: bool,
    /// Owner, device and inode of the source.
    pub(super) owner: (u32, u32),
    pub(super) identity: (u64, u64),
}

/// What a call is shown beside the common view.
#[derive(Debug)]
pub(super) struct View {
    /// By the path at which it is seen, outer ones first.
    pub(super) places: BTreeMap<PathBuf, Place>,
    /// The program, where it is seen.
    pub(super) program: PathBuf,
    /// The architecture that it is for, where all its system calls are refused.
    pub(super) foreign: Option<Architecture>,
    pub(super) workdir: PathBuf,
}

/// What is read-only in a writable folder: by these, what a tool writes would be executed later, by somebody else.
pub(crate) const PROTECTED: [&str; 17] = [
    ".git/hooks",
    ".git/config",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".kshrc",
    ".config/fish",
    ".envrc",
    ".gitmodules",
    "tools.toml",
];

fn refuse(path: &Path, why: &str, hint: &str) -> LaunchError {
    LaunchError::new(LaunchStep::Policy, path.display().to_string(), io::Error::other(why.to_owned()))
        .hint(hint)
}

impl View {
    /// `program` is absolute.
    pub(super) fn of(spec: &LaunchSpec, program: &Path, written: &Written) -> Result<Self, LaunchError> {
        let policy = &spec.policy;
        let mut view =
            View { places: BTreeMap::new(), program: PathBuf::new(), foreign: None, workdir: PathBuf::new() };
        // First, as they say which links are not followed.
        for path in &policy.rw {
            let source = view.name(path, Mode::ReadWrite, written)?;
            written.note(&source);
        }
        for path in &policy.ro {
            view.name(path, Mode::ReadOnly, written)?;
        }
        for path in &policy.hide {
            view.name(path, Mode::Hidden, written)?;
        }
        for tmpfs in &policy.tmpfs {
            view.name_tmpfs(&tmpfs.path, tmpfs.size)?;
        }
        view.protect(&policy.protect);
        view.enter(spec.workdir.as_deref(), written)?;
        for path in &spec.shows {
            view.show(path, written)?;
        }
        view.show_program(program, written)?;
        if policy.network == Some(Network::Host) {
            let settings = Path::new("/etc/resolv.conf");
            if let Ok(source) = fs::canonicalize(settings) {
                let place =
                    Place::of(&source, Mode::ReadOnly, true).map_err(|error| unreadable(&source, error))?;
                view.places.insert(settings.to_owned(), place);
            }
        }
        view.simplify();
        view.pin();
        Ok(view)
    }

    /// A place that the policy names. Returns where it is.
    fn name(&mut self, path: &Path, mode: Mode, written: &Written) -> Result<PathBuf, LaunchError> {
        if !path.is_absolute() {
            return Err(refuse(path, "the path is relative", "name it from the root on"));
        }
        refuse_the_kernels(path, path)?;
        let source = written.resolve(path).map_err(|error| unreadable(path, error))?;
        refuse_the_kernels(path, &source)?;
        let place = Place::of(&source, mode, true).map_err(|error| unreadable(path, error))?;
        // At its own place, and where it was said to be, if a link leads there.
        let lexical = without_dots(path);
        for target in [&source, &lexical] {
            if let Some(other) = self.places.get(target)
                && other.mode != mode
            {
                return Err(contradiction(path, other.mode, mode));
            }
        }
        if lexical != source && !system::shows(&lexical) {
            self.places.insert(lexical, place.clone());
        }
        self.places.insert(source.clone(), place);
        Ok(source)
    }

    fn name_tmpfs(&mut self, path: &Path, size: Option<u64>) -> Result<(), LaunchError> {
        if !path.is_absolute() || path == Path::new("/") {
            return Err(refuse(path, "this is no place for a folder", "name one from the root on"));
        }
        let target = without_dots(path);
        let mode = Mode::Tmpfs(size);
        if let Some(other) = self.places.get(&target) {
            return Err(contradiction(path, other.mode, mode));
        }
        let place = Place {
            source: target.clone(),
            mode,
            named: true,
            folder: true,
            owner: (0, 0),
            identity: (0, 0),
        };
        self.places.insert(target, place);
        Ok(())
    }

    /// Takes what is dangerous to write out of the writable folders, and what the policy protects, unless it names it.
    fn protect(&mut self, protected: &[PathBuf]) {
        // By their own names: a link to one is protected where it leads.
        let protected: Vec<PathBuf> =
            protected.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let writable: Vec<(PathBuf, PathBuf)> = self
            .places
            .iter()
            .filter(|(_, place)| place.mode == Mode::ReadWrite && place.folder)
            .map(|(target, place)| (target.clone(), place.source.clone()))
            .collect();
        for (target, source) in writable {
            for name in PROTECTED {
                // A link would be protected where it points to, if that is shown: it is another place then.
                let (inner, seen) = (source.join(name), target.join(name));
                let is_link = fs::symlink_metadata(&inner).is_ok_and(|found| found.is_symlink());
                if !is_link
                    && !self.places.contains_key(&seen)
                    && let Ok(place) = Place::of(&inner, Mode::ReadOnly, true)
                {
                    self.places.insert(seen, place);
                }
            }
            for path in &protected {
                let Ok(inner) = path.strip_prefix(&source) else { continue };
                let seen = target.join(inner);
                // One that is itself what may be written is named.
                if !inner.as_os_str().is_empty()
                    && !self.places.contains_key(&seen)
                    && let Ok(place) = Place::of(path, Mode::ReadOnly, true)
                {
                    self.places.insert(seen, place);
                }
            }
        }
    }

    /// Shows the working folder, read-only if the policy does not say otherwise.
    fn enter(&mut self, workdir: Option<&Path>, written: &Written) -> Result<(), LaunchError> {
        let failed =
            |path: &Path, error| LaunchError::new(LaunchStep::Workdir, path.display().to_string(), error);
        let folder = match workdir {
            Some(folder) => folder.to_owned(),
            None => std::env::current_dir().map_err(|error| failed(Path::new("."), error))?,
        };
        refuse_the_kernels(&folder, &folder)?;
        let source = written.resolve(&folder).map_err(|error| failed(&folder, error))?;
        refuse_the_kernels(&folder, &source)?;
        if !fs::metadata(&source).map_err(|error| failed(&folder, error))?.is_dir() {
            return Err(failed(&folder, io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let named = self.places.keys().any(|place| source.starts_with(place));
        if !named && !system::shows(&source) && !is_own_already(&source) {
            if is_too_much(&source) {
                return Err(LaunchError::new(
                    LaunchStep::Policy,
                    source.display().to_string(),
                    io::Error::other("the working folder is the root or a home folder, which is not shown whole"),
                )
                .hint(
                    "run in a project's folder (`--workdir`), or name what the tool needs with `--ro` or `--rw`; naming \
                     the folder itself shows all of it",
                ));
            }
            let place = Place::of(&source, Mode::ReadOnly, false).map_err(|error| failed(&folder, error))?;
            self.places.insert(source.clone(), place);
        }
        self.workdir = source;
        Ok(())
    }

    /// Shows something that the call needs, read-only.
    fn show(&mut self, path: &Path, written: &Written) -> Result<(), LaunchError> {
        let source = written.resolve(path).map_err(|error| unreadable(path, error))?;
        self.show_at(path, &source).map_err(|error| unreadable(path, error))?;
        self.show_at(&source, &source).map_err(|error| unreadable(path, error))
    }

    pub(super) fn show_at(&mut self, target: &Path, source: &Path) -> io::Result<()> {
        if !self.places.contains_key(target) && !system::shows(target) {
            let place = Place::of(source, Mode::ReadOnly, false)?;
            self.places.insert(target.to_owned(), place);
        }
        Ok(())
    }

    /// Makes mounts of the writable folders on the way to what must not be written, which are then not to be renamed: its
    /// mount would go along, and something else could be put into its place.
    fn pin(&mut self) {
        let mut pins: BTreeMap<PathBuf, Place> = BTreeMap::new();
        for (target, place) in &self.places {
            let outer = target
                .ancestors()
                .skip(1)
                .find_map(|around| self.places.get(around).map(|outer| (around, outer)));
            let Some((around, outer)) = outer else { continue };
            if place.mode == Mode::ReadWrite || outer.mode != Mode::ReadWrite {
                continue;
            }
            for between in target.ancestors().skip(1).take_while(|between| *between != around) {
                let Ok(inner) = between.strip_prefix(around) else { continue };
                let source = outer.source.join(inner);
                // What is reached by a link has its own place where that leads.
                if fs::symlink_metadata(&source).is_ok_and(|found| found.is_dir())
                    && let Ok(pin) = Place::of(&source, Mode::ReadWrite, true)
                {
                    pins.insert(between.to_owned(), pin);
                }
            }
        }
        self.places.extend(pins);
    }

    /// Leaves out what is shown by what is around it.
    fn simplify(&mut self) {
        let mut kept: BTreeMap<PathBuf, Place> = BTreeMap::new();
        for (target, place) in std::mem::take(&mut self.places) {
            let around = kept.range(..target.clone()).rev().find(|(outer, _)| target.starts_with(outer));
            let shown_already = match around {
                Some((outer, outer_place)) => {
                    let same_thing = target
                        .strip_prefix(outer)
                        .is_ok_and(|inner| outer_place.source.join(inner) == place.source);
                    let gives_way = !place.named
                        && matches!(outer_place.mode, Mode::ReadOnly | Mode::ReadWrite)
                        && place.mode == Mode::ReadOnly;
                    same_thing && (place.mode == outer_place.mode || gives_way)
                }
                None => place.mode == Mode::ReadOnly && system::shows(&target) && target == place.source,
            };
            if !shown_already {
                kept.insert(target, place);
            }
        }
        self.places = kept;
    }
}

impl Place {
    pub(super) fn of(source: &Path, mode: Mode, named: bool) -> io::Result<Self> {
        let found = fs::metadata(source)?;
        Ok(Self {
            source: source.to_owned(),
            mode,
            named,
            folder: found.is_dir(),
            owner: (found.uid(), found.gid()),
            identity: (found.dev(), found.ino()),
        })
    }
}

/// What is in the kernel's folders is the asking process's own, or all the machine's (`/proc/self/fd/7`: whatever lies behind
/// that descriptor).
fn refuse_the_kernels(named: &Path, path: &Path) -> Result<(), LaunchError> {
    let kernels = ["/proc", "/sys", "/dev"].iter().any(|folder| path.starts_with(folder));
    if !kernels || path.starts_with("/dev/shm") {
        return Ok(());
    }
    Err(refuse(
        named,
        "it belongs to the kernel, of which a sandbox has its own view",
        "leave it out; at level none (`--level none`) a tool sees the host's",
    ))
}

fn contradiction(path: &Path, one: Mode, other: Mode) -> LaunchError {
    let word = |mode| match mode {
        Mode::ReadOnly => "ro",
        Mode::ReadWrite => "rw",
        Mode::Hidden => "hide",
        Mode::Tmpfs(_) => "tmpfs",
    };
    refuse(
        path,
        &format!("the policy contradicts itself: the same place is `{}` and `{}`", word(one), word(other)),
        "name it once",
    )
}

fn unreadable(path: &Path, error: io::Error) -> LaunchError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "what a policy names must be there; make it, or leave it out",
        io::ErrorKind::PermissionDenied => "it cannot be shown to a tool by who may not see it",
        _ => "look at what is there",
    };
    LaunchError::new(LaunchStep::Policy, path.display().to_string(), error).hint(hint)
}

/// Whether a sandbox has its own of this anyway.
fn is_own_already(path: &Path) -> bool {
    ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|own| path == Path::new(own))
}

/// Whether showing this would show more than anybody means to: the root, or somebody's home.
pub(super) fn is_too_much(path: &Path) -> bool {
    path == Path::new("/")
        || path == Path::new("/root")
        || path == Path::new("/home")
        || path.parent() == Some(Path::new("/home"))
        || own_home().is_some_and(|home| home == path)
}

/// The home folder of our own user, as the system's list of users has it. Looked up once: it does not move.
pub(super) fn own_home() -> Option<&'static Path> {
    static HOME: OnceLock<Option<PathBuf>> = OnceLock::new();
    HOME.get_or_init(|| User::from_uid(Uid::current()).ok().flatten().map(|user| user.dir)).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        launch::Stdin,
        policy::{Policy, ResourceLimits, Tmpfs},
    };

    fn spec(policy: Policy, workdir: &Path) -> LaunchSpec {
        LaunchSpec {
            execution: "e".into(),
            program: "true".into(),
            args: vec![],
            env: vec![],
            workdir: Some(workdir.to_owned()),
            stdin: Stdin::Null,
            policy,
            resources: ResourceLimits::default(),
            shows: vec![],
            private: None,
        }
    }

    fn view(policy: Policy, workdir: &Path) -> Result<Vec<(PathBuf, Mode)>, String> {
        View::of(&spec(policy, workdir), Path::new("/bin/true"), &Written::default())
            .map(|view| view.places.into_iter().map(|(target, place)| (target, place.mode)).collect())
            .map_err(|error| format!("{error} | {}", error.hint.clone().unwrap_or_default()))
    }

    /// Outside of /tmp, which is the sandbox's own.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    #[test]
    fn the_working_folder_is_shown_and_a_home_is_not() {
        let folder = folder();
        let path = folder.path().canonicalize().unwrap();
        assert_eq!(view(Policy::default(), &path).unwrap(), [(path.clone(), Mode::ReadOnly)]);
        for own in ["/usr/share", "/tmp", "/var/tmp"] {
            assert_eq!(view(Policy::default(), Path::new(own)).unwrap(), [], "{own}");
        }
        for home in ["/", "/root", "/home"] {
            let refused = view(Policy::default(), Path::new(home));
            assert!(
                refused.is_err_and(|words| words.contains("home folder") && words.contains("--ro")),
                "{home}"
            );
        }
        let named = Policy { ro: vec!["/home".into()], ..Policy::default() };
        assert_eq!(view(named, Path::new("/home")).unwrap(), [("/home".into(), Mode::ReadOnly)]);
    }

    #[test]
    fn inner_places_stay_where_they_differ() {
        let folder = folder();
        let path = folder.path().canonicalize().unwrap();
        for inner in ["a/b", ".git/hooks", "c"] {
            fs::create_dir_all(path.join(inner)).unwrap();
        }
        let policy = Policy {
            rw: vec![path.clone()],
            ro: vec![path.join("a")],
            hide: vec![path.join("c")],
            tmpfs: vec![Tmpfs { path: path.join("a/b"), size: Some(9) }],
            ..Policy::default()
        };
        let expected = [
            (path.clone(), Mode::ReadWrite),
            (path.join(".git"), Mode::ReadWrite),
            (path.join(".git/hooks"), Mode::ReadOnly),
            (path.join("a"), Mode::ReadOnly),
            (path.join("a/b"), Mode::Tmpfs(Some(9))),
            (path.join("c"), Mode::Hidden),
        ];
        assert_eq!(view(policy, &path).unwrap(), expected);
        let twice = Policy { ro: vec![path.clone(), path.join("a"), path.join("a/.")], ..Policy::default() };
        assert_eq!(view(twice, &path).unwrap(), [(path, Mode::ReadOnly)]);
    }

    #[test]
    fn what_the_policy_protects_is_read_only_unless_it_is_named() {
        let folder = folder();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir(path.join("more")).unwrap();
        for file in ["my.toml", "more/inner.toml", "named.toml"] {
            fs::write(path.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("my.toml", path.join("link.toml")).unwrap();
        let protect = ["link.toml", "my.toml", "more/inner.toml", "named.toml", "gone.toml"];
        let policy = Policy {
            rw: vec![path.clone(), path.join("named.toml")],
            protect: protect.iter().map(|file| path.join(file)).chain(["/usr/bin/env".into()]).collect(),
            ..Policy::default()
        };
        let expected = [
            (path.clone(), Mode::ReadWrite),
            (path.join("more"), Mode::ReadWrite),
            (path.join("more/inner.toml"), Mode::ReadOnly),
            (path.join("my.toml"), Mode::ReadOnly),
        ];
        assert_eq!(view(policy, &path).unwrap(), expected);
    }

    #[test]
    fn a_link_is_shown_where_it_leads_and_where_it_is() {
        let folder = folder();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir(path.join("real")).unwrap();
        std::os::unix::fs::symlink("real", path.join("link")).unwrap();
        let policy = Policy { ro: vec![path.join("link")], ..Policy::default() };
        let expected = [(path.join("link"), Mode::ReadOnly), (path.join("real"), Mode::ReadOnly)];
        assert_eq!(view(policy, Path::new("/usr")).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |policy: Policy| view(policy, Path::new("/usr")).unwrap_err();
        let ro = |path: &str| Policy { ro: vec![path.into()], ..Policy::default() };
        assert!(refused(ro("relative")).contains("relative"));
        assert!(refused(ro("/nonexistent/x")).contains("/nonexistent/x"));
        assert!(refused(ro("/proc/1")).contains("kernel"));
        // The first leads out of it, to wherever we are.
        for own in ["/proc/self/cwd", "/proc/self/fd", "/dev/fd", "/sys"] {
            assert!(refused(ro(own)).contains("kernel"), "{own}");
            assert!(view(Policy::default(), Path::new(own)).unwrap_err().contains("kernel"), "{own}");
        }
        let both = Policy { hide: vec!["/var".into()], ..ro("/var") };
        assert!(refused(both).contains("contradicts"));
    }
}
