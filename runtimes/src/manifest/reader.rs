//! Reads values out of a file that remembers where each of them stands. Every mistake is noted, and reading goes on.

use std::{
    cell::RefCell,
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::diagnostic::Diagnostic;

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// All mistakes so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    noted: RefCell<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    mistakes: Vec<(usize, usize, Diagnostic)>,
    /// What each of them says, and where.
    known: HashSet<(PathBuf, usize, usize, String)>,
    more: usize,
}

impl Log {
    /// More than that nobody reads.
    const MOST: usize = 200;

    /// Notes a mistake; the number of the file and the place in it say where it is told.
    pub(super) fn note(&self, file: usize, offset: usize, diagnostic: Diagnostic) {
        let mut noted = self.noted.borrow_mut();
        if noted.mistakes.len() == Self::MOST {
            noted.more += 1;
            return;
        }
        // What several tools take over from the defaults is said once.
        let Diagnostic { file: path, line, column, message, .. } = &diagnostic;
        if noted.known.insert((path.clone(), *line, *column, message.clone())) {
            noted.mistakes.push((file, offset, diagnostic));
        }
    }

    fn is_full(&self) -> bool {
        self.noted.borrow().mistakes.len() == Self::MOST
    }

    /// All of them in the order of the files and their lines.
    pub(super) fn into_diagnostics(self, shown: &Path) -> Vec<Diagnostic> {
        let Noted { mut mistakes, more, .. } = self.noted.into_inner();
        mistakes.sort_by_key(|(file, offset, _)| (*file, *offset));
        let mut diagnostics: Vec<_> = mistakes.into_iter().map(|(_, _, diagnostic)| diagnostic).collect();
        if more > 0 {
            let hint = Some("mend the others first".into());
            diagnostics.push(Diagnostic::of_file(shown, format!("and {more} more mistakes"), hint));
        }
        diagnostics
    }
}

/// The file that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) log: &'a Log,
    /// Which of the files.
    pub(super) number: usize,
    /// Its name as it was given.
    pub(super) shown: &'a Path,
    /// Its text.
    pub(super) text: &'a str,
    /// The folder that its paths are relative to.
    pub(super) folder: &'a Path,
    /// The folder that entries, schemas and included files must lie in.
    pub(super) root: &'a Path,
}

/// What is wrong with a value, and what to do about it.
pub(super) type Complaint = (String, String);

/// A value, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

impl Source<'_> {
    /// Notes a mistake. What to do about it may be empty.
    pub(super) fn say(&self, at: usize, message: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        if self.log.is_full() {
            // To look for its place would be in vain.
            return self.log.note(self.number, at, Diagnostic::of_file(self.shown, message, hint));
        }
        self.log.note(self.number, at, Diagnostic::at(self.shown, self.text, at, message, hint));
    }

    /// The number of a line of this file, for mistakes that have two places.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text[..at.min(self.text.len())].matches('\n').count() + 1
    }
}

/// A table that is being read. Which keys it knows is noted as they are asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) source: Source<'a>,
    /// What it is called in messages; empty for the file itself.
    pub(super) name: String,
    pub(super) at: usize,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        source: Source<'a>,
        name: impl Into<String>,
        at: usize,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self { source, name: name.into(), at, table, known: Vec::new() }
    }

    /// The name of a key in messages.
    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of a key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value<'a>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Whether there is such a key, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of a key, made of it by `read`.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Item<T>> {
        let value = self.get(key)?;
        let at = value.span().start;
        match read(value.get_ref()) {
            Ok(value) => Some(Item { value, at }),
            Err((message, hint)) => {
                self.source.say(at, format!("{}: {message}", self.key(key)), hint);
                None
            }
        }
    }

    /// The table below a key.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        let value = self.get(key)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::Table(table) => Some(Table::new(self.source, self.key(key), at, table)),
            other => {
                let hint = format!("write it as {key} = {{ … }} or [{}]", self.key(key));
                self.source.say(at, format!("{}: is {}, not a table", self.key(key), kind(other)), hint);
                None
            }
        }
    }

    /// The strings in the list below a key.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<Item<Vec<Item<String>>>> {
        let value = self.get(key)?;
        let at = value.span().start;
        let DeValue::Array(array) = value.get_ref() else {
            let hint = format!("write it as {key} = [\"…\"]");
            self.source.say(at, format!("{}: is {}, not a list", self.key(key), kind(value.get_ref())), hint);
            return None;
        };
        let mut items = Vec::new();
        for item in array.iter() {
            let at = item.span().start;
            match string(item.get_ref()) {
                Ok(value) => items.push(Item { value, at }),
                Err((message, hint)) => {
                    self.source.say(at, format!("{}: {message}", self.key(key)), hint);
                }
            }
        }
        Some(Item { value: items, at })
    }

    /// All keys and values, for a table whose keys are free.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, usize, &'a Value<'a>)> + use<'a> {
        self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span().start, value))
    }

    /// Notes the keys that were not asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let of = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
                let at = key.span().start.min(value.span().start);
                let tool = self.name.strip_prefix("tools.").filter(|tool| !tool.contains('.'));
                let hint = match (tool, value.get_ref()) {
                    // Somebody meant a name with a dot in it.
                    (Some(tool), DeValue::Table(below))
                        if below.contains_key("entry") || below.contains_key("command") =>
                    {
                        format!("put a tool's name with a dot in quotes: [tools.\"{tool}.{name}\"]")
                    }
                    _ => suggestion(name, &self.known),
                };
                self.source.say(at, format!("{name:?} is an unknown key{of}"), hint);
            }
        }
    }
}

/// The known word that may have been meant, or all of them.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    let plain = word.to_ascii_lowercase().replace('-', "_");
    let nearest = known.iter().map(|known| (strsim::osa_distance(&plain, known), *known)).min();
    match nearest {
        Some((distance, known)) if distance <= (known.len() / 3).max(1) => format!("did you mean {known:?}?"),
        _ => format!("known are: {}", known.join(", ")),
    }
}

/// What kind of a value it is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A text, without NUL: no path, argument or variable can carry one.
pub(super) fn string(value: &DeValue<'_>) -> Result<String, Complaint> {
    match value {
        DeValue::String(text) if text.contains('\0') => {
            Err(("contains a NUL character".into(), "leave it out".into()))
        }
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        DeValue::Array(_) | DeValue::Table(_) => {
            Err((format!("is {}, not a text", kind(value)), "write it as \"…\"".into()))
        }
        other => Err((format!("is {}, not a text", kind(other)), "put it in quotes".into())),
    }
}

/// A text that says something.
pub(super) fn words(value: &DeValue<'_>) -> Result<String, Complaint> {
    match string(value)? {
        text if text.trim().is_empty() => Err(("is empty".into(), "say something, or leave it out".into())),
        text => Ok(text),
    }
}

/// A path as it is written.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Complaint> {
    words(value).map(PathBuf::from)
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Complaint> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err((format!("is {}, not true or false", kind(other)), "write it without quotes".into())),
    }
}

pub(super) fn integer(value: &DeValue<'_>) -> Result<i64, Complaint> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| (format!("{number} is too large a number"), "write a smaller one".into())),
        DeValue::String(_) => Err(("is a text, not a whole number".into(), "write it without quotes".into())),
        other => Err((format!("is {}, not a whole number", kind(other)), "write a number such as 1".into())),
    }
}

/// A value as JSON has it; with what cannot be and where it stands otherwise.
pub(super) fn json(value: &Value<'_>) -> Result<Json, (usize, Complaint)> {
    let at = value.span().start;
    Ok(match value.get_ref() {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Integer(_) => Json::from(integer(value.get_ref()).map_err(|complaint| (at, complaint))?),
        DeValue::Float(number) => {
            number.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Json::Number).ok_or_else(
                || (at, (format!("JSON cannot carry {number}"), "write a finite number, or a text".into())),
            )?
        }
        DeValue::Boolean(value) => Json::from(*value),
        DeValue::Datetime(_) => {
            return Err((at, ("JSON cannot carry a date".into(), "put it in quotes".into())));
        }
        DeValue::Array(items) => items.iter().map(json).collect::<Result<_, _>>()?,
        DeValue::Table(fields) => {
            let mut map = Map::new();
            for (key, value) in fields.iter() {
                map.insert(key.get_ref().as_ref().to_owned(), json(value)?);
            }
            Json::Object(map)
        }
    })
}

/// Where what a JSON Pointer leads to stands.
pub(super) fn locate(value: &Value<'_>, pointer: &str) -> usize {
    let mut value = value;
    let mut at = value.span().start;
    for part in pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        let below = match value.get_ref() {
            DeValue::Table(table) => table.get(name.as_str()),
            DeValue::Array(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        let Some(below) = below else { break };
        (value, at) = (below, below.span().start);
    }
    at
}
