//! Calls that a file asks for, in the same words as a manifest.
//!
//! JSON lines: an object on each line, `{"tool": "word-count", "input": {"text": "…"}}` or
//! `{"command": ["make", "-C", "sub"], "stdin": "…"}`. TOML: the same keys in `[[calls]]`. Beside these there may be a
//! `label`, and `timeout`, `idle`, `kill_grace`, `after_exit`, `drain`, `overflow`, `limits`, `policy`, `env`, `retry` and
//! `workdir` as in a manifest. Paths are relative to the file.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};
use tool_engine::{Limits, Policy, ResourceLimits, Retry, Target};

use super::{
    diagnostic::{Diagnostic, ManifestError},
    files::{document, text_of},
    json_place,
    json_unambiguous::unambiguous,
    paths,
    reader::{Complaint, Item, Log, Source, Table, Value, json, kind, string, words},
    settings::Settings,
    tool::command_words,
};

/// A call as it is written. What it does not say is empty.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WrittenCall {
    /// The line where it begins, from 1 on.
    pub line: usize,
    /// What to call it before people.
    pub label: Option<String>,
    /// A tool, or a command.
    pub target: Target,
    /// The tool's input.
    pub input: Json,
    /// What the command reads.
    pub stdin: Option<String>,
    /// How long it may take and how much it may say.
    pub limits: Limits,
    /// How much it may use.
    pub resources: ResourceLimits,
    /// What it may touch.
    pub policy: Policy,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Whether it is tried again.
    pub retry: Retry,
    /// The folder it runs in.
    pub workdir: Option<PathBuf>,
}

impl WrittenCall {
    /// The largest file that is read, in bytes.
    pub const LARGEST: u64 = 256 << 20;

    /// The calls that a file asks for: TOML if its name ends so, JSON lines otherwise. Blocks.
    ///
    /// # Errors
    /// [`ManifestError`] with everything that is wrong with them. There is at least one call otherwise.
    pub fn load(path: impl AsRef<Path>) -> Result<Vec<Self>, ManifestError> {
        let path = path.as_ref();
        let fail = |diagnostic| ManifestError::new(vec![diagnostic]);
        let bytes = paths::read(path, Self::LARGEST).map_err(|error| {
            let hint = Some("name a file with calls in it, or - for standard input".into());
            fail(Diagnostic::of_file(path, format!("cannot be read: {error}"), hint))
        })?;
        let text = text_of(path, &bytes).map_err(fail)?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        if path.extension().is_some_and(|ending| ending == "toml") {
            Self::parse(text, path, folder, toml_calls)
        } else {
            Self::json_lines(text, path, folder)
        }
    }

    /// The calls that a text of JSON lines asks for. `shown` is what the text is called in messages, and its paths are
    /// relative to `folder`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn json_lines(
        text: &str,
        shown: impl AsRef<Path>,
        folder: impl AsRef<Path>,
    ) -> Result<Vec<Self>, ManifestError> {
        Self::parse(text, shown.as_ref(), folder.as_ref(), json_calls)
    }

    fn parse(
        text: &str,
        shown: &Path,
        folder: &Path,
        read: impl FnOnce(Source<'_>) -> Vec<Self>,
    ) -> Result<Vec<Self>, ManifestError> {
        let log = Log::default();
        let calls = read(Source { log: &log, number: 0, shown, text, folder, root: folder });
        let mut diagnostics = log.into_diagnostics(shown);
        if diagnostics.is_empty() && calls.is_empty() {
            let hint = Some(
                r#"write one, such as {"tool": "NAME", "input": {…}} or {"command": ["PROGRAM"]}"#.into(),
            );
            diagnostics.push(Diagnostic::of_file(shown, "there is no call in it", hint));
        }
        if diagnostics.is_empty() { Ok(calls) } else { Err(ManifestError::new(diagnostics)) }
    }
}

fn toml_calls(source: Source<'_>) -> Vec<WrittenCall> {
    let Some(document) = document(&source, source.text) else { return Vec::new() };
    let mut table = Table::new(source, "", 0, document.get_ref());
    let mut calls = Vec::new();
    let (mut line, mut counted) = (1, 0);
    match table.get("calls").map(|value| (value.span().start, value.get_ref())) {
        None => {}
        Some((_, DeValue::Array(items))) => {
            for item in items.iter() {
                let at = item.span().start;
                let DeValue::Table(fields) = item.get_ref() else {
                    source.say(
                        at,
                        format!("calls: there is {}, not a table", kind(item.get_ref())),
                        "write [[calls]]",
                    );
                    continue;
                };
                let mut fields = Table::new(source, "calls", at, fields);
                let input = input(&mut fields);
                // They come in their order, however many there are.
                line += source.text.get(counted..at).unwrap_or_default().matches('\n').count();
                counted = at;
                calls.extend(read(fields, line, input));
            }
        }
        Some((at, other)) => {
            source.say(at, format!("calls: is {}, not a list", kind(other)), "write [[calls]]")
        }
    }
    table.finish();
    calls
}

/// The input, as JSON has it.
fn input(table: &mut Table<'_>) -> Option<Json> {
    let value = table.get("input")?;
    let input = json(value);
    input.map_err(|(at, (message, hint))| table.source.say(at, format!("calls.input: {message}"), hint)).ok()
}

fn json_calls(source: Source<'_>) -> Vec<WrittenCall> {
    let mut calls = Vec::new();
    let mut begin = 0;
    for (index, line) in source.text.split_inclusive('\n').enumerate() {
        let at = begin;
        begin += line.len();
        // Some editors begin a file with a mark that says that it is UTF-8.
        let text = if index == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let at = at + (line.len() - text.len());
        if text.trim().is_empty() {
            continue;
        }
        let mut value: Json = match unambiguous(text) {
            Ok(value) => value,
            Err(error) => {
                let message = error.to_string();
                let message = message.rsplit_once(" at line").map_or(&*message, |(message, _)| message);
                // Of a line that ends too early the place would be in the next one.
                let place = error.column().saturating_sub(1).min(text.trim_end().len());
                match error.is_data() {
                    true => source.say(at + place, message, "leave one of them out"),
                    false => source.say(
                        at + place,
                        format!("is no JSON: {message}"),
                        "write one call a line, as a JSON object",
                    ),
                }
                continue;
            }
        };
        let Some(fields) = value.as_object_mut() else {
            source.say(at, "is no JSON object", r#"write {"tool": "NAME", "input": {…}}, all in one line"#);
            continue;
        };
        // Whose null and whose size no TOML has to carry.
        let has_input = fields.contains_key("input");
        let input = fields.get_mut("input").map(Json::take);
        let places = Places { source, line: text, at };
        let mut table = places.table(&value, text.len() - text.trim_start().len(), "");
        if has_input {
            table.insert(Spanned::new(at..at, "input".into()), Spanned::new(at..at, DeValue::Boolean(true)));
        }
        let mut table = Table::new(source, "", at, &table);
        table.get("input");
        calls.extend(read(table, index + 1, input));
    }
    calls
}

/// A line of JSON, whose values are read as those of TOML, each with its place.
struct Places<'a> {
    source: Source<'a>,
    line: &'a str,
    at: usize,
}

impl<'a> Places<'a> {
    fn span(&self, at: usize) -> Range<usize> {
        self.at + at..self.at + at
    }

    /// The object that begins `at` this place in the line.
    fn table(&self, object: &Json, at: usize, name: &str) -> DeTable<'a> {
        let mut table = DeTable::new();
        let fields = object.as_object().into_iter().flatten();
        // No name is there twice, so they come in one order.
        for ((key, value), (_, at)) in fields.zip(json_place::below(self.line, at)) {
            let below = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            if below != "input"
                && let Some(value) = self.value(value, at, &below)
            {
                table.insert(Spanned::new(value.span(), key.clone().into()), value);
            }
        }
        table
    }

    fn value(&self, value: &Json, at: usize, name: &str) -> Option<Value<'a>> {
        let place = self.span(at);
        let value = match value {
            Json::Null => {
                self.source.say(place.start, format!("{name}: is null"), "leave it out");
                return None;
            }
            Json::Bool(value) => DeValue::Boolean(*value),
            Json::String(text) => DeValue::String(text.clone().into()),
            Json::Number(number) => {
                // As it is written: TOML writes numbers in the same way.
                let text = self.line.get(at..).unwrap_or_default();
                let end = text.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
                match DeValue::parse(&text[..end.unwrap_or(text.len())]) {
                    Ok(value) => value.into_inner(),
                    Err(_) => {
                        self.source.say(
                            place.start,
                            format!("{number} cannot be read"),
                            "write a plain number",
                        );
                        return None;
                    }
                }
            }
            Json::Array(items) => {
                let mut array = DeArray::new();
                for (index, (item, (_, at))) in items.iter().zip(json_place::below(self.line, at)).enumerate()
                {
                    if let Some(item) = self.value(item, at, &format!("{name}.{index}")) {
                        array.push(item);
                    }
                }
                DeValue::Array(array)
            }
            object @ Json::Object(_) => DeValue::Table(self.table(object, at, name)),
        };
        Some(Spanned::new(place, value))
    }
}

/// A call. Of one that has mistakes, what comes back is of no use; they have been noted.
fn read(mut table: Table<'_>, line: usize, input: Option<Json>) -> Option<WrittenCall> {
    let (source, at) = (table.source, table.at);
    let label = table.read("label", words).map(|item| item.value);
    let tool = table.read("tool", words);
    let command = table.strings("command");
    let stdin = table.read("stdin", text);
    let settings = Settings::of_a_call(&mut table);
    settings.check(&source);
    let (has_tool, has_command, has_input) = (table.has("tool"), table.has("command"), table.has("input"));
    table.finish();
    match (has_tool, has_command) {
        (true, true) => source.say(at, "a call has both tool and command", "leave one of them out"),
        (false, false) => source.say(
            at,
            "a call has neither tool nor command",
            "add tool = \"NAME\" or command = [\"PROGRAM\", \"ARGUMENT\"], as TOML or as JSON",
        ),
        _ => {}
    }
    if let (true, Some(Item { at, .. })) = (has_tool, &stdin) {
        source.say(*at, "stdin: a tool gets its input as JSON", "put the data into its input");
    }
    if has_command && has_input {
        source.say(at, "input: a command has none", "hand it over as arguments, or as stdin");
    }
    let target = match (tool, command) {
        (Some(tool), _) => Target::Tool(tool.value),
        (None, command) => {
            let words = command_words(&source, "call", &command?);
            Target::Command(words.into_iter().map(Into::into).collect())
        }
    };
    Some(WrittenCall {
        line,
        label,
        target,
        input: input.unwrap_or_default(),
        stdin: stdin.map(|item| item.value),
        limits: settings.limits_of_a_call(),
        resources: settings.resources(),
        policy: settings.policy_of_a_call(),
        retry: settings.retries(),
        workdir: settings.workdir(),
        env: settings.env.into_iter().map(|(name, item)| (name, item.value)).collect(),
    })
}

/// Any text, also one with NUL in it.
fn text(value: &DeValue<'_>) -> Result<String, Complaint> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        other => string(other),
    }
}
