//! The environment of a tool: clean, but for what the call names.

use std::ffi::OsString;

use crate::error::{ErrorKind, invalid};

/// What every tool gets, before what its plan and its call add.
const BASE: [(&str, &str); 3] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
];

/// Variables by which code of the caller's choice gets into a program before its first line runs, or by which a
/// runtime's own options are changed. A trailing `*` stands for anything.
const REFUSED: [(&str, &str); 17] = [
    ("LD_*", "the dynamic loader obeys it"),
    ("DYLD_*", "the dynamic loader obeys it"),
    ("GLIBC_TUNABLES", "the C library obeys it before the program starts"),
    ("GCONV_PATH", "the C library loads code from it"),
    ("NODE_OPTIONS", "node takes options from it"),
    ("BUN_*", "bun takes options from it"),
    ("DENO_*", "deno takes options from it"),
    ("PYTHON*", "python takes options and start-up code from it"),
    ("PERL5*", "perl takes options and start-up code from it"),
    ("RUBYOPT", "ruby takes options from it"),
    ("JAVA_TOOL_OPTIONS", "java takes options from it"),
    ("BASH_ENV", "bash runs the file that it names"),
    ("ENV", "sh runs the file that it names"),
    ("SHELLOPTS", "bash takes options from it"),
    ("BASHOPTS", "bash takes options from it"),
    ("PS4", "a tracing shell evaluates it"),
    ("RUN_TOOL_*", "it is set by the engine itself"),
];

/// Checks one variable that a call or a manifest sets.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the name is not `[A-Za-z_][A-Za-z0-9_.-]*`, is one that loaders, runtimes or shells obey,
/// or when the value contains a NUL byte.
pub fn check(name: &str, value: &str) -> Result<(), ErrorKind> {
    let subject = || format!("environment variable {name:?}");
    let well_formed = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !well_formed {
        return Err(invalid(
            subject(),
            "this is no name for a variable",
            "use letters, digits and `_`, not beginning with a digit",
        ));
    }
    if let Some((_, reason)) = REFUSED.iter().find(|(pattern, _)| matches(pattern, name)) {
        return Err(invalid(
            subject(),
            format!("refused: {reason}"),
            "hand the setting to the tool in its input instead",
        ));
    }
    if value.contains('\0') {
        return Err(invalid(
            subject(),
            "its value contains a NUL byte",
            "encode the value, or hand it over in the input",
        ));
    }
    Ok(())
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// The whole environment: the base, then what the plan sets (which is trusted: a runtime may need what a call may not
/// set), then what the call sets. What comes later wins.
pub(crate) fn assemble(
    plan: &[(String, String)],
    call: &[(String, String)],
) -> Result<Vec<(OsString, OsString)>, ErrorKind> {
    for (name, value) in call {
        check(name, value)?;
    }
    let mut all: Vec<(OsString, OsString)> = Vec::with_capacity(BASE.len() + plan.len() + call.len());
    let layers = BASE
        .iter()
        .copied()
        .chain(plan.iter().chain(call).map(|(name, value)| (name.as_str(), value.as_str())));
    for (name, value) in layers {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value.into(),
            None => all.push((name.into(), value.into())),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the name: it is taken only when a shell could have set it, and nothing refused gets through.
        #[test]
        fn what_is_taken_is_a_name_that_nobody_obeys(name in "\\PC{0,12}|[A-Z_]{1,8}[A-Z0-9_]{0,8}|(LD_|BUN_|PYTHON|RUN_TOOL_)[A-Z_]{0,6}", value in "(?s).{0,20}") {
            if check(&name, &value).is_ok() {
                prop_assert!(!name.is_empty() && !name.contains(['=', '\0', ' ', '%']) && !value.contains('\0'));
                prop_assert!(!name.starts_with(|first: char| first.is_ascii_digit()));
                prop_assert!(REFUSED.iter().all(|(pattern, _)| !matches(pattern, &name)), "{}", name);
            }
        }

        /// Each name once, and the last one to set it wins.
        #[test]
        fn every_name_is_there_once(plan in prop::collection::vec(("[A-C]{1,2}", "[a-z]{0,3}"), 0..6), call in prop::collection::vec(("[A-C]{1,2}", "[a-z]{0,3}"), 0..6)) {
            let all = assemble(&plan, &call).unwrap();
            for (name, value) in &all {
                prop_assert_eq!(all.iter().filter(|(other, _)| other == name).count(), 1);
                let last = plan.iter().chain(&call).rfind(|(other, _)| name == other.as_str());
                if let Some((_, expected)) = last {
                    prop_assert_eq!(value, expected.as_str());
                }
            }
        }
    }

    #[test]
    fn what_loaders_runtimes_and_shells_obey_is_refused() {
        for name in
            ["LD_PRELOAD", "NODE_OPTIONS", "BUN_CONFIG", "PYTHONPATH", "BASH_ENV", "ENV", "RUN_TOOL_CHANNEL"]
        {
            let error = check(name, "x").unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("refused"), "{error}");
        }
        for name in ["LDFLAGS", "ENVIRONMENT", "NODE_ENV", "_", "TZ", "my.key-2"] {
            check(name, "x").unwrap();
        }
    }

    #[test]
    fn malformed_names_and_values_are_refused() {
        for name in ["", "A=B", "1A", "A B", "BASH_FUNC_x%%", "Ä", "A\0"] {
            assert!(check(name, "x").is_err(), "{name:?}");
        }
        assert!(check("A", "x\0y").is_err());
    }

    #[test]
    fn the_call_wins_over_the_plan_and_the_plan_over_the_base() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let all = assemble(&[pair("PATH", "/p"), pair("A", "1")], &[pair("A", "2"), pair("A", "3")]).unwrap();
        let get = |name: &str| {
            all.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            (get("PATH"), get("A"), get("HOME")),
            (vec!["/p".into()], vec!["3".into()], vec!["/tmp".into()])
        );
    }
}
