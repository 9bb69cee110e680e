//! A new tool: its file, its entry in the manifest, and a call to try it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use run_tool::{Manifest, Runtime, Tool, Tools};
use tempfile::NamedTempFile;

use crate::{args::New, show::say};

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

/// A shell script cannot declare one in its own file.
const SHELL_SCHEMA: &str = r#"input_schema.type = "object"
input_schema.required = ["name"]
input_schema.properties.name.type = "string"
input_schema.additionalProperties = false
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
    // It says what is wrong with the name.
    Tools::builder().tool(Tool::command(tool, ["true"])).build()?;
    let (file, manifest) = (format!("{tool}.{ending}"), Path::new("tools.toml"));
    if manifest.is_symlink() && !manifest.exists() {
        bail!("tools.toml is a link to a file that is not there; make that file, or remove the link");
    }
    let mut text = "version = 1\n".to_owned();
    if manifest.exists() {
        // What is wrong with it already, before anything is added.
        let known = Manifest::load(manifest)?.tools;
        let shown = |name: &str| name.replace('.', "_");
        if let Some(other) = known.iter().find(|other| shown(&other.name) == shown(tool)) {
            bail!(
                "tools.toml has a tool {:?} already{}; choose another name, or remove it there",
                other.name,
                if other.name == *tool { "" } else { ", and `.` is shown as `_`" }
            );
        }
        text = fs::read_to_string(manifest).context("cannot read tools.toml")?;
    }
    text.push_str(&format!(
        "\n[tools.\"{tool}\"]\ndescription = \"Greets somebody\"\nruntime = \"{}\"\nentry = \"{file}\"\n",
        runtime.name()
    ));
    if *runtime == Runtime::Shell {
        text.push_str(SHELL_SCHEMA);
    }
    let made = whole_file(&source, Path::new(".")).with_context(|| {
        format!("cannot make {file}; see that the current folder is there, can be written to and has room")
    })?;
    made.persist_noclobber(&file).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("there is a file {file} already; choose another name, or remove it")
        }
        _ => Error::from(failed.error).context(format!("cannot make {file}")),
    })?;
    // The whole manifest has to hold before it is written.
    let written = Manifest::parse(&text, manifest)
        .context("an entry cannot be added at the end of tools.toml; write its tools as [tools.NAME]")
        .and_then(|_| {
            replace(manifest, &text).context("cannot write tools.toml; see that it can be written to")
        });
    if let Err(error) = written {
        fs::remove_file(&file)
            .with_context(|| format!("cannot remove {file} again, after this: {error:#}"))?;
        return Err(error);
    }
    say(format_args!(
        "made {file} and its entry in tools.toml; try it:\n  run-tool run {tool} --input name=World"
    ))
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
