//! Which runtime a file is for, and where its program is. The library is told; this is who tells it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail};
use run_tool::Runtime;

use crate::{call::Surroundings, values::RuntimeChoice};

/// The runtime of a tool's file and its program: as asked for, or by the file's ending, or by its first line.
pub(crate) fn for_file(
    file: &Path,
    asked: Option<&RuntimeChoice>,
    around: &Surroundings,
) -> Result<(Runtime, PathBuf)> {
    if let Some(RuntimeChoice { runtime, program }) = asked {
        let program = match program {
            Some(program) => std::path::absolute(program)?,
            None => find(*runtime, file, around).ok_or_else(|| missing(&[*runtime], file, around))?,
        };
        return Ok((*runtime, program));
    }
    let mut able: Vec<_> = Runtime::for_file(file).collect();
    if file.extension().is_some_and(|ending| ending.to_string_lossy().contains("ts")) {
        // Not every Node.js runs TypeScript.
        able.sort_by_key(|runtime| *runtime == Runtime::Node);
    }
    if let Some(found) = able.iter().find_map(|runtime| Some((*runtime, find(*runtime, file, around)?))) {
        return Ok(found);
    }
    if !able.is_empty() {
        return Err(missing(&able, file, around));
    }
    by_first_line(file, around)
}

/// The program of a runtime: `node_modules/.bin` or `.venv/bin` in the folder of the tool, in the current one, or above
/// them; then our own `PATH`.
pub(crate) fn find(runtime: Runtime, tool: &Path, around: &Surroundings) -> Option<PathBuf> {
    let tool = std::path::absolute(tool).ok()?;
    let installed = if runtime == Runtime::Python { ".venv/bin" } else { "node_modules/.bin" };
    let folders: Vec<PathBuf> = tool
        .ancestors()
        .skip(1)
        .chain(around.current.ancestors())
        .map(|folder| folder.join(installed))
        .chain(around.path.iter().flat_map(std::env::split_paths))
        .collect();
    let mut candidates =
        runtime.programs().iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.find(|candidate| candidate.is_file())
}

fn missing(able: &[Runtime], file: &Path, around: &Surroundings) -> anyhow::Error {
    let names = |separator: &str| able.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator);
    // The first is the one that it would run in.
    let how = able.first().copied().unwrap_or(Runtime::Command).how_to_get();
    anyhow!(
        "{} needs {}, which is neither installed above {} or {} nor in PATH; {how}, or name it with --runtime NAME=PATH",
        file.display(),
        names(" or "),
        file.parent().unwrap_or(file).display(),
        around.current.display()
    )
}

/// `#!/usr/bin/env python3`, `#!/bin/bash`, `#!/usr/bin/env -S deno run`.
fn by_first_line(file: &Path, around: &Surroundings) -> Result<(Runtime, PathBuf)> {
    const LONGEST: u64 = 1024;
    let mut line = Vec::new();
    BufReader::new(File::open(file)?.take(LONGEST)).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.strip_prefix("#!").unwrap_or_default().split_whitespace();
    let mut interpreter = words.next().unwrap_or_default();
    if Path::new(interpreter).file_name() == Some(OsStr::new("env")) {
        interpreter = words.find(|word| !word.starts_with('-') && !word.contains('=')).unwrap_or_default();
    }
    let name = Path::new(interpreter).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let runtime = match name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') {
        "bun" => Runtime::Bun,
        "node" | "nodejs" => Runtime::Node,
        "deno" => Runtime::Deno,
        "python" => Runtime::Python,
        "sh" | "bash" | "dash" | "zsh" | "ksh" => Runtime::Shell,
        "" => bail!(
            "it cannot be told what runs {}: its name has none of the endings ts, js, mjs, cjs, tsx, jsx, py, sh, and it \
             does not begin with `#!`; name the runtime with --runtime, or run it with `run-tool exec -- CMD`",
            file.display()
        ),
        _ => bail!(
            "{} is for {name}, which is no runtime of tools (they are bun, node, deno, python, shell); run it with \
             `run-tool run --runtime command {0}` or `run-tool exec -- {0}`",
            file.display()
        ),
    };
    let as_written = PathBuf::from(interpreter);
    let program = if as_written.is_absolute() && as_written.is_file() {
        as_written
    } else if runtime == Runtime::Shell {
        around
            .path
            .iter()
            .flat_map(std::env::split_paths)
            .map(|folder| folder.join(name))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| anyhow!("{} is for {name}, which is not in PATH; install it", file.display()))?
    } else {
        find(runtime, file, around).ok_or_else(|| missing(&[runtime], file, around))?
    };
    Ok((runtime, program))
}
