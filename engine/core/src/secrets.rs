//! Secrets: values that a tool is given and nobody is shown.

use std::{borrow::Cow, collections::HashMap, fmt};

use crate::{
    environment,
    error::{ErrorKind, invalid},
    forms,
    masker::MASK,
};

/// Fewer bytes than this cannot be told from ordinary text.
const SHORTEST: usize = 4;

/// Of one secret, and of all of a call. More than that the kernel would not take in an environment (execve(2)).
const LONGEST: usize = 64 << 10;
const LONGEST_TOGETHER: usize = 1 << 20;

/// A value that a tool is given as an environment variable, and that is masked in everything that is told of the call.
///
/// Instead of the value stands `***`: in captured output, in every event, in the report, in errors, and in the words of
/// the engine's own tracing. It is found however it was cut by the tool's writes, also as it stands in JSON (as JavaScript,
/// Python, PHP, Go and Rust write it) or in a URL (percent-encoded), without the space around it, and by any of its lines of at least 8 bytes. Every byte that belongs
/// to an occurrence is masked; occurrences that overlap are one `***`.
///
/// It is a protection against mistakes, not against a tool that wants to tell: a value that is written backwards, in
/// base64, or in two parts is not known again, nor is a part of it that a tool was stopped in the middle of.
#[derive(Clone)]
pub struct Secret {
    name: String,
    value: String,
}

impl Secret {
    /// The secret `value`, to be handed to a tool as the variable `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where [`environment::check`] refuses the variable; or when the value, without the space
    /// around it, has fewer than 4 bytes (to mask it would garble everything), or the whole has more than 64 KiB. No error
    /// shows the value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Result<Self, ErrorKind> {
        let secret = Self::unchecked(name.into(), value.into());
        secret.check()?;
        Ok(secret)
    }

    /// To be checked when the call is started.
    pub(crate) fn unchecked(name: String, value: String) -> Self {
        Self { name, value }
    }

    /// The length of its value in bytes.
    pub(crate) fn len(&self) -> usize {
        self.value.len()
    }

    /// For the process that it is handed to, and for a digest.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// The variable's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), ErrorKind> {
        environment::check(&self.name, &self.value)?;
        let subject = || format!("secret {:?}", self.name);
        if self.value.trim().is_empty() {
            return Err(invalid(subject(), "its value is empty", "set it, or leave the secret out"));
        }
        if self.value.trim().len() < SHORTEST {
            return Err(invalid(
                subject(),
                format!("its value has fewer than {SHORTEST} bytes; to mask it would garble everything"),
                "use a longer value, or hand it over as an ordinary variable",
            ));
        }
        if self.value.len() > LONGEST {
            return Err(invalid(
                subject(),
                format!("its value has more than {LONGEST} bytes"),
                "hand over the name of a file instead",
            ));
        }
        Ok(())
    }

    /// The number that it is, if it is one, and not one so short that it may be any.
    pub(crate) fn number(&self) -> Option<f64> {
        let number = self.value.trim().parse::<f64>().ok().filter(|number| number.is_finite())?;
        (number.to_string().len() >= SHORTEST).then_some(number)
    }

    /// What it is looked for by: see [`forms::of`].
    pub(crate) fn forms(&self, all: bool) -> impl Iterator<Item = Vec<u8>> {
        forms::of(&self.value, all)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Checks what a call names as secrets, before anything else is said about it: a refused value is not masked.
///
/// # Errors
/// [`ErrorKind::Invalid`], which names the variable and not its value.
pub(crate) fn check_call(secrets: &[Secret], env: &[(String, String)]) -> Result<(), ErrorKind> {
    for secret in secrets {
        secret.check()?;
        if env.iter().any(|(name, _)| *name == secret.name) {
            return Err(invalid(
                format!("secret {:?}", secret.name),
                "the call sets the same variable as an ordinary one",
                "set it one way only",
            ));
        }
    }
    one_value_each(secrets)?;
    check_size(secrets)
}

/// Checks what a plan names as secrets, beside those of its call, which were checked.
///
/// # Errors
/// As [`check_call`].
pub(crate) fn check_plan(plan: &[Secret], call: &[Secret]) -> Result<(), ErrorKind> {
    one_value_each(plan)?;
    check_size(plan.iter().chain(call))
}

/// Which of two values a tool would get is anybody's guess.
fn one_value_each(secrets: &[Secret]) -> Result<(), ErrorKind> {
    let mut values = HashMap::new();
    for Secret { name, value } in secrets {
        if *values.entry(name).or_insert(value) != value {
            return Err(invalid(
                format!("secret {name:?}"),
                "it is given twice, with two different values",
                "give it once",
            ));
        }
    }
    Ok(())
}

fn check_size<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<(), ErrorKind> {
    if secrets.into_iter().map(|secret| secret.value.len()).sum::<usize>() > LONGEST_TOGETHER {
        return Err(invalid(
            "secrets",
            format!("together they have more than {LONGEST_TOGETHER} bytes"),
            "hand over the names of files instead",
        ));
    }
    Ok(())
}

/// Those that can be masked, and those that cannot, for which a call is refused.
pub(crate) fn sorted<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
) -> (Vec<&'a Secret>, Vec<&'a Secret>) {
    let mut together = 0;
    secrets.into_iter().partition(|secret| {
        together += secret.value.len();
        secret.value.trim().len() >= SHORTEST && secret.value.len() <= LONGEST && together <= LONGEST_TOGETHER
    })
}

/// Hides, in the words of a call, the secrets that are refused because they cannot be masked: a word that shows one is not
/// shown at all. (With three letters masked in the middle of a word, the rest of it would tell which.)
pub(crate) fn hide_refused(secrets: &[Secret], words: &mut [String]) {
    for secret in sorted(secrets).1 {
        let value = secret.value.trim();
        if value.is_empty() {
            continue;
        }
        words.iter_mut().filter(|word| word.contains(value)).for_each(|word| *word = MASK.into());
        // It may be spread over several of them.
        if words.join(" ").contains(value) {
            words.iter_mut().for_each(|word| *word = MASK.into());
        }
    }
}

/// The variables `env`, and the secrets on top of them.
pub(crate) fn on_top<'a>(env: &'a [(String, String)], secrets: &[Secret]) -> Cow<'a, [(String, String)]> {
    if secrets.is_empty() {
        return env.into();
    }
    let secrets = secrets.iter().map(|secret| (secret.name.clone(), secret.value.clone()));
    env.iter().cloned().chain(secrets).collect()
}
