//! How times, sizes and the like are written, in manifests and on command lines.

use std::{path::PathBuf, time::Duration};

use tool_engine::{AfterExit, Level, Network, Overflow, Tmpfs};

/// A time such as `30s`, `1m 30s`, `200ms`.
///
/// # Errors
/// What is wrong with the text, and how a time is written.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no time ({error}); write it as 500ms, 30s or 1m 30s"))
}

/// A number of bytes such as `4096`, `64KiB`, `10MiB`, `1GiB`; `KB`, `MB` and `GB` are powers of 1000.
///
/// # Errors
/// What is wrong with the text, and how a size is written.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let hint = || format!("{text:?} is no size; write it as 4096, 64KiB, 10MiB or 1GiB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| hint())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(hint()),
    };
    number.checked_mul(factor).ok_or_else(hint)
}

/// `linger` (which is 200 ms), `linger:2s`, `wait` or `kill`.
///
/// # Errors
/// What is wrong with the text, and what there is.
pub fn parse_after_exit(text: &str) -> Result<AfterExit, String> {
    match text.split_once(':') {
        Some(("linger", how_long)) => parse_time(how_long).map(AfterExit::Linger),
        None if text == "linger" => Ok(AfterExit::Linger(Duration::from_millis(200))),
        None if text == "wait" => Ok(AfterExit::Wait),
        None if text == "kill" => Ok(AfterExit::Kill),
        _ => Err(format!("{text:?} is none of these; write linger, linger:2s, wait or kill")),
    }
}

/// As [`parse_after_exit`] reads it.
pub fn show_after_exit(after_exit: AfterExit) -> String {
    match after_exit {
        AfterExit::Linger(how_long) => format!("linger:{}", humantime::format_duration(how_long)),
        AfterExit::Wait => "wait".into(),
        AfterExit::Kill => "kill".into(),
    }
}

/// `truncate` or `fail`.
///
/// # Errors
/// What there is.
pub fn parse_overflow(text: &str) -> Result<Overflow, String> {
    match text {
        "truncate" => Ok(Overflow::Truncate),
        "fail" => Ok(Overflow::Fail),
        _ => Err(format!("{text:?} is none of these; write truncate or fail")),
    }
}

/// As [`parse_overflow`] reads it.
pub fn show_overflow(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Truncate => "truncate",
        Overflow::Fail => "fail",
    }
}

/// `none` or `host`.
///
/// # Errors
/// What there is.
pub fn parse_network(text: &str) -> Result<Network, String> {
    match text {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        _ => Err(format!("{text:?} is no network; write \"none\" or \"host\"")),
    }
}

/// `none`, which is 0, or a number up to 4.
///
/// # Errors
/// What there is.
pub fn parse_level(text: &str) -> Result<Level, String> {
    if text == "none" {
        return Ok(Level::None);
    }
    text.parse().ok().and_then(Level::from_number).ok_or_else(|| {
        format!("there is no level {text:?}; write \"none\" or 0 (no sandbox) to 4 (all of it)")
    })
}

/// `PATH` or `PATH:SIZE`. Of a path that has a colon itself what comes after that has a slash, if only at its end.
///
/// # Errors
/// What is wrong with the text, and how it is written.
pub fn parse_tmpfs(text: &str) -> Result<Tmpfs, String> {
    let hint = "write it as PATH or PATH:SIZE, such as cache:64MiB";
    let (path, size) = match text.rsplit_once(':') {
        Some((path, size)) if !size.contains('/') => match parse_size(size) {
            Ok(0) => return Err(format!("{text:?} has no room; give a positive size, or leave it out")),
            Ok(bytes) => (path, Some(bytes)),
            Err(_) => return Err(format!("{size:?} is no size; {hint}")),
        },
        _ => (text, None),
    };
    if path.trim().is_empty() {
        return Err(format!("{text:?} names no folder; {hint}"));
    }
    Ok(Tmpfs { path: PathBuf::from(path), size })
}

/// As [`parse_tmpfs`] reads it.
pub fn show_tmpfs(tmpfs: &Tmpfs) -> String {
    let path = tmpfs.path.display();
    match tmpfs.size {
        Some(bytes) => format!("{path}:{bytes}"),
        None => {
            let text = path.to_string();
            let is_clear = !text.contains(':') || text.ends_with('/');
            if is_clear { text } else { text + "/" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_in_memory() {
        let tmpfs = |path: &str, size| Ok(Tmpfs { path: path.into(), size });
        assert_eq!(parse_tmpfs("cache"), tmpfs("cache", None));
        assert_eq!(parse_tmpfs("/a/b:64MiB"), tmpfs("/a/b", Some(64 << 20)));
        assert_eq!(parse_tmpfs("a:1/b"), tmpfs("a:1/b", None));
        assert_eq!(parse_tmpfs("a:1:2K"), tmpfs("a:1", Some(2048)));
        for wrong in ["", ":1MiB", "a:", "a:much", "a:0"] {
            assert!(parse_tmpfs(wrong).unwrap_err().contains("; "), "{wrong:?}");
        }
        for text in ["/a", "/a:5", "/a:b/"] {
            assert_eq!(show_tmpfs(&parse_tmpfs(text).unwrap()), text);
        }
    }

    #[test]
    fn levels_and_networks() {
        assert_eq!((parse_level("none"), parse_level("0")), (Ok(Level::None), Ok(Level::None)));
        assert_eq!(parse_level("4"), Ok(Level::Full));
        assert_eq!((parse_network("none"), parse_network("host")), (Ok(Network::None), Ok(Network::Host)));
        for wrong in ["", "5", "-1", "full"] {
            assert!(parse_level(wrong).unwrap_err().contains("; write"), "{wrong:?}");
            assert!(parse_network(wrong).unwrap_err().contains("; write"), "{wrong:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("200ms"), Ok(Duration::from_millis(200)));
        for wrong in ["", "30", "-1s", "1 fortnight"] {
            assert!(parse_time(wrong).unwrap_err().contains("; write it as"), "{wrong:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_size("2KB"), Ok(2000));
        for wrong in ["", "MiB", "-1", "1.5MiB", "1TiB", "99999999999GiB", "1 2"] {
            assert!(parse_size(wrong).unwrap_err().contains("; write it as"), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for after_exit in [AfterExit::Wait, AfterExit::Kill, AfterExit::Linger(Duration::from_millis(1500))] {
            assert_eq!(parse_after_exit(&show_after_exit(after_exit)), Ok(after_exit));
        }
        for overflow in [Overflow::Truncate, Overflow::Fail] {
            assert_eq!(parse_overflow(show_overflow(overflow)), Ok(overflow));
        }
        assert!(parse_overflow("drop").unwrap_err().contains("; write "));
    }

    #[test]
    fn after_exits() {
        assert_eq!(parse_after_exit("linger:2s"), Ok(AfterExit::Linger(Duration::from_secs(2))));
        assert_eq!(parse_after_exit("linger"), Ok(AfterExit::Linger(Duration::from_millis(200))));
        assert_eq!(parse_after_exit("wait"), Ok(AfterExit::Wait));
        assert_eq!(parse_after_exit("kill"), Ok(AfterExit::Kill));
        for wrong in ["", "linger:", "wait:1s", "stay"] {
            assert!(parse_after_exit(wrong).unwrap_err().contains("; write "), "{wrong:?}");
        }
    }
}
