//! A new tool: its file, its entry in the manifest, and a call to try it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use run_tool::{Manifest, Runtime};
use tempfile::NamedTempFile;

use crate::args::New;

const JAVASCRIPT: &str = r#"export const inputSchema = {
  type: "object",
  required: ["name"],
  properties: { name: { type: "string" } },
  additionalProperties: false,
};

export default function (input, ctx) {
  ctx.progress(0.5, "half done");
  return { greeting: `Hello, ${input.name}!` };
}
"#;

const PYTHON: &str = r#"INPUT_SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}},
    "additionalProperties": False,
}


def run(input, ctx):
    ctx.progress(0.5, "half done")
    return {"greeting": f"Hello, {input['name']}!"}
"#;

const SHELL: &str = r#"#!/bin/sh
# The input is JSON on standard input; what is written to standard output is the value.
input=$(cat)
name=$(printf '%s' "$input" | sed -n 's/.*"name" *: *"\([^"]*\)".*/\1/p')
printf '{"greeting":"Hello, %s!"}\n' "$name"
"#;

/// Makes it in the current folder. Nothing that is there is written over.
pub(crate) fn new(args: &New) -> Result<()> {
    let New { tool, runtime } = args;
    let (ending, source) = match runtime {
        Runtime::Bun | Runtime::Deno => {
            ("ts", JAVASCRIPT.replace("(input, ctx)", "(input: { name: string }, ctx: any)"))
        }
        Runtime::Python => ("py", PYTHON.to_owned()),
        Runtime::Shell => ("sh", SHELL.to_owned()),
        _ => ("mjs", JAVASCRIPT.to_owned()),
    };
    if tool.contains(['/', '\0', '"', '\n']) || tool.is_empty() {
        bail!(
            "{tool:?} cannot be a tool's name: begin with a letter or digit, then letters, digits, `_`, `.` or `-`"
        );
    }
    let (file, manifest) = (format!("{tool}.{ending}"), Path::new("tools.toml"));
    if manifest.is_symlink() && !manifest.exists() {
        bail!("tools.toml is a link to a file that is not there; make that file, or remove the link");
    }
    let mut text = match fs::read_to_string(manifest) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "version = 1\n".to_owned(),
        Err(error) => return Err(error).context("cannot read tools.toml"),
    };
    text.push_str(&format!(
        "\n[tools.\"{tool}\"]\ndescription = \"Greets somebody\"\nruntime = \"{}\"\nentry = \"{file}\"\n",
        runtime.name()
    ));
    whole_file(&source, Path::new("."))
        .and_then(|made| Ok(made.persist_noclobber(&file)?))
        .with_context(|| format!("cannot make {file}; choose another name, or remove it"))?;
    // The whole manifest has to hold before it is written.
    let written = Manifest::parse(&text, manifest)
        .map_err(anyhow::Error::from)
        .and_then(|_| replace(manifest, &text).context("cannot write tools.toml"));
    if let Err(error) = written {
        fs::remove_file(&file)?;
        return Err(error);
    }
    writeln!(
        io::stdout(),
        "made {file} and its entry in tools.toml; try it:\n  run-tool run {tool} --input name=World"
    )?;
    Ok(())
}

/// Renamed into place, so that nobody reads half of it. Of a link it is the target that is replaced.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = if path.exists() { path.canonicalize()? } else { path.to_owned() };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let next = whole_file(text, folder.unwrap_or(Path::new(".")))?;
    match fs::metadata(&target) {
        Ok(metadata) => next.as_file().set_permissions(metadata.permissions())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    next.persist(&target)?;
    Ok(())
}

/// A file with this text that has no name yet; it is gone if it gets none.
fn whole_file(text: &str, folder: &Path) -> io::Result<NamedTempFile> {
    // What any new file has; the umask takes away from it.
    let permissions = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
