//! How values are written on the command line.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use run_tool::{
    Network, Overflow, Runtime,
    follow::{Since, TimeFormat},
    units,
};

/// A time, or `none` for as good as for ever.
pub(crate) fn time_or_none(text: &str) -> Result<Duration, String> {
    if text == "none" { Ok(Duration::MAX) } else { units::parse_time(text) }
}

/// `truncate` or `fail`; completions offer them.
pub(crate) fn overflow() -> impl TypedValueParser<Value = Overflow> {
    PossibleValuesParser::new(["truncate", "fail"]).try_map(|text| units::parse_overflow(&text))
}

/// `none` or `host`; completions offer them.
pub(crate) fn network() -> impl TypedValueParser<Value = Network> {
    PossibleValuesParser::new(["none", "host"]).try_map(|text| units::parse_network(&text))
}

/// A number of bytes that is not zero.
pub(crate) fn some_size(text: &str) -> Result<u64, String> {
    match units::parse_size(text)? {
        0 => Err("nothing can run with a size of zero; give a positive one, or leave it out".into()),
        size => Ok(size),
    }
}

/// A time that is not zero.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match units::parse_time(text)? {
        Duration::ZERO => Err("nothing can run for no time; give a positive time, or leave it out".into()),
        time => Ok(time),
    }
}

/// A number of things that is not zero.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is no number of things; give a whole number from 1 on")),
        Ok(count) => Ok(count),
    }
}

/// Where a follower begins.
pub(crate) fn since(text: &str) -> Result<Since, String> {
    match text {
        "now" => Ok(Since::Now),
        "start" => Ok(Since::Beginning),
        _ => {
            let ago = || SystemTime::now().checked_sub(units::parse_time(text).ok()?);
            let time = humantime::parse_rfc3339(text).ok().or_else(ago);
            time.map(Since::At).ok_or_else(|| {
                format!(
                    "{text:?} is no time; write now, start, 10m for ten minutes ago, or 2026-01-31T12:00:00Z"
                )
            })
        }
    }
}

/// `rfc3339` or `unix`; completions offer them.
pub(crate) fn time_format() -> impl TypedValueParser<Value = TimeFormat> {
    PossibleValuesParser::new(["rfc3339", "unix"]).map(|text| match &*text {
        "unix" => TimeFormat::UnixSeconds,
        _ => TimeFormat::Rfc3339,
    })
}

/// A share of processors.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share.is_finite() && share > 0.0 => Ok(share),
        _ => Err(format!("{text:?} processors cannot be given; give a positive number, such as 0.5")),
    }
}

/// A user, by number.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("0 is root, and no tool runs as root; name another user".into()),
        // The kernel's word for nobody at all.
        Ok(u32::MAX) | Err(_) => Err(format!("{text:?} is no user; give the number that `id -u NAME` says")),
        Ok(user) => Ok(user),
    }
}

/// `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        format!(
            "{text:?} has no `=`; write NAME=VALUE, or use --pass-env NAME to pass on a variable of yours"
        )
    })?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A runtime, and its program where that is named, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuntimeChoice {
    pub(crate) runtime: Runtime,
    pub(crate) program: Option<PathBuf>,
}

/// A runtime that a new tool can be written for.
pub(crate) fn runtime_name(text: &str) -> Result<Runtime, String> {
    let known = Runtime::ALL.into_iter().filter(|runtime| *runtime != Runtime::Command);
    known.clone().find(|runtime| runtime.name() == text).ok_or_else(|| {
        format!(
            "there is no runtime {text:?}; there are {}",
            known.map(Runtime::name).collect::<Vec<_>>().join(", ")
        )
    })
}

/// `NAME` or `NAME=PATH`.
pub(crate) fn runtime(text: &str) -> Result<RuntimeChoice, String> {
    let (name, program) = match text.split_once('=') {
        Some((name, program)) => (name, Some(PathBuf::from(program))),
        None => (text, None),
    };
    let runtime = Runtime::from_name(name).ok_or_else(|| {
        let known = Runtime::ALL.map(Runtime::name).join(", ");
        format!("there is no runtime {name:?}; there are {known}, and NAME=PATH names its program")
    })?;
    Ok(RuntimeChoice { runtime, program })
}

/// A secret's variable, and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretFrom {
    pub(crate) name: String,
    /// `None`: our own variable of the same name.
    pub(crate) file: Option<PathBuf>,
}

/// `NAME` or `NAME=FILE`.
pub(crate) fn secret(text: &str) -> Result<SecretFrom, String> {
    let (name, file) = match text.split_once('=') {
        Some((_, "")) => return Err("no file is named after the `=`; write NAME=FILE, or NAME alone".into()),
        Some((name, file)) => (name, Some(file.into())),
        None => (text, None),
    };
    Ok(SecretFrom { name: name.to_owned(), file })
}

/// Where a command's standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StdinFrom {
    Ours,
    File(PathBuf),
}

/// `-` or a file.
pub(crate) fn stdin(text: &str) -> Result<StdinFrom, String> {
    Ok(if text == "-" { StdinFrom::Ours } else { StdinFrom::File(text.into()) })
}

/// Where cgroups are made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CgroupIn {
    /// Nowhere: limits hold for each process by itself.
    Nowhere,
    /// In a folder that was delegated to us.
    Folder(PathBuf),
}

pub(crate) fn cgroup(text: &str) -> Result<CgroupIn, String> {
    match text {
        "" => Err("give a folder, or none".into()),
        "none" => Ok(CgroupIn::Nowhere),
        folder => Ok(CgroupIn::Folder(folder.into())),
    }
}

/// Bytes for people.
pub(crate) fn show_size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time for people, to three digits.
pub(crate) fn show_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.001 => format!("{:.0} µs", seconds * 1e6),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.2} s"),
        _ => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_a_time() {
        assert_eq!(time_or_none("none"), Ok(Duration::MAX));
        assert_eq!(time_or_none("2s"), Ok(Duration::from_secs(2)));
        assert!(time_or_none("2").unwrap_err().contains("write it as"));
    }

    #[test]
    fn limits_that_let_nothing_run_are_refused() {
        assert_eq!((some_size("1K"), count("3"), share("0.5")), (Ok(1024), Ok(3), Ok(0.5)));
        assert_eq!((some_time("1s"), user("65519")), (Ok(Duration::from_secs(1)), Ok(65519)));
        for wrong in ["0", "-1", "x", ""] {
            assert!(some_size(wrong).is_err() && count(wrong).is_err() && share(wrong).is_err(), "{wrong:?}");
            assert!(user(wrong).is_err() && some_time(&format!("{wrong}s")).is_err(), "{wrong:?}");
        }
        assert!(share("inf").is_err() && share("NaN").is_err() && user("4294967295").is_err());
    }

    #[test]
    fn where_to_begin() {
        assert_eq!((since("now"), since("start")), (Ok(Since::Now), Ok(Since::Beginning)));
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(second)));
        assert!(matches!(since("10m"), Ok(Since::At(time)) if time < SystemTime::now()));
        assert!(since("yesterday").unwrap_err().contains("10m"));
    }

    #[test]
    fn where_cgroups_are() {
        assert_eq!(cgroup("none"), Ok(CgroupIn::Nowhere));
        assert_eq!(cgroup("./none"), Ok(CgroupIn::Folder("./none".into())));
        assert!(cgroup("").is_err());
    }

    #[test]
    fn secrets() {
        assert_eq!(secret("A"), Ok(SecretFrom { name: "A".into(), file: None }));
        assert_eq!(secret("A=b=c"), Ok(SecretFrom { name: "A".into(), file: Some("b=c".into()) }));
        assert!(secret("A=").is_err());
    }

    #[test]
    fn variables() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("A").unwrap_err().contains("--pass-env"));
    }
}
