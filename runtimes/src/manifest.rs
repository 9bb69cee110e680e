//! The manifest: the file that declares tools.
//!
//! ```toml
//! version = 1
//!
//! [defaults]
//! timeout = "30s"
//! limits = { memory = "512MiB", pids = 64 }
//!
//! [tools.word-count]
//! description = "Count words in a text"
//! entry = "tools/words.ts"
//! input_schema = { type = "object", required = ["text"], properties = { text = { type = "string" } } }
//!
//! [tools.git-log]
//! command = ["git", "log", "-n20", "--oneline"]
//! policy.ro = ["."]
//! ```
//!
//! Paths are relative to the file they are written in. What a tool does not say is taken from `[defaults]` of the same
//! file, key by key. `include = ["more/tools.toml"]` adds the tools of other files, which have defaults of their own.
//! Entries, schemas and included files lie in the manifest's folder, or below it.
//!
//! A manifest is taken as a whole or not at all: [`ManifestError`] names everything that is wrong with it.

mod calls;
mod diagnostic;
mod files;
mod hints;
mod json_place;
mod json_unambiguous;
mod paths;
mod quantity;
mod reader;
mod settings;
mod tool;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use calls::WrittenCall;
pub use diagnostic::{Diagnostic, Excerpt, ManifestError};
pub use hints::{Annotations, Warm};
pub use json_unambiguous::unambiguous;

use crate::{runtime::Runtime, tool::Tool};

/// What a manifest says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Manifest {
    /// The file, by the name under which it was asked for.
    pub path: PathBuf,
    /// The tools, in the order in which they are written; included ones come last.
    pub tools: Vec<Tool>,
    /// Where the runtimes are. Absolute paths; they need not exist.
    pub runtimes: BTreeMap<Runtime, PathBuf>,
}

impl Manifest {
    /// Reads a manifest and the files that it names. Blocks.
    ///
    /// # Errors
    /// [`ManifestError`] with everything that is wrong with it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        files::load(path.as_ref())
    }

    /// The manifest that this text is, as if it were in a file at `path`. The files that it names are read. Blocks.
    ///
    /// # Errors
    /// [`ManifestError`] with everything that is wrong with it.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        files::parse(text, path.as_ref())
    }
}
