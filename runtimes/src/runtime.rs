//! The kinds of programs that tools are made of, and what each of them can run.

use std::{ffi::OsStr, fmt, io, path::Path};

use crate::{probe, worker};

/// What runs a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Runtime {
    /// JavaScript and TypeScript, in Bun.
    Bun,
    /// JavaScript, and from 22.18 on TypeScript, in Node.js.
    Node,
    /// JavaScript and TypeScript, in Deno.
    Deno,
    /// Python.
    Python,
    /// A shell script. It gets its input as JSON on standard input; what it writes to standard output is its value.
    Shell,
    /// Any program; input and value as with a shell script.
    Command,
}

impl Runtime {
    /// All of them. Where several can run a file, the first is the default.
    pub const ALL: [Runtime; 6] =
        [Runtime::Bun, Runtime::Node, Runtime::Deno, Runtime::Python, Runtime::Shell, Runtime::Command];

    /// The name in a manifest and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Bun => "bun",
            Runtime::Node => "node",
            Runtime::Deno => "deno",
            Runtime::Python => "python",
            Runtime::Shell => "shell",
            Runtime::Command => "command",
        }
    }

    /// The runtime of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == name)
    }

    /// The endings of the files that it runs, without the dot.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Runtime::Bun | Runtime::Deno => &["ts", "mts", "cts", "tsx", "js", "mjs", "cjs", "jsx"],
            Runtime::Node => &["ts", "mts", "cts", "js", "mjs", "cjs"],
            Runtime::Python => &["py"],
            Runtime::Shell => &["sh", "bash"],
            Runtime::Command => &[],
        }
    }

    /// The runtimes that run a file with this name.
    pub fn for_file(file: &Path) -> impl Iterator<Item = Self> {
        let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        Self::ALL.into_iter().filter(move |runtime| runtime.extensions().contains(&&*extension))
    }

    /// The names that its program goes by, the best first.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Runtime::Bun => &["bun"],
            Runtime::Node => &["node"],
            Runtime::Deno => &["deno"],
            Runtime::Python => &["python3", "python"],
            Runtime::Shell => &["sh"],
            Runtime::Command => &[],
        }
    }

    /// The least version that can run a worker; `None` where there is no worker.
    pub fn least_version(self) -> Option<Version> {
        match self {
            // Before, a tsconfig.json of the working folder could put another file in the place of the worker.
            Runtime::Bun => Some(Version(1, 2, 23)),
            Runtime::Node => Some(Version(20, 11, 0)),
            Runtime::Deno => Some(Version(2, 4, 0)),
            Runtime::Python => Some(Version(3, 9, 0)),
            Runtime::Shell | Runtime::Command => None,
        }
    }

    /// Whether it finds packages in the `node_modules` of its folder and those above it.
    pub(crate) fn is_javascript(self) -> bool {
        matches!(self, Runtime::Bun | Runtime::Node | Runtime::Deno)
    }

    /// How to get it, in words: what to do, for somebody who lacks it.
    pub fn how_to_get(self) -> &'static str {
        match self {
            Runtime::Bun => "install it with `npm install bun`",
            Runtime::Node => "install it from https://nodejs.org or with your system's packages",
            Runtime::Deno => "install it with `npm install deno`",
            Runtime::Python => "install it with your system's packages (Debian: `apt-get install python3`)",
            Runtime::Shell | Runtime::Command => "every system has one: /bin/sh",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Bun => "Bun",
            Runtime::Node => "Node.js",
            Runtime::Deno => "Deno",
            Runtime::Python => "Python",
            Runtime::Shell => "a shell",
            Runtime::Command => "a command",
        })
    }
}

/// A version of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// That of a runtime's program, which is asked once: the answer is kept below `temp_dir`, with the workers. Blocks, for
    /// 10 s at most.
    ///
    /// # Errors
    /// When the program cannot be executed, says no version, or does not end; or the folder cannot be made.
    pub fn of(program: &Path, temp_dir: &Path) -> io::Result<Self> {
        probe::version(program, &worker::own_folder(temp_dir)?)
    }

    /// The first version in a text such as `v22.18.0`, `Python 3.11.2` or `deno 2.9.6 (stable, …)`.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let digits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
            let mut parts = digits.splitn(3, '.').map(|part| {
                let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                part[..end].parse().ok()
            });
            Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_runtimes_print() {
        for (text, version) in [
            ("1.4.5\n", Version(1, 4, 5)),
            ("v22.18.0\n", Version(22, 18, 0)),
            ("Python 3.13.0rc2+\n", Version(3, 13, 0)),
            ("deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\nv8 14.1\n", Version(2, 9, 6)),
            ("1.3.0-canary.5", Version(1, 3, 0)),
            ("3.12", Version(3, 12, 0)),
        ] {
            assert_eq!(Version::find(text), Some(version), "{text:?}");
        }
        for text in ["", "none", "7", "usage: foo"] {
            assert_eq!(Version::find(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_files_name_tells_who_runs_it() {
        let of = |name: &str| Runtime::for_file(Path::new(name)).map(Runtime::name).collect::<Vec<_>>();
        assert_eq!(of("a.ts"), ["bun", "node", "deno"]);
        assert_eq!(of("a.tsx"), ["bun", "deno"]);
        assert_eq!((of("a.py"), of("a.sh"), of("a.rb")), (vec!["python"], vec!["shell"], vec![]));
    }
}
