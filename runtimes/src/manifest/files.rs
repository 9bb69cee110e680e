//! The file itself, and those that it includes.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Manifest,
    diagnostic::{Diagnostic, ManifestError},
    paths,
    reader::{Item, Log, Source, Table, integer, kind, path, suggestion},
    settings::Settings,
    tool,
};
use crate::{runtime::Runtime, tool::Tool};

pub(super) fn load(path: &Path) -> Result<Manifest, ManifestError> {
    let fail = |diagnostic| ManifestError::new(vec![diagnostic]);
    let bytes = paths::read(path, paths::LARGEST).map_err(|error| {
        let hint = Some("name a file that declares tools, such as tools.toml".into());
        fail(Diagnostic::of_file(path, format!("cannot be read: {error}"), hint))
    })?;
    parse(text_of(path, &bytes).map_err(fail)?, path)
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let root = folder.canonicalize().unwrap_or_else(|_| folder.into());
    // A symbolic link to a manifest stands for a file beside it.
    let real = root.join(absolute.file_name().unwrap_or_default());
    let log = Log::default();
    let mut files = Files {
        log: &log,
        root: &root,
        open: Vec::new(),
        known: Vec::new(),
        tools: Vec::new(),
        runtimes: Vec::new(),
        places: HashMap::new(),
    };
    files.file(path, real, text);
    let Files { mut tools, runtimes, known, .. } = files;
    let diagnostics = log.into_diagnostics(path);
    if !diagnostics.is_empty() {
        return Err(ManifestError::new(diagnostics));
    }
    // What a tool writes there would be declared as a tool the next time.
    for tool in &mut tools {
        tool.policy.protect.clone_from(&known);
    }
    let named = |known: Known<PathBuf>| Some((Runtime::from_name(&known.name)?, known.what));
    let runtimes: BTreeMap<_, _> = runtimes.into_iter().filter_map(named).collect();
    Ok(Manifest { path: path.into(), tools, runtimes })
}

pub(super) fn text_of<'b>(shown: &Path, bytes: &'b [u8]) -> Result<&'b str, Diagnostic> {
    std::str::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(bytes);
        let hint = Some("save it as UTF-8".into());
        Diagnostic::at(shown, &text, error.valid_up_to(), "is not UTF-8 here", hint)
    })
}

/// What to do about a text that is no TOML.
fn what_to_do(message: &str) -> &'static str {
    match message {
        "duplicate key" => "leave out or rename one of them",
        _ if message.starts_with("string values must be quoted") => "put it in quotes",
        _ if message.contains("recurs") => "nest it less deep",
        _ => "see https://toml.io",
    }
}

/// The text as a table, if it is TOML.
pub(super) fn document<'t>(source: &Source<'_>, text: &'t str) -> Option<Spanned<DeTable<'t>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_whole = errors.is_empty();
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        source.say(at, message.clone(), what_to_do(&message));
    }
    // What is left of a text that is no TOML would be misread.
    is_whole.then_some(document)
}

/// What has been read so far.
#[derive(Debug)]
struct Files<'l> {
    log: &'l Log,
    root: &'l Path,
    /// The files that are being read, each included by the one before it.
    open: Vec<PathBuf>,
    /// All files that were read.
    known: Vec<PathBuf>,
    tools: Vec<Tool>,
    /// Where each tool stands, by the name under which it may be shown.
    places: HashMap<String, Place>,
    runtimes: Vec<Known<PathBuf>>,
}

/// Where a tool is declared.
#[derive(Debug)]
struct Place {
    name: String,
    file: PathBuf,
    line: usize,
}

/// Something with a name, and where it stands, for people.
#[derive(Debug)]
struct Known<T> {
    name: String,
    place: String,
    what: T,
}

impl Files<'_> {
    fn file(&mut self, shown: &Path, real: PathBuf, text: &str) {
        let number = self.known.len();
        self.known.push(real.clone());
        let folder = real.parent().unwrap_or(Path::new("/")).to_owned();
        let source = Source { log: self.log, number, shown, text, folder: &folder, root: self.root };
        let Some(document) = document(&source, text) else { return };
        self.open.push(real);
        self.document(Table::new(source, "", 0, document.get_ref()));
        self.open.pop();
    }

    fn document(&mut self, mut table: Table<'_>) {
        let source = table.source;
        match table.read("version", integer) {
            Some(Item { value: 1, .. }) => {}
            Some(Item { value, at }) => {
                source.say(at, format!("version {value} is not supported"), "write version = 1");
            }
            None if table.has("version") => {}
            None => source.say(0, "version is missing", "write version = 1 at the top"),
        }
        let includes = table.strings("include");
        let mut defaults = Settings::default();
        if let Some(mut table) = table.table("defaults") {
            defaults = Settings::read(&mut table);
            defaults.check(&source);
            table.finish();
        }
        if let Some(runtimes) = table.table("runtimes") {
            self.runtimes(&runtimes);
        }
        if let Some(tools) = table.table("tools") {
            self.tools(&tools, &defaults);
        }
        table.finish();
        for include in includes.into_iter().flat_map(|list| list.value) {
            self.include(&source, &include);
        }
    }

    fn include(&mut self, source: &Source<'_>, include: &Item<String>) {
        /// How many files may include each other in a row.
        const DEEPEST: usize = 16;
        let path = Path::new(&include.value);
        let say = |message: String, hint: &str| source.say(include.at, format!("include: {message}"), hint);
        let real = match paths::file_inside(self.root, source.folder, path) {
            Ok(real) => real,
            Err((message, hint)) => return say(message, &hint),
        };
        if self.open.contains(&real) {
            let hint = "leave it out: a file cannot include itself, nor what includes it";
            return say(format!("{} goes round in a circle", path.display()), hint);
        }
        if self.known.contains(&real) {
            return say(format!("{} is included twice", path.display()), "include it once");
        }
        if self.open.len() == DEEPEST {
            let message = format!("{} is the last of more than {DEEPEST} files in a row", path.display());
            return say(message, "include it in one of the first");
        }
        let bytes = match paths::read(&real, paths::LARGEST) {
            Ok(bytes) => bytes,
            Err(error) => {
                return say(format!("{} cannot be read: {error}", path.display()), "check the file");
            }
        };
        let shown = source.shown.parent().unwrap_or(Path::new("")).join(path);
        match text_of(&shown, &bytes) {
            Ok(text) => self.file(&shown, real, text),
            Err(diagnostic) => self.log.note(source.number, include.at, diagnostic),
        }
    }

    fn runtimes(&mut self, table: &Table<'_>) {
        let source = table.source;
        let can: Vec<_> =
            Runtime::ALL.map(Runtime::name).into_iter().filter(|name| *name != "command").collect();
        for (name, at, value) in table.entries() {
            if !can.contains(&name) {
                let hint = suggestion(name, &can);
                source.say(at, format!("runtimes.{name}: there is no such runtime"), hint);
                continue;
            }
            let DeValue::Table(fields) = value.get_ref() else {
                let message = format!("runtimes.{name}: is {}, not a table", kind(value.get_ref()));
                let hint = format!("write [runtimes.{name}] and below it path = \"…\"");
                source.say(value.span().start, message, hint);
                continue;
            };
            let mut fields = Table::new(source, format!("runtimes.{name}"), at, fields);
            let found = fields.read("path", path);
            if found.is_none() && !fields.has("path") {
                source.say(at, format!("runtimes.{name}: path is missing"), "add path = \"…\"");
            }
            fields.finish();
            let Some(found) = found else { continue };
            let what = paths::absolute(source.folder, &found.value);
            match self.runtimes.iter().find(|known| known.name == name) {
                Some(known) if known.what != what => source.say(
                    at,
                    format!("runtimes.{name} is another one in {}", known.place),
                    "name it once",
                ),
                Some(_) => {}
                None => self.runtimes.push(Known { name: name.into(), place: place(&source, at), what }),
            }
        }
    }

    fn tools(&mut self, table: &Table<'_>, defaults: &Settings) {
        let source = table.source;
        // Lines are counted on from tool to tool; in a file with dotted keys one may come before another.
        let mut entries: Vec<_> = table.entries().collect();
        entries.sort_by_key(|(_, at, _)| *at);
        let (mut lines, mut passed) = (1, 0);
        for (name, at, value) in entries {
            if !crate::tool::is_name(name) {
                let hint = "begin with a letter or digit, then at most 63 letters, digits, `_`, `.` or `-`";
                source.say(at, format!("{name:?} cannot be a tool's name"), hint);
            }
            let DeValue::Table(fields) = value.get_ref() else {
                let message = format!("tools.{name}: is {}, not a table", kind(value.get_ref()));
                source.say(value.span().start, message, format!("write [tools.{name}]"));
                continue;
            };
            let declared =
                tool::read(name, Table::new(source, format!("tools.{name}"), at, fields), defaults);
            lines += source.text.get(passed..at).unwrap_or_default().matches('\n').count();
            passed = at;
            match self.places.entry(name.replace('.', "_")) {
                Entry::Occupied(known) => {
                    let Place { name: other, file, line } = known.get();
                    let place = format!("{}:{line}", file.display());
                    let message = if other == name {
                        format!("the tool {name:?} is also declared in {place}")
                    } else {
                        format!(
                            "the tools {name:?} and {other:?} (in {place}) have the same name where `.` is shown as `_`"
                        )
                    };
                    source.say(at, message, "rename one of them");
                }
                Entry::Vacant(free) => {
                    free.insert(Place { name: name.into(), file: source.shown.into(), line: lines });
                    self.tools.push(declared);
                }
            }
        }
    }
}

fn place(source: &Source<'_>, at: usize) -> String {
    format!("{}:{}", source.shown.display(), source.line(at))
}
