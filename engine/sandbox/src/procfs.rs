//! What `/proc` tells about one process (proc_pid_stat(5)). Everything here is a snapshot: the process may be gone, or
//! be another one, by the time it is looked at.

use std::{fs, io, sync::LazyLock};

/// The fields of `/proc/PID/stat` that we need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) group: i32,
    /// On its way out (PF_EXITING): it runs no code of its own any more, and cannot start anything.
    pub(crate) exiting: bool,
    /// A thread of the kernel (PF_KTHREAD).
    pub(crate) kernel: bool,
    pub(crate) threads: u32,
    /// Clock ticks (1/100 s to user space) since boot.
    pub(crate) start_time: u64,
    /// Where stack and arguments lie: alike in two processes only between fork and exec, or without address-space
    /// randomization. All 0 when we may not see them.
    pub(crate) layout: [u64; 2],
}

impl Stat {
    /// Exited, but not yet reaped. A process whose first thread alone has ended looks like a zombie, and is none.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    /// Whether the address space looks like a copy of `other`'s.
    pub(crate) fn shares_layout_with(self, other: Self) -> bool {
        self.layout == other.layout && self.layout != [0, 0]
    }
}

/// `/proc/PID/stat` of a process; `pid` may be `self`.
pub(crate) fn stat(pid: &str) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not readable"))
    })
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // From the kernel's sched.h.
    const PF_EXITING: u64 = 4;
    const PF_KTHREAD: u64 = 0x0020_0000;
    // The name is in parentheses and may contain anything, a ')' included: what follows the last one is regular.
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> =
        std::str::from_utf8(text.get(after_name..)?).ok()?.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and the first two fields are behind us.
    let field = |number: usize| fields.get(number - 3).copied();
    let address = |number: usize| field(number).and_then(|text| text.parse().ok()).unwrap_or(0);
    let flags: u64 = field(9)?.parse().ok()?;
    Some(Stat {
        state: *field(3)?.as_bytes().first()?,
        group: field(5)?.parse().ok()?,
        exiting: flags & PF_EXITING != 0,
        kernel: flags & PF_KTHREAD != 0,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        layout: [address(28), address(48)],
    })
}

/// All process ids there are, as text.
pub(crate) fn processes() -> io::Result<impl Iterator<Item = String>> {
    Ok(fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
}

/// The environment that the process was started with, as `NAME=value` lines with a NUL behind each. `None` when it has
/// none: it was given none, or it is in the middle of exec(2), where the old one is gone and the new one not there yet.
/// Empty when we may not look.
pub(crate) fn environment(pid: &str) -> Option<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) if environment.is_empty() => None,
        other => Some(other.unwrap_or_default()),
    }
}

/// The inodes of the pipes that the process can write to. Empty when we may not look.
pub(crate) fn writable_pipes(pid: &str) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut inodes = Vec::new();
    for entry in entries.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let inode = target
            .to_str()
            .and_then(|text| text.strip_prefix("pipe:[")?.strip_suffix(']'))
            .and_then(|digits| digits.parse().ok());
        if let Some(inode) = inode
            && is_writable(pid, &entry.file_name().to_string_lossy())
        {
            inodes.push(inode);
        }
    }
    inodes
}

fn is_writable(pid: &str, fd: &str) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok())
        .is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// How the names of this process's temporary folders begin: with what no other process, now or later, is known by. Whoever
/// finds one can tell whose it was.
pub fn own_prefix() -> &'static str {
    static PREFIX: LazyLock<String> = LazyLock::new(|| {
        let started = stat("self").map_or(0, |stat| stat.start_time);
        format!("run-tool-{}.{started}-", std::process::id())
    });
    &PREFIX
}

/// The command line, for people: at most 200 characters; the process's short name in brackets when it has none.
pub(crate) fn command(pid: &str) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = || fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    shown(&line, name)
}

/// The same from what the two files of a process contain.
pub(crate) fn shown(line: &[u8], name: impl FnOnce() -> Vec<u8>) -> String {
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    if words.is_empty() {
        return format!("[{}]", String::from_utf8_lossy(&name()).trim_end());
    }
    let text = words.join(" ");
    match text.char_indices().nth(200) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b) (c) S 1 77 78 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1 1 2 3 9999 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 8888 0 0 0 0\n";
        let stat = parse_stat(line.as_bytes()).unwrap();
        assert_eq!((stat.state, stat.group, stat.start_time), (b'S', 77, 12345));
        assert_eq!(stat.layout, [9999, 8888]);
        assert_eq!((stat.exiting, stat.threads), (false, 1));
        let exiting = line.replace(" 4194560 ", " 4194564 ");
        assert!(parse_stat(exiting.as_bytes()).unwrap().exiting);
        assert_eq!(parse_stat(b"42 (x"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn our_own_entry_is_read() {
        let own = stat("self").unwrap();
        assert!(!own.is_dead() && own.start_time > 0);
        assert!(own.shares_layout_with(own));
        assert!(stat("0").is_err());
    }
}
