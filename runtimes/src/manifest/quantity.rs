//! Times, sizes and numbers as manifests write them.

use std::time::Duration;

use toml::de::DeValue;
use tool_engine::{AfterExit, Level, Network, Overflow, Tmpfs};

use super::{
    hints::Warm,
    reader::{Complaint, integer, kind, string},
};
use crate::units;

const TIME: &str = "write it as \"500ms\", \"30s\" or \"1m 30s\"";
const SIZE: &str = "write it as 4096, \"64KiB\", \"10MiB\" or \"1GiB\"";

/// The part of a message that says what to do is told by itself.
fn complaint(message: String) -> Complaint {
    match message.split_once("; ") {
        Some((message, hint)) => (message.into(), hint.into()),
        None => (message, String::new()),
    }
}

/// A time, which may be none at all.
pub(super) fn time_or_zero(value: &DeValue<'_>) -> Result<Duration, Complaint> {
    match value {
        DeValue::String(text) => {
            units::parse_time(text).map_err(|_| (format!("{:?} is no time", text.as_ref()), TIME.into()))
        }
        DeValue::Integer(number) => Err((format!("{number} has no unit"), TIME.into())),
        other => Err((format!("is {}, not a time", kind(other)), TIME.into())),
    }
}

/// A time.
pub(super) fn time(value: &DeValue<'_>) -> Result<Duration, Complaint> {
    match time_or_zero(value)? {
        Duration::ZERO => Err(("is zero".into(), "give a positive time, or leave it out".into())),
        time => Ok(time),
    }
}

/// A number of bytes.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Complaint> {
    let size = match value {
        DeValue::String(text) => units::parse_size(text)
            .map_err(|_| (format!("{:?} is no size", text.as_ref()), SIZE.to_owned()))?,
        DeValue::Integer(number) => {
            u64::try_from(integer(value)?).map_err(|_| (format!("{number} is negative"), SIZE.to_owned()))?
        }
        other => return Err((format!("is {}, not a size", kind(other)), SIZE.into())),
    };
    if size == 0 { Err(("is zero".into(), "give a positive size, or leave it out".into())) } else { Ok(size) }
}

/// A number of things.
pub(super) fn count(value: &DeValue<'_>) -> Result<u32, Complaint> {
    let number = integer(value)?;
    match u32::try_from(number) {
        Ok(0) => Err(("is zero".into(), "give a positive number, or leave it out".into())),
        Ok(count) => Ok(count),
        Err(_) if number < 0 => Err((format!("{number} is negative"), "give a positive number".into())),
        Err(_) => Err((format!("{number} is too large a number"), format!("at most {}", u32::MAX))),
    }
}

/// A share of processors.
pub(super) fn share(value: &DeValue<'_>) -> Result<f64, Complaint> {
    let hint = || "give a positive number of processors, such as 0.5".to_owned();
    let share: f64 = match value {
        DeValue::Float(number) => {
            number.as_str().parse().map_err(|_| (format!("{number} is no number"), hint()))?
        }
        DeValue::Integer(_) => f64::from(
            i32::try_from(integer(value)?).map_err(|_| ("is too large a number".to_owned(), hint()))?,
        ),
        other => return Err((format!("is {}, not a number", kind(other)), hint())),
    };
    if share.is_finite() && share > 0.0 {
        Ok(share)
    } else {
        Err((format!("{share} processors cannot be given"), hint()))
    }
}

pub(super) fn after_exit(value: &DeValue<'_>) -> Result<AfterExit, Complaint> {
    units::parse_after_exit(&string(value)?).map_err(complaint)
}

pub(super) fn overflow(value: &DeValue<'_>) -> Result<Overflow, Complaint> {
    units::parse_overflow(&string(value)?).map_err(complaint)
}

pub(super) fn network(value: &DeValue<'_>) -> Result<Network, Complaint> {
    units::parse_network(&string(value)?).map_err(complaint)
}

/// A folder in memory, its path as it is written.
pub(super) fn tmpfs(text: &str) -> Result<Tmpfs, Complaint> {
    units::parse_tmpfs(text).map_err(complaint)
}

/// A user, by number.
pub(super) fn user(value: &DeValue<'_>) -> Result<u32, Complaint> {
    let number = integer(value)?;
    match u32::try_from(number) {
        Ok(0) => Err(("0 is root".into(), "no tool runs as root; name another user".into())),
        // The kernel's word for nobody at all.
        Ok(u32::MAX) | Err(_) => {
            Err((format!("{number} is no user"), "give the number that `id -u NAME` says".into()))
        }
        Ok(user) => Ok(user),
    }
}

pub(super) fn level(value: &DeValue<'_>) -> Result<Level, Complaint> {
    const HINT: &str = "write \"none\" or 0 (no sandbox) to 4 (all of it)";
    match value {
        DeValue::String(text) if text == "none" => Ok(Level::None),
        DeValue::String(text) => Err((format!("there is no level {:?}", text.as_ref()), HINT.into())),
        _ => {
            let number = integer(value)?;
            let level = u8::try_from(number).ok().and_then(Level::from_number);
            level.ok_or_else(|| (format!("there is no level {number}"), HINT.into()))
        }
    }
}

pub(super) fn warm(value: &DeValue<'_>) -> Result<Warm, Complaint> {
    const HINT: &str = "write \"auto\", \"never\" or how many are to wait";
    match value {
        DeValue::String(text) if text == "auto" => Ok(Warm::Auto),
        DeValue::String(text) if text == "never" => Ok(Warm::Never),
        DeValue::String(text) => Err((format!("{:?} is none of these", text.as_ref()), HINT.into())),
        DeValue::Integer(number) => match count(value) {
            Ok(count) => Ok(Warm::Count(count)),
            Err(_) => Err((format!("{number} cannot wait"), HINT.into())),
        },
        other => Err((format!("is {}", kind(other)), HINT.into())),
    }
}
