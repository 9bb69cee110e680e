//! Where Bun is. The library is told; this is who tells it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// `node_modules/.bin/bun` in the folder of the tool, in the current one, or above them; then `bun` in our own `PATH`.
pub(crate) fn find_bun(tool: &Path, current: &Path, path: Option<&OsStr>) -> Result<PathBuf> {
    let tool = std::path::absolute(tool)?;
    let installed = tool
        .ancestors()
        .skip(1)
        .chain(current.ancestors())
        .map(|folder| folder.join("node_modules/.bin/bun"));
    let in_path = path.into_iter().flat_map(std::env::split_paths).map(|folder| folder.join("bun"));
    match installed.chain(in_path).find(|candidate| candidate.is_file()) {
        Some(bun) => Ok(bun),
        None => bail!(
            "the tool needs Bun, which is neither in a node_modules/.bin above {} or {} nor in PATH; \
             install it with `npm install bun`, or name it with --bun PATH",
            tool.parent().unwrap_or(&tool).display(),
            current.display()
        ),
    }
}
