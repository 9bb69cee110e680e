//! From the name of a place to the place: which symbolic links are followed on the way.
//!
//! A tool may replace what is in a folder that it can write to by a link to anywhere. Who then shows that name to another
//! call would show it what the link names, and that is not what he meant. So links are followed, but not those in a folder
//! that this policy shows writable, or that another call of this launcher was shown so; unless they lead to something in the
//! same folder, which whoever made them could change anyway. What another process let a tool write to is not known here.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::kernel;

/// The folders, without links in their paths, that calls were shown writable.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<BTreeSet<PathBuf>>);

/// How many are remembered; then those that are gone are forgotten, and if that is not enough, some.
const MOST: usize = 4096;

/// How many links a path may go through, as in the kernel.
const MOST_LINKS: u32 = 40;

impl Written {
    /// From now on, links in this folder are not followed out of it.
    pub(super) fn note(&self, folder: &Path) {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if around(&folders, folder).is_some() {
            return;
        }
        if folders.len() >= MOST {
            folders.retain(|folder| folder.exists());
        }
        if folders.len() >= MOST {
            folders.pop_first();
        }
        folders.insert(folder.to_owned());
    }

    /// Whether this is, or lies in, a folder that a call was shown writable.
    pub(super) fn knows(&self, path: &Path) -> bool {
        around(&self.0.lock().unwrap_or_else(PoisonError::into_inner), path).is_some()
    }

    /// What is at this path: a path to the same without a link in it, as things are at this moment. Whoever opens
    /// it must refuse links.
    ///
    /// # Errors
    /// The kernel's; `ELOOP`, in words, for a link that is not followed.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let path = &std::path::absolute(path)?;
        if kernel::open_strictly(path).is_ok() {
            // Without links, a path means what it says.
            return Ok(without_dots(path));
        }
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rest: Vec<PathBuf> = parts(path);
        let mut found = PathBuf::from("/");
        let mut links = 0;
        let mut left: Vec<(PathBuf, PathBuf)> = Vec::new();
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                found.pop();
                continue;
            }
            let next = found.join(&part);
            if !fs::symlink_metadata(&next)?.is_symlink() {
                found = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            if let Some(folder) = around(&written, &found) {
                left.push((folder.to_owned(), next.clone()));
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                found = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        }
        match left.iter().find(|(folder, _)| !found.starts_with(folder)) {
            Some((folder, link)) => Err(io::Error::other(format!(
                "{} is a link that leads out of {}, where tools may write; name what it leads to, if that is meant: {}",
                link.display(),
                folder.display(),
                found.display()
            ))),
            None => Ok(found),
        }
    }
}

/// The path without `.` and `..`, as it is written: links are not looked at.
pub(super) fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// The folder among these that this path is in, or is.
fn around<'a>(folders: &'a BTreeSet<PathBuf>, path: &Path) -> Option<&'a Path> {
    path.ancestors().find_map(|outer| folders.get(outer)).map(PathBuf::as_path)
}

/// The names on the way, the first one last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut parts: Vec<_> = names.map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_but_not_out_of_where_tools_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for inner in ["out/deep", "work/place", "work/other"] {
            fs::create_dir_all(path.join(inner)).unwrap();
        }
        symlink("../out", path.join("work/link")).unwrap();
        symlink("place", path.join("work/inner")).unwrap();
        symlink("work", path.join("way")).unwrap();
        symlink("self", path.join("self")).unwrap();
        let written = Written::default();
        let resolve = |inner: &str| written.resolve(&path.join(inner)).map_err(|error| error.to_string());
        assert_eq!(resolve("work/./link/deep/../deep"), Ok(path.join("out/deep")));
        assert_eq!(resolve("way/place"), Ok(path.join("work/place")));
        assert!(resolve("self").is_err() && resolve("gone").is_err());
        written.note(&path.join("work"));
        written.note(&path.join("work/place"));
        assert!(resolve("work/link").unwrap_err().contains("out of"));
        assert!(resolve("way/link/deep").unwrap_err().contains("out of"));
        // What is beyond it by way of `..` alone was no link's doing.
        assert_eq!(resolve("work/../out"), Ok(path.join("out")));
        assert_eq!(resolve("work/inner"), Ok(path.join("work/place")));
        assert_eq!(resolve("way/place"), Ok(path.join("work/place")));
    }
}
