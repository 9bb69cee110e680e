//! Files and folders.

use core::fmt::Display;

use super::*;

const DIRECTORY: c_long = if cfg!(target_arch = "x86_64") { 0o200000 } else { 0o40000 };
const NOFOLLOW: c_long = if cfg!(target_arch = "x86_64") { 0o400000 } else { 0o100000 };

/// A path, or whatever else the kernel wants with a zero at its end.
pub(crate) fn cstring(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn open_at(folder: RawFd, path: &CStr, flags: c_long, mode: u32) -> Result<OwnedFd> {
    call!(nr::OPENAT, folder, path.as_ptr(), flags | O_CLOEXEC, mode).map(owned)
}

/// To read from.
pub(crate) fn open(path: &CStr) -> Result<OwnedFd> {
    open_at(AT_FDCWD, path, 0, 0)
}

/// A handle to what is there; following links.
pub(crate) fn open_path(path: &CStr) -> Result<OwnedFd> {
    open_at(AT_FDCWD, path, O_PATH, 0)
}

/// A handle to what is at this absolute path, if no symbolic link is on the way; if one is at its end, a handle to the link.
/// Step by step, as the filter refuses openat2(2).
pub(crate) fn open_path_strictly(path: &CStr) -> Result<OwnedFd> {
    let open = |folder: RawFd, name: &CStr, flags| open_at(folder, name, O_PATH | NOFOLLOW | flags, 0);
    let mut at = open(AT_FDCWD, c"/", DIRECTORY)?;
    let mut names = path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        // A link, opened without following it, is no folder.
        let folder = if names.peek().is_some() { DIRECTORY } else { 0 };
        at = open(at.as_raw_fd(), &cstring(name)?, folder)?;
    }
    Ok(at)
}

/// A new file for writing.
pub(crate) fn create_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<OwnedFd> {
    const WRONLY_CREAT_EXCL: c_long = 0o301;
    open_at(folder.as_fd().as_raw_fd(), name, WRONLY_CREAT_EXCL, mode)
}

/// The same at a path.
pub(crate) fn create(path: &CStr, mode: u32) -> Result<OwnedFd> {
    create_at(HERE, path, mode)
}

pub(crate) fn mkdir_at(folder: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    call!(nr::MKDIRAT, folder.as_fd().as_raw_fd(), name.as_ptr(), mode).map(drop)
}

/// The same at a path.
pub(crate) fn mkdir(path: &CStr, mode: u32) -> Result<()> {
    mkdir_at(HERE, path, mode)
}

pub(crate) fn symlink_at(target: &CStr, folder: impl AsFd, name: &CStr) -> Result<()> {
    call!(nr::SYMLINKAT, target.as_ptr(), folder.as_fd().as_raw_fd(), name.as_ptr()).map(drop)
}

/// All of it.
pub(crate) fn write(fd: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match call!(nr::WRITE, fd.as_fd().as_raw_fd(), bytes.as_ptr(), bytes.len()) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written as usize..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// In one go, to a file of the kernel's that is there.
pub(crate) fn write_to(path: impl Display, text: impl Display) -> Result<()> {
    const WRONLY: c_long = 1;
    let file = open_at(AT_FDCWD, &cstring(path.to_string().as_bytes())?, WRONLY, 0)?;
    write(file, text.to_string().as_bytes())
}

/// What is there to read, of which `into` is the room. 0: it is at its end.
pub(crate) fn read(fd: impl AsFd, into: &mut [u8]) -> Result<usize> {
    loop {
        match call!(nr::READ, fd.as_fd().as_raw_fd(), into.as_mut_ptr(), into.len()) {
            Err(Errno::INTR) => {}
            done => return done.map(|read| read as usize),
        }
    }
}

/// All of a file, whoever has read from it before.
pub(crate) fn read_all(file: impl AsFd) -> Result<Vec<u8>> {
    call!(nr::LSEEK, file.as_fd().as_raw_fd(), 0, 0)?;
    let mut bytes = vec![0; file_info(&file)?.size as usize];
    let mut length = 0;
    while length < bytes.len() {
        match read(&file, &mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// What is known of a file.
pub(crate) struct FileInfo {
    pub(crate) is_folder: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    size: u64,
}

/// Of an open one, or of one to which there is a handle.
pub(crate) fn file_info(fd: impl AsFd) -> Result<FileInfo> {
    const BASIC_STATS: c_long = 0x7ff;
    const TYPE: u16 = 0o170000;
    const FOLDER: u16 = 0o040000;
    // struct statx (statx(2)).
    #[repr(C)]
    #[derive(Default)]
    struct Statx {
        before: [u32; 5],
        uid: u32,
        gid: u32,
        mode: u16,
        spare: u16,
        inode: u64,
        size: u64,
        between: [u64; 10],
        device_it_is: [u32; 2],
        device: [u32; 2],
        after: [u64; 14],
    }
    const { assert!(size_of::<Statx>() == 256) };
    let mut found = Statx::default();
    let fd = fd.as_fd().as_raw_fd();
    call!(nr::STATX, fd, c"".as_ptr(), AT_EMPTY_PATH, BASIC_STATS, &raw mut found)?;
    // makedev(3)
    let [major, minor] = found.device.map(u64::from);
    let device =
        (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff;
    Ok(FileInfo {
        is_folder: found.mode & TYPE == FOLDER,
        uid: found.uid,
        gid: found.gid,
        device,
        inode: found.inode,
        size: found.size,
    })
}

/// What is in a folder, read bit by bit.
pub(crate) struct Entries {
    folder: OwnedFd,
    read: Vec<u8>,
    /// What was not taken of it.
    left: core::ops::Range<usize>,
}

/// One of them: its name, and whether it is a folder.
pub(crate) struct FolderEntry {
    pub(crate) name: CString,
    pub(crate) is_folder: bool,
}

/// Nothing, where there is no folder.
pub(crate) fn entries(folder: &CStr) -> impl Iterator<Item = FolderEntry> {
    open_at(AT_FDCWD, folder, DIRECTORY, 0).ok().map(Entries::of).into_iter().flatten()
}

impl Entries {
    fn of(folder: OwnedFd) -> Self {
        Self { folder, read: vec![0; 16 << 10], left: 0..0 }
    }
}

impl Iterator for Entries {
    type Item = FolderEntry;

    fn next(&mut self) -> Option<FolderEntry> {
        // struct linux_dirent64 (getdents(2)): inode and offset of 8 bytes each, length of the entry, kind, name.
        const LENGTH: usize = 16;
        const KIND: usize = 18;
        const NAME: usize = 19;
        const FOLDER: u8 = 4;
        loop {
            if self.left.is_empty() {
                let (room, length) = (self.read.as_mut_ptr(), self.read.len());
                let read = call!(nr::GETDENTS64, self.folder.as_raw_fd(), room, length).ok()? as usize;
                if read == 0 {
                    return None;
                }
                self.left = 0..read;
            }
            let entry = self.read.get(self.left.clone())?;
            let length = u16::from_ne_bytes(entry.get(LENGTH..KIND)?.try_into().ok()?);
            let name = CStr::from_bytes_until_nul(entry.get(NAME..usize::from(length))?).ok()?;
            self.left.start += usize::from(length);
            if ![c".", c".."].contains(&name) {
                return Some(FolderEntry { name: name.into(), is_folder: entry[KIND] == FOLDER });
            }
        }
    }
}

const REMOVEDIR: c_long = 0x200;

/// An empty folder.
pub(crate) fn remove_folder(path: &CStr) -> Result<()> {
    call!(nr::UNLINKAT, AT_FDCWD, path.as_ptr(), REMOVEDIR).map(drop)
}

/// A folder and all that is in it. No link is followed, whoever changes it meanwhile; and what is gone already is gone.
pub(crate) fn remove_tree(path: &CStr) -> Result<()> {
    remove_tree_at(HERE, path)
}

fn remove_tree_at(folder: impl AsFd, name: &CStr) -> Result<()> {
    /// Who looks while others make and remove may miss some.
    const LOOKS: usize = 8;
    let at = folder.as_fd().as_raw_fd();
    let mut first = Ok(());
    for _ in 0..LOOKS {
        let inside = open_at(at, name, DIRECTORY | NOFOLLOW, 0)?;
        // One by one: there may be millions.
        for entry in Entries::of(inside.try_clone()?) {
            let mut gone = call!(nr::UNLINKAT, inside.as_raw_fd(), entry.name.as_ptr(), 0).map(drop);
            // It says that it is a folder in one of two ways, and for who is not root that it must not.
            if matches!(gone, Err(Errno::ISDIR | Errno::PERM | Errno::ACCES)) {
                gone = remove_tree_at(&inside, &entry.name);
            }
            if !matches!(gone, Err(Errno::NOENT)) {
                first = first.and(gone);
            }
        }
        match call!(nr::UNLINKAT, at, name.as_ptr(), REMOVEDIR) {
            Err(Errno::NOTEMPTY) if first.is_ok() => {}
            Err(errno) => return first.and(Err(errno)),
            Ok(_) => return Ok(()),
        }
    }
    Err(Errno::NOTEMPTY)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{ffi::OsStrExt, fs::symlink},
        path::Path,
    };

    use super::*;

    fn remove(path: &Path) -> Result<()> {
        remove_tree(&cstring(path.as_os_str().as_bytes()).unwrap())
    }

    #[test]
    fn a_tree_is_removed_and_nothing_that_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, kept) = (folder.path().join("tree"), folder.path().join("kept"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        assert_eq!(remove(&tree), Err(Errno::NOENT));
        // Only a folder is one, and no link to one.
        symlink(&kept, &tree).unwrap();
        assert!(remove(&tree).is_err() && remove(&kept.join("file")).is_err());
        assert!(kept.join("file").exists());
    }

    #[test]
    fn others_may_remove_something_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let files: std::vec::Vec<_> =
            (0..5000).map(|number| tree.join(std::format!("file-{number}"))).collect();
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| files.iter().rev().for_each(|file| drop(fs::remove_file(file))));
            remove(&tree).unwrap();
        });
        assert!(!tree.exists());
    }
}
