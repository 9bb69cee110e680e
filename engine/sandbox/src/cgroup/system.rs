//! Which cgroup hierarchies are mounted, where in each of them we are, and how a folder is made there.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};

/// Where `/proc/self/mountinfo` and the mounts that it names are, and how folders are made: the machine, or a tree that a
/// test made up.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
    /// Whose place in the hierarchies it is: a process, as /proc names it.
    process: String,
    pub(super) mkdir: fn(&Path) -> io::Result<()>,
    pub(super) rmdir: fn(&Path) -> io::Result<()>,
    /// How many descriptors this process may have.
    pub(super) descriptors: usize,
}

fn descriptors() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

impl System {
    /// This machine.
    pub fn real() -> Self {
        let mkdir = |path: &Path| fs::create_dir(path);
        let rmdir = |path: &Path| fs::remove_dir(path);
        let process = "self".into();
        Self { root: PathBuf::from("/"), process, mkdir, rmdir, descriptors: descriptors() }
    }

    /// The same, from where another process is that will start those that join.
    pub(crate) fn seen_by(self, process: u32) -> Self {
        Self { process: process.to_string(), ..self }
    }

    /// A tree below `root`. A kernel fills a new cgroup with files; here `mkdir` does.
    #[cfg(test)]
    pub(super) fn fake(
        root: PathBuf,
        mkdir: fn(&Path) -> io::Result<()>,
        rmdir: fn(&Path) -> io::Result<()>,
    ) -> Self {
        Self { root, process: "self".into(), mkdir, rmdir, descriptors: descriptors() }
    }

    pub(super) fn path(&self, absolute: &Path) -> PathBuf {
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Every mounted cgroup hierarchy in which our own place can be seen. A hierarchy that is mounted twice is here
    /// twice.
    pub(super) fn hierarchies(&self) -> io::Result<Vec<Mounted>> {
        let read = |file: &str| fs::read(self.path(Path::new(file)));
        let mounts = read("/proc/self/mountinfo")?;
        let own = read(&format!("/proc/{}/cgroup", self.process))?;
        let (mounts, own) = (String::from_utf8_lossy(&mounts), String::from_utf8_lossy(&own));
        let mut mounted: Vec<Mounted> =
            mounts.lines().filter_map(|line| parse_mount(line, &parse_own(&own))).collect();
        for one in &mut mounted {
            one.mount = self.path(&one.mount);
        }
        Ok(mounted)
    }
}

impl Default for System {
    fn default() -> Self {
        Self::real()
    }
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// v1: its controllers; v2: none are named here.
    pub(super) controllers: Vec<String>,
    pub(super) v2: bool,
    pub(super) mount: PathBuf,
    /// Where in `mount` we are; empty when at its root. `None` when our own cgroup cannot be seen in this mount.
    pub(super) own: Option<PathBuf>,
}

/// Our place in a hierarchy: a line of `/proc/self/cgroup` (cgroups(7)).
struct Own<'a> {
    controllers: Vec<&'a str>,
    v2: bool,
    path: &'a Path,
}

fn parse_own(text: &str) -> Vec<Own<'_>> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let v2 = id == "0" && controllers.is_empty();
            Some(Own { controllers: controllers.split(',').collect(), v2, path: Path::new(path) })
        })
        .collect()
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), when it is about a cgroup hierarchy.
fn parse_mount(line: &str, own: &[Own<'_>]) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount) = (unescape(before.next()?), unescape(before.next()?));
    let mut after = after.splitn(3, ' ');
    let v2 = match after.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    // The hierarchy's own options; which of them are controllers is what /proc/self/cgroup says.
    let options: Vec<&str> = after.nth(1)?.split(',').collect();
    let own = own.iter().find(|own| {
        own.v2 == v2
            && (v2 || (!own.controllers.is_empty() && own.controllers.iter().all(|c| options.contains(c))))
    })?;
    // Where only a part of the hierarchy is mounted, as in containers, paths count from that part.
    let below = own.path.strip_prefix(&root).ok().map(Path::to_owned);
    let visible = below.filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
    let controllers = if v2 { Vec::new() } else { own.controllers.iter().map(|c| (*c).to_owned()).collect() };
    Some(Mounted { controllers, v2, mount, own: visible })
}

/// A blank, tab, newline or backslash in a path is written as `\` and three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &behind[3..] } else { behind };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mount: &str, own: &str) -> Option<Mounted> {
        parse_mount(mount, &parse_own(own))
    }

    #[test]
    fn controllers_mounted_together_are_one_hierarchy() {
        let line =
            "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let found = parse(line, "2:cpu,cpuacct:/a b\n1:name=systemd:/\n").unwrap();
        assert_eq!(found.controllers, ["cpu", "cpuacct"]);
        assert_eq!(found.mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.own.as_deref(), Some(Path::new("a b")));
        assert_eq!(parse(line, "1:memory:/\n0::/\n"), None, "we are in no cgroup of it");
        assert_eq!(parse("22 1 8:1 / / rw - ext4 /dev/sda1 rw", "0::/\n"), None);
        assert_eq!(parse("garbage", "0::/\n"), None);
    }

    #[test]
    fn paths_count_from_the_mounted_part_of_a_hierarchy() {
        let line = r"35 31 0:32 /docker/a\040b /sys/fs/cgroup/with\040blank ro - cgroup cgroup rw,memory";
        let in_container = parse(line, "4:memory:/docker/a b/c\n").unwrap();
        assert_eq!(in_container.mount, Path::new("/sys/fs/cgroup/with blank"));
        assert_eq!(in_container.own.as_deref(), Some(Path::new("c")));
        assert_eq!(parse(line, "4:memory:/docker/a b\n").unwrap().own.as_deref(), Some(Path::new("")));
        assert_eq!(parse(line, "4:memory:/docker/other\n").unwrap().own, None);
        let v2 = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(v2, "0::/../x\n").unwrap().own, None, "outside of our cgroup namespace");
        assert!(parse(v2, "0::/x/y\n").unwrap().v2);
    }
}
