//! One `[tools.NAME]`.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::de::DeValue;

use super::{
    declaration::{Annotations, Declaration},
    diagnostic::Diagnostic,
    json_place, paths,
    reader::{Item, Source, Table, boolean, json, kind, locate, path, string, suggestion, words},
    settings::{Settings, names},
};
use crate::schema::Schema;

/// The runtimes, and the extensions of the files that each of them loads.
pub(super) const RUNTIMES: [(&str, &[&str]); 6] = [
    ("bun", &["ts", "mts", "cts", "tsx", "jsx", "js", "mjs", "cjs"]),
    ("node", &["ts", "mts", "cts", "js", "mjs", "cjs"]),
    ("deno", &["ts", "mts", "cts", "tsx", "jsx", "js", "mjs", "cjs"]),
    ("python", &["py"]),
    ("shell", &["sh", "bash"]),
    ("command", &[]),
];

/// What is written after the name, apart from the settings.
struct Parts {
    runtime: Option<Item<String>>,
    entry: Option<Item<PathBuf>>,
    export: Option<Item<String>>,
    command: Option<Item<Vec<Item<String>>>>,
}

/// Reads a tool. Of one that has mistakes, what comes back is of no use; they have been noted.
pub(super) fn read(name: &str, mut table: Table<'_>, defaults: &Settings) -> Declaration {
    let source = table.source;
    let mut tool = Declaration::new(name);
    tool.description = table.read("description", words).map(|item| item.value);
    let parts = Parts {
        runtime: table.read("runtime", runtime),
        entry: table.read("entry", path),
        export: table.read("export", words),
        command: table.strings("command"),
    };
    what_it_is(&table, parts, &mut tool);
    let own = Settings::read(&mut table);
    let secrets = names(&mut table, "secrets").map(|item| item.value).unwrap_or_default();
    if let Some(value) = table.get("config") {
        match json(value) {
            Ok(config) => tool.config = config,
            Err((at, (message, hint))) => source.say(at, format!("{}.config: {message}", table.name), hint),
        }
    }
    tool.annotations = annotations(&mut table);
    tool.input_schema = schema(&mut table, "input_schema");
    tool.output_schema = schema(&mut table, "output_schema");
    table.finish();

    let settings = own.over(defaults);
    settings.check(&source);
    check_variables(&source, &settings, &secrets);
    tool.limits = settings.limits_of_a_call();
    tool.max_timeout = settings.max_timeout();
    tool.resources = settings.resources();
    tool.policy = settings.policy_of_a_call();
    tool.retry = settings.retries();
    tool.warm = settings.warmth();
    tool.workdir = settings.workdir();
    let plain = |list: &[Item<String>]| list.iter().map(|item| item.value.clone()).collect();
    tool.env_pass = settings.env_pass.as_ref().map(|item| plain(&item.value)).unwrap_or_default();
    tool.secrets = plain(&secrets);
    tool.env = settings.env.into_iter().map(|(name, item)| (name, item.value)).collect();
    tool
}

pub(super) fn runtime(value: &DeValue<'_>) -> Result<String, (String, String)> {
    let name = string(value)?;
    let known: Vec<_> = RUNTIMES.iter().map(|(name, _)| *name).collect();
    if known.contains(&name.as_str()) {
        Ok(name)
    } else {
        let hint = suggestion(&name, &known);
        Err((format!("{name:?} is an unknown runtime"), hint))
    }
}

/// Settles what the tool is made of: a file for a runtime, or a command.
fn what_it_is(table: &Table<'_>, parts: Parts, tool: &mut Declaration) {
    let source = table.source;
    let name = &table.name;
    // What is there but was refused has been spoken of.
    let (has_entry, has_command) = (table.has("entry"), table.has("command"));
    let says_command = parts.runtime.as_ref().is_some_and(|runtime| runtime.value == "command");
    match (has_entry, has_command) {
        (true, true) => {
            source.say(table.at, format!("{name} has both entry and command"), "a tool is one or the other");
        }
        (false, false) if says_command => {
            source.say(
                table.at,
                format!("{name} has no command"),
                "add command = [\"PROGRAM\", \"ARGUMENT\"]",
            );
        }
        (false, false) => source.say(
            table.at,
            format!("{name} has neither entry nor command"),
            "add entry = \"FILE\" or command = [\"PROGRAM\", \"ARGUMENT\"]",
        ),
        _ => {}
    }
    if let Some(entry) = &parts.entry {
        match paths::file_inside(source.root, source.folder, &entry.value) {
            Ok(real) => tool.entry = Some(real),
            Err((message, hint)) => source.say(entry.at, format!("{name}.entry: {message}"), hint),
        }
    }
    if let Some(command) = &parts.command {
        tool.command = command_words(&source, name, command);
    }
    tool.runtime = match (&parts.runtime, &parts.entry) {
        (Some(runtime), entry) => {
            let at = runtime.at;
            if has_command && !has_entry && !says_command {
                let message = format!("{name}.runtime: {} runs a file, not a command", runtime.value);
                source.say(at, message, "write \"command\", or leave it out");
            } else if has_entry && !has_command && says_command {
                let message = format!("{name}.runtime: a command has no entry");
                source.say(at, message, "name the runtime that loads the file, or leave it out");
            } else if let Some(entry) = entry
                && tool.entry.is_some()
                && !has_command
            {
                check_extension(&source, name, runtime, entry);
            }
            runtime.value.clone()
        }
        (None, _) if has_command => "command".into(),
        (None, Some(entry)) if !table.has("runtime") => by_extension(&entry.value).unwrap_or_else(|| {
            let message = format!("{name}.entry: {} does not tell its runtime", entry.value.display());
            source.say(entry.at, message, "add runtime = \"bun\", or whichever it is for");
            String::new()
        }),
        (None, _) => String::new(),
    };
    if let Some(export) = parts.export {
        if matches!(tool.runtime.as_str(), "command" | "shell") {
            let message = format!(
                "{name}.export: a {} has no exports",
                match tool.runtime.as_str() {
                    "shell" => "shell script",
                    other => other,
                }
            );
            source.say(export.at, message, "leave it out");
        }
        tool.export = Some(export.value);
    }
}

fn command_words(source: &Source<'_>, name: &str, command: &Item<Vec<Item<String>>>) -> Vec<String> {
    let mut words: Vec<String> = command.value.iter().map(|item| item.value.clone()).collect();
    match words.first_mut() {
        None => {
            source.say(command.at, format!("{name}.command: is empty"), "name a program and its arguments")
        }
        Some(program) if program.trim().is_empty() => {
            source.say(
                command.value[0].at,
                format!("{name}.command: the program is empty"),
                "name a program",
            );
        }
        Some(program) if program.contains('/') => {
            *program = paths::absolute(source.folder, program.as_ref()).to_string_lossy().into_owned();
        }
        Some(_) => {}
    }
    words
}

fn extension(entry: &Path) -> Option<&str> {
    entry.extension().and_then(|extension| extension.to_str())
}

fn by_extension(entry: &Path) -> Option<String> {
    let extension = extension(entry)?;
    RUNTIMES.iter().find(|(_, known)| known.contains(&extension)).map(|(name, _)| (*name).to_owned())
}

fn check_extension(source: &Source<'_>, name: &str, runtime: &Item<String>, entry: &Item<PathBuf>) {
    let known = RUNTIMES.iter().find(|(name, _)| *name == runtime.value).map_or(&[][..], |(_, known)| known);
    let loads = match extension(&entry.value) {
        Some(extension) => known.contains(&extension),
        None => runtime.value == "shell",
    };
    if !loads {
        let message = format!("{name}.runtime: {} does not load {}", runtime.value, entry.value.display());
        let hint = match by_extension(&entry.value) {
            Some(other) => format!("did you mean {other:?}?"),
            None => format!("it loads: .{}", known.join(", .")),
        };
        source.say(runtime.at, message, hint);
    }
}

fn check_variables(source: &Source<'_>, settings: &Settings, secrets: &[Item<String>]) {
    let passed = settings.env_pass.as_ref().map_or(&[][..], |item| &item.value[..]);
    let is_set = |name: &str| settings.env.iter().any(|(known, _)| known == name);
    let twice = |item: &Item<String>, list: &str, other: &str| {
        let message = format!("{list}: {:?} is also in {other}", item.value);
        source.say(item.at, message, "a variable has one value: name it in one place");
    };
    for item in passed.iter().filter(|item| is_set(&item.value)) {
        twice(item, "env_pass", "env");
    }
    for item in secrets {
        if is_set(&item.value) {
            twice(item, "secrets", "env");
        }
        if passed.iter().any(|known| known.value == item.value) {
            twice(item, "secrets", "env_pass");
        }
    }
}

fn annotations(table: &mut Table<'_>) -> Annotations {
    let Some(mut table) = table.table("annotations") else { return Annotations::default() };
    let mut read = |key| table.read(key, boolean);
    let (read_only, idempotent) = (read("read_only"), read("idempotent"));
    let (destructive, open_world) = (read("destructive"), read("open_world"));
    if let (Some(Item { value: true, .. }), Some(Item { value: true, at })) = (&read_only, &destructive) {
        let message = format!("{}.destructive: what is read_only destroys nothing", table.name);
        table.source.say(*at, message, "leave out one of them");
    }
    let title = table.read("title", words).map(|item| item.value);
    table.finish();
    let plain = |item: Option<Item<bool>>| item.map(|item| item.value);
    Annotations {
        title,
        read_only: plain(read_only),
        idempotent: plain(idempotent),
        destructive: plain(destructive),
        open_world: plain(open_world),
    }
}

/// A schema: a table, or the path of a file that holds one.
fn schema(table: &mut Table<'_>, key: &'static str) -> Option<Schema> {
    let value = table.get(key)?;
    let (source, name) = (table.source, format!("{}.{key}", table.name));
    let at = value.span().start;
    match value.get_ref() {
        DeValue::Table(_) => {
            let json = match json(value) {
                Ok(json) => json,
                Err((at, (message, hint))) => {
                    source.say(at, format!("{name}: {message}"), hint);
                    return None;
                }
            };
            let mistakes = Schema::mistakes(&json);
            for mistake in &mistakes {
                let at = locate(value, &mistake.pointer);
                source.say(at, format!("{name}: {}", mistake.placed()), mistake.hint.as_str());
            }
            if mistakes.is_empty() { Schema::new(json).ok() } else { None }
        }
        DeValue::String(_) => {
            let made = path(value.get_ref()).and_then(|written| {
                let real = paths::file_inside(source.root, source.folder, &written)?;
                Ok((written, real))
            });
            match made {
                Ok((written, real)) => schema_file(&source, at, &name, &written, &real),
                Err((message, hint)) => {
                    source.say(at, format!("{name}: {message}"), hint);
                    None
                }
            }
        }
        other => {
            let message = format!("{name}: is {}, not a schema", kind(other));
            source.say(at, message, "write a table, or the path of a .json file");
            None
        }
    }
}

fn schema_file(source: &Source<'_>, at: usize, name: &str, written: &Path, real: &Path) -> Option<Schema> {
    let shown = written.display();
    let bytes = match paths::read(real) {
        Ok(bytes) => bytes,
        Err(error) => {
            source.say(at, format!("{name}: {shown} cannot be read: {error}"), "check the file");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let file = source.shown.parent().unwrap_or(Path::new("")).join(written);
    let note = |offset: usize, message: String, hint: String| {
        source.log.note(source.number, at, Diagnostic::at(&file, &text, offset, message, Some(hint)));
    };
    let value: Json = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(error) => {
            let start =
                text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
            let message = error.to_string();
            let message = message.rsplit_once(" at line").map_or(message.as_str(), |(message, _)| message);
            let offset = start + error.column().saturating_sub(1);
            note(offset, format!("is no JSON: {message}"), format!("it is the schema {name}"));
            return None;
        }
    };
    let mistakes = Schema::mistakes(&value);
    for mistake in &mistakes {
        let hint = format!("{}; it is the schema {name}", mistake.hint);
        note(json_place::locate(&text, &mistake.pointer), mistake.placed(), hint);
    }
    if mistakes.is_empty() { Schema::new(value).ok() } else { None }
}
