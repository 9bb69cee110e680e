//! The tools that the manifest declares: found, listed, described, checked.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use run_tool::{Call, Manifest, Runtime, Source, Tool, Tools};
use serde_json::{Value, json};

use crate::{
    args::{Describe, List},
    call::{Surroundings, engine},
    exit_code::{Column, exit_code},
    find_runtime,
    show::{plain, say},
    signals::Signals,
};

const FILE: &str = "tools.toml";

/// The manifest that is asked for, or the nearest one.
pub(crate) fn find(asked: Option<&Path>, around: &Surroundings) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    match around.current.ancestors().map(|folder| folder.join(FILE)).find(|path| path.is_file()) {
        // The shortest name is the one that people know.
        Some(path) if path.parent() == Some(&around.current) => Ok(FILE.into()),
        Some(path) => Ok(path),
        None => bail!(
            "there is no {FILE} in {} or above it; make one with `run-tool new NAME --runtime bun`, or name it with \
             --manifest",
            around.current.display()
        ),
    }
}

/// The tools of the manifest, with the runtimes that they need.
pub(crate) fn load(asked: Option<&Path>, around: &Surroundings) -> Result<Tools> {
    let manifest = Manifest::load(find(asked, around)?)?;
    let mut builder = Tools::builder().worker_dir(&around.temp_dir).variables(around.variables(&manifest));
    for tool in &manifest.tools {
        let Source::Script { runtime, entry, .. } = &tool.source else { continue };
        if manifest.runtimes.contains_key(runtime) {
            continue;
        }
        // One that is missing is told when a tool that needs it is called.
        if let Some(program) = find_runtime::find(*runtime, entry, around) {
            builder = builder.runtime(*runtime, program);
        }
    }
    Ok(builder.manifest(manifest).build()?)
}

pub(crate) fn list(args: &List, around: &Surroundings) -> Result<()> {
    let tools = load(args.manifest.as_deref(), around)?;
    let documents = tools.names().map(|name| Ok(tools.get(name)?.document())).collect::<Result<Vec<_>>>()?;
    if args.json {
        return say(Value::Array(documents));
    }
    let text = |document: &Value, field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let width = tools.names().map(str::len).max().unwrap_or(0);
    let lines: Vec<String> = documents
        .iter()
        .map(|document| {
            let (name, runtime) = (text(document, "name"), text(document, "runtime"));
            let description = plain(&text(document, "description"));
            // One tool, one line.
            let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("{name:width$}  {runtime:7}  {description}").trim_end().to_owned()
        })
        .collect();
    if lines.is_empty() { Ok(()) } else { say(lines.join("\n")) }
}

/// Shows one tool. What the manifest leaves to the tool's own file is asked there. With the exit code.
pub(crate) async fn describe(args: &Describe, around: &Surroundings) -> Result<u8> {
    let tools = load(args.list.manifest.as_deref(), around)?;
    let mut document = tools.get(&args.tool)?.document();
    if document.get("entry").is_some() && document["runtime"] != Runtime::Shell.name() {
        let engine = engine(around).catalog(tools).build()?;
        let mut signals = Signals::listen()?;
        let run = engine.start(Call::description(&args.tool).timeout(Duration::from_secs(30)));
        let (end, _) = signals.until_ended(&run.canceler(), run).await;
        // Whatever its end was, nothing of it is left when we go.
        engine.shutdown(Duration::from_secs(5)).await;
        let own = match end {
            Ok(report) => report.value.unwrap_or_default(),
            Err(error) => {
                writeln!(io::stderr(), "run-tool: {error}")?;
                return Ok(exit_code(&Err(error), Column::Run));
            }
        };
        for field in ["description", "input_schema", "output_schema"] {
            if document.get(field).is_none() && own.get(field).is_some() {
                document[field] = own[field].clone();
            }
        }
    }
    let example = example(&document["input_schema"]);
    document["example"] = format!("run-tool run {} --input '{example}'", args.tool).into();
    if args.list.json {
        say(&document)?;
        return Ok(0);
    }
    let lines: Vec<String> = document
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}: {}", plain(text)),
            Value::Object(_) => format!("{name}: {value:#}"),
            other => format!("{name}: {other}"),
        })
        .collect();
    say(lines.join("\n"))?;
    Ok(0)
}

/// An input that the schema may take: its own example or default, or something of the right type.
fn example(schema: &Value) -> Value {
    if let Some(given) = schema["examples"].get(0).or(schema.get("default")).or(schema.get("const")) {
        return given.clone();
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().or(schema["type"][0].as_str());
    match kind {
        Some("string") => json!("…"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("array") => json!([example(&schema["items"])]),
        Some("object") => {
            let required: Vec<_> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let wanted = fields.filter(|(name, _)| required.contains(&name.as_str()));
            Value::Object(wanted.map(|(name, schema)| (name.clone(), example(schema))).collect())
        }
        _ => Value::Null,
    }
}

pub(crate) fn check(asked: Option<&Path>, around: &Surroundings) -> Result<()> {
    let path = find(asked, around)?;
    let tools = load(Some(&path), around)?;
    // No mistake of the manifest's: it may be right for another machine.
    for warning in missing_runtimes(&tools) {
        writeln!(io::stderr(), "{}: warning: {warning}", path.display())?;
    }
    say(format_args!("{}: ok, {} tools", path.display(), tools.names().count()))
}

/// What keeps tools from being called here: each runtime that is not there, with the tools that need it.
fn missing_runtimes(tools: &Tools) -> Vec<String> {
    let mut missing: Vec<(Runtime, Vec<&str>)> = Vec::new();
    for name in tools.names() {
        let Some(runtime) = tools.get(name).ok().map(Tool::runtime) else { continue };
        let there = runtime == Runtime::Command || tools.program(runtime).is_some_and(Path::is_file);
        match missing.iter_mut().find(|(known, _)| *known == runtime) {
            _ if there => {}
            Some((_, names)) => names.push(name),
            None => missing.push((runtime, vec![name])),
        }
    }
    missing.sort();
    let warning = |(runtime, names): &(Runtime, Vec<&str>)| {
        let needed = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let place = match tools.program(*runtime) {
            Some(program) => format!("which is not at {}", program.display()),
            None => "which is neither installed beside it or above it nor in PATH".into(),
        };
        format!(
            "{needed} needs {runtime}, {place}; {}, or name it in the manifest with [runtimes.{}] path",
            runtime.how_to_get(),
            runtime.name()
        )
    };
    missing.iter().map(warning).collect()
}
