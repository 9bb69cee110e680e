//! Paths of a manifest.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::reader::Complaint;

/// The largest manifest, and the largest schema, that is read.
pub(super) const LARGEST: u64 = 4 << 20;

/// A path relative to a folder, made absolute. It need not exist, so symbolic links and `..` stay.
pub(super) fn absolute(folder: &Path, path: &Path) -> PathBuf {
    let joined = folder.join(path);
    std::path::absolute(&joined).unwrap_or(joined)
}

/// A file that must be there and lie in `root`, without symbolic links.
pub(super) fn file_inside(root: &Path, folder: &Path, path: &Path) -> Result<PathBuf, Complaint> {
    if path.as_os_str().is_empty() {
        return Err(("the path is empty".into(), "name a file, or leave it out".into()));
    }
    let shown = path.display();
    let check = || "check the path; it is relative to the manifest".to_owned();
    let real = match folder.join(path).canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err((format!("{shown} is not there"), check()));
        }
        Err(error) => return Err((format!("{shown} cannot be looked at: {error}"), check())),
    };
    if !real.starts_with(root) {
        return Err((
            format!("{shown} is a path out of the manifest's folder"),
            "put the file beside the manifest or below it".into(),
        ));
    }
    match real.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(real),
        Ok(metadata) if metadata.is_dir() => {
            Err((format!("{shown} is a folder"), "name a file in it".into()))
        }
        Ok(_) => Err((format!("{shown} is not a file"), "name a file".into())),
        Err(error) => Err((format!("{shown} cannot be looked at: {error}"), check())),
    }
}

/// The bytes of a file, if they are not too many.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {} MiB", most >> 20)));
    }
    Ok(bytes)
}
