//! What every sandbox shows: what a normal program expects of a system, and nothing of the person who uses it.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::LazyLock,
};

use tool_zygote::protocol::{Bytes, Entry};

/// Programs and libraries, where distributions put them. `/nix/store` and `/gnu/store` hold packages only.
pub(super) const SYSTEM_FOLDERS: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];

/// Folders of `/etc` that libraries read: certificates, fonts, alternatives, the loader's settings.
const ETC_FOLDERS: [&str; 14] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/alternatives",
    "/etc/ld.so.conf.d",
    "/etc/fonts",
    "/etc/terminfo",
    "/etc/python3",
    "/etc/perl",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/php",
    "/etc/openssl",
];

/// Files of `/etc` that are copied: small, the same for all users, read by the C library and its like.
const ETC_FILES: [&str; 22] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/host.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/rpc",
    "/etc/networks",
    "/etc/gai.conf",
    "/etc/mime.types",
    "/etc/magic",
    "/etc/magic.mime",
    "/etc/os-release",
    "/etc/debian_version",
    "/etc/alpine-release",
    "/etc/redhat-release",
    "/etc/lsb-release",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/inputrc",
    "/etc/papersize",
    "/etc/shells",
];

/// The devices that are harmless and that programs count on.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Folders that go by two names.
const LINKS: [(&str, &str); 3] = [("/var/tmp", "/tmp"), ("/var/run", "/run"), ("/run/shm", "/dev/shm")];

/// The name of the tool's user, and of the machine, as the tool sees them.
const USER: &str = "tool";
const HOST: &str = "sandbox";

/// A file larger than this is no setting.
const MOST: u64 = 1 << 20;

fn bytes(path: impl AsRef<Path>) -> Bytes {
    Bytes(path.as_ref().as_os_str().as_bytes().to_vec())
}

/// The common view, for a tool whose user and group are `inside`.
pub(super) fn entries(inside: (u32, u32)) -> Vec<Entry> {
    let mut entries = Vec::new();
    let folder = |path: &str| Entry::Folder { path: bytes(path) };
    let link = |path: &str, target: &str| Entry::Link { path: bytes(path), target: bytes(target) };
    let file =
        |path: &str, content: String| Entry::File { path: bytes(path), content: Bytes(content.into_bytes()) };
    for path in SYSTEM_FOLDERS {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => entries.push(Entry::Host { path: bytes(path), folder: true }),
            Ok(found) if found.is_symlink() => {
                if let Ok(target) = fs::read_link(path) {
                    entries.push(Entry::Link { path: bytes(path), target: bytes(target) });
                }
            }
            _ => {}
        }
    }
    entries.extend(["/etc", "/dev", "/dev/shm", "/proc", "/tmp", "/run", "/var", PRIVATE].map(folder));
    entries.extend(LINKS.map(|(path, target)| link(path, target)));
    for path in ETC_FOLDERS {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            entries.push(Entry::Host { path: bytes(path), folder: true });
        }
    }
    for path in ETC_FILES {
        // Links are followed: what they point to may not be shown.
        if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MOST)
            && let Ok(content) = fs::read(path)
        {
            entries.push(Entry::File { path: bytes(path), content: Bytes(content) });
        }
    }
    if let Ok(zone) = fs::canonicalize("/etc/localtime") {
        if zone.starts_with("/usr") {
            entries.push(Entry::Link { path: bytes("/etc/localtime"), target: bytes(zone) });
        } else if let Ok(content) = fs::read(&zone) {
            entries.push(Entry::File { path: bytes("/etc/localtime"), content: Bytes(content) });
        }
    }
    let (uid, gid) = inside;
    entries.extend([
        file(
            "/etc/passwd",
            format!("root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n{USER}:x:{uid}:{gid}:{USER}:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
        ),
        file("/etc/group", format!("root:x:0:\n{USER}:x:{gid}:\nnogroup:x:65534:\n")),
        file("/etc/hostname", format!("{HOST}\n")),
        file("/etc/hosts", format!("127.0.0.1 localhost {HOST}\n::1 localhost ip6-localhost ip6-loopback\n")),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".into()),
        // Filled in where there is a network.
        file("/etc/resolv.conf", String::new()),
    ]);
    for path in DEVICES {
        if fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device()) {
            entries.push(Entry::Device { path: bytes(path) });
        }
    }
    entries.extend([
        link("/dev/fd", "/proc/self/fd"),
        link("/dev/stdin", "/proc/self/fd/0"),
        link("/dev/stdout", "/proc/self/fd/1"),
        link("/dev/stderr", "/proc/self/fd/2"),
    ]);
    entries
}

/// What of the host is readable below level 3, where it is seen in place. Looked up once.
pub(super) fn readable_in_place() -> &'static [PathBuf] {
    static PLACES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        /// Keys lie beside what everybody may read, and the tool may be root, if without power.
        const MIXED: [&str; 2] = ["/etc/ssl", "/etc/pki"];
        let public = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.mode() & 0o004 != 0);
        let inner = MIXED.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let inner = inner.map(|entry| entry.path()).filter(public);
        let folders =
            SYSTEM_FOLDERS.iter().chain(ETC_FOLDERS.iter().filter(|folder| !MIXED.contains(folder)));
        let own = [
            "/etc/passwd",
            "/etc/group",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/nsswitch.conf",
            "/etc/localtime",
        ];
        // The host's, as everything here is: it tells command lines, and of others than the call's processes no more.
        let files = ETC_FILES.iter().chain(&own).chain(&["/proc"]);
        let paths = folders.chain(files).map(PathBuf::from).chain(inner);
        // What is not there need not be readable.
        paths.filter_map(|path| fs::canonicalize(path).ok()).collect()
    });
    &PLACES
}

/// What of the host is writable below level 3 whatever the policy says. `/proc` is not: root may write there without any
/// power, and what it writes is for the whole machine. Looked up once.
pub(super) fn writable_in_place() -> &'static [PathBuf] {
    static PLACES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        let paths = DEVICES.iter().chain(&["/tmp", "/dev/shm"]);
        paths.filter_map(|path| fs::canonicalize(path).ok()).collect()
    });
    &PLACES
}

/// Where the private folder of a call is shown.
pub(super) const PRIVATE: &str = "/run/tool";

/// Whether the common view has something of its own at this path, or around it, or shows it: nobody need be told that the
/// host's is not there.
pub(super) fn has(path: &Path) -> bool {
    let kernels = ["/proc", "/sys", "/dev"].iter().any(|folder| path.starts_with(folder));
    let own = ["/run", "/tmp", "/var", "/var/tmp", "/var/run", PRIVATE].iter();
    let made = ["passwd", "group", "hostname", "hosts", "nsswitch.conf", "resolv.conf", "localtime"].iter();
    !path.is_absolute()
        || kernels
        || shows(path)
        || own.chain(&ETC_FILES).any(|own| path == Path::new(own))
        || made.map(|name| Path::new("/etc").join(name)).any(|own| own == path)
        || SYSTEM_FOLDERS.iter().chain(&ETC_FOLDERS).any(|folder| Path::new(folder).starts_with(path))
}

/// Where this path is in a sandbox, without the links that the common view has.
pub(super) fn place(path: &Path) -> PathBuf {
    let there = |(link, target): &(&str, &str)| Some(Path::new(target).join(path.strip_prefix(link).ok()?));
    LINKS.iter().find_map(there).unwrap_or_else(|| path.to_owned())
}

/// Whether the common view shows this path, as it is on the host.
pub(super) fn shows(path: &Path) -> bool {
    SYSTEM_FOLDERS.iter().chain(&ETC_FOLDERS).any(|folder| path.starts_with(folder))
}
