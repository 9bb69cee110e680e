//! Whether two calls are the same call.

use std::{
    fmt::{self, Write},
    hash::{Hash, Hasher},
};

use sha2::{Digest, Sha256};

use crate::call::{Call, Stdin, Target};

/// All that shapes a call, as a digest: what is secret in it is not kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Fingerprint {
    Of([u8; 32]),
    /// Nobody can tell whether another one is the same, and why.
    Unique(&'static str),
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fingerprint::Of(_) => "Of(…)",
            Fingerprint::Unique(why) => why,
        })
    }
}

impl Fingerprint {
    pub(super) fn of(call: &Call) -> Self {
        // Named one by one: whoever adds a field decides.
        let Call {
            target,
            input,
            stdin,
            env,
            secrets,
            workdir,
            limits,
            least_level,
            policy,
            resources,
            tokens,
            back_pressure,
            id: _,
            owner,
            retry,
            standing,
        } = call;
        if !tokens.is_empty() {
            return Fingerprint::Unique(
                "it has a cancellation token, and nobody can tell whether two are the same",
            );
        }
        let bytes = match stdin {
            Stdin::Fd(_) => {
                return Fingerprint::Unique(
                    "its standard input is an open file, and nobody can tell what is in it",
                );
            }
            Stdin::Null => None,
            Stdin::Bytes(bytes) => Some(bytes),
        };
        let mut digest = Sink(Sha256::new());
        match target {
            Target::Tool(name) => (0, name).hash(&mut digest),
            Target::Command(words) => (1, words).hash(&mut digest),
            Target::Description(name) => (2, name).hash(&mut digest),
        }
        // Fields of an object in another order are the same object.
        input.hash(&mut digest);
        bytes.hash(&mut digest);
        in_order(env.iter().map(|(name, value)| (&**name, &**value))).hash(&mut digest);
        in_order(secrets.iter().map(|secret| (secret.name(), secret.value()))).hash(&mut digest);
        workdir.as_deref().map(|folder| folder.as_os_str()).hash(&mut digest);
        back_pressure.hash(&mut digest);
        standing.hash(&mut digest);
        owner.hash(&mut digest);
        // Plain values, which show all that they are; text in them is quoted.
        let plain = write!(digest, "{limits:?} {least_level:?} {policy:?} {resources:?} {retry:?}");
        debug_assert!(plain.is_ok(), "a digest takes everything");
        Fingerprint::Of(digest.0.finalize().into())
    }

    /// Whether they are of the same call; if not, why.
    pub(super) fn compare(&self, other: &Self) -> Result<(), &'static str> {
        match (self, other) {
            (Fingerprint::Unique(why), _) | (_, Fingerprint::Unique(why)) => Err(why),
            (Fingerprint::Of(one), Fingerprint::Of(another)) if one == another => Ok(()),
            (Fingerprint::Of(_), Fingerprint::Of(_)) => Err("it is another call"),
        }
    }
}

/// Variables by their names; of two with one name the order counts.
fn in_order<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    let mut variables: Vec<_> = variables.collect();
    variables.sort_by_key(|(name, _)| *name);
    variables
}

/// Takes what is hashed or written into the digest.
struct Sink(Sha256);

impl Hasher for Sink {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

impl fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
