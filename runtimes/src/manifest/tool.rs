//! One `[tools.NAME]`.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::de::DeValue;

use super::{
    diagnostic::Diagnostic,
    hints::Annotations,
    json_place, paths,
    reader::{Item, Source, Table, boolean, json, kind, locate, path, string, suggestion, words},
    settings::{Settings, names},
};
use crate::{
    runtime::Runtime,
    schema::Schema,
    tool::{Source as Made, Tool},
};

/// What is written after the name, apart from the settings.
struct Parts {
    runtime: Option<Item<Runtime>>,
    entry: Option<Item<PathBuf>>,
    export: Option<Item<String>>,
    command: Option<Item<Vec<Item<String>>>>,
}

/// Reads a tool. Of one that has mistakes, what comes back is of no use; they have been noted.
pub(super) fn read(name: &str, mut table: Table<'_>, defaults: &Settings) -> Tool {
    let source = table.source;
    let description = table.read("description", words).map(|item| item.value);
    let parts = Parts {
        runtime: table.read("runtime", runtime),
        entry: table.read("entry", path),
        export: table.read("export", words),
        command: table.strings("command"),
    };
    let mut tool = Tool::new(name, what_it_is(&table, parts));
    tool.description = description;
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

fn runtime(value: &DeValue<'_>) -> Result<Runtime, (String, String)> {
    let name = string(value)?;
    Runtime::from_name(&name).ok_or_else(|| {
        let hint = suggestion(&name, &Runtime::ALL.map(Runtime::name));
        (format!("{name:?} is an unknown runtime"), hint)
    })
}

/// Settles what the tool is made of: a file for a runtime, or a command.
fn what_it_is(table: &Table<'_>, parts: Parts) -> Made {
    let source = table.source;
    let name = &table.name;
    // What is there but was refused has been spoken of.
    let (has_entry, has_command) = (table.has("entry"), table.has("command"));
    let says_command = parts.runtime.as_ref().is_some_and(|runtime| runtime.value == Runtime::Command);
    match (has_entry, has_command) {
        (true, true) => {
            source.say(
                table.at,
                format!("{name} has both entry and command"),
                "a tool is one or the other: leave one of them out",
            );
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
    let real = parts.entry.as_ref().and_then(|entry| {
        let real = paths::file_inside(source.root, source.folder, &entry.value);
        real.map_err(|(message, hint)| source.say(entry.at, format!("{name}.entry: {message}"), hint)).ok()
    });
    let command = parts.command.as_ref().map(|command| command_words(&source, name, command));
    let runtime = match (&parts.runtime, &parts.entry) {
        (Some(runtime), entry) => {
            let at = runtime.at;
            if has_command && !has_entry && !says_command {
                let message = format!("{name}.runtime: {} runs a file, not a command", runtime.value.name());
                source.say(at, message, "write \"command\", or leave it out");
            } else if has_entry && !has_command && says_command {
                let message = format!("{name}.runtime: a command has no entry");
                source.say(at, message, "name the runtime that loads the file, or leave it out");
            } else if let Some(entry) = entry
                && real.is_some()
                && !has_command
            {
                check_extension(&source, name, runtime, entry);
            }
            Some(runtime.value)
        }
        (None, _) if has_command => Some(Runtime::Command),
        (None, Some(entry)) if !table.has("runtime") => {
            let found = Runtime::for_file(&entry.value).next();
            if found.is_none() {
                let message = format!("{name}.entry: {} does not tell its runtime", entry.value.display());
                source.say(entry.at, message, "add runtime = \"bun\", or whichever it is for");
            }
            found
        }
        (None, _) => None,
    };
    if let (Some(export), Some(Runtime::Command | Runtime::Shell)) = (&parts.export, runtime) {
        let kind = if runtime == Some(Runtime::Shell) { "shell script" } else { "command" };
        source.say(export.at, format!("{name}.export: a {kind} has no exports"), "leave it out");
    }
    match (runtime, real) {
        (Some(runtime), Some(entry)) => {
            Made::Script { runtime, entry, export: parts.export.map(|export| export.value) }
        }
        _ => Made::Command(command.into_iter().flatten().map(Into::into).collect()),
    }
}

pub(super) fn command_words(
    source: &Source<'_>,
    name: &str,
    command: &Item<Vec<Item<String>>>,
) -> Vec<String> {
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

fn check_extension(source: &Source<'_>, name: &str, runtime: &Item<Runtime>, entry: &Item<PathBuf>) {
    let known = runtime.value.extensions();
    let loads = match extension(&entry.value) {
        Some(extension) => known.contains(&extension),
        None => runtime.value == Runtime::Shell,
    };
    if !loads {
        let file = entry.value.display();
        let message = format!("{name}.runtime: {} does not load {file}", runtime.value.name());
        let hint = match Runtime::for_file(&entry.value).next() {
            Some(other) => format!("did you mean {:?}?", other.name()),
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
    let bytes = match paths::read(real, paths::LARGEST) {
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
            let (message, hint) = if text.starts_with('\u{feff}') {
                ("begins with a byte order mark".to_owned(), "save it without one; ")
            } else {
                (format!("is no JSON: {message}"), "")
            };
            note(offset, message, format!("{hint}it is the schema {name}"));
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
