//! Masking of everything that is told of a call: streams, messages, values, errors, command lines.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, LazyLock},
};

use serde_json::{Map, Number, Value};

use crate::{
    error::{ErrorKind, ToolError},
    events::{LogMessage, Progress},
    masker::{MASK, StreamMasker, masked},
    masks::Masks,
    secrets::{Secret, sorted},
};

/// Above this many bytes of secrets, only their most common forms are looked for.
const ALL_FORMS: usize = 64 << 10;

/// What stands where a text for people was cut.
const CUT: char = '…';

/// Masks the secrets of a call; does nothing, and costs nothing, when there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masking(Option<Arc<Known>>);

/// What the secrets of a call are known by.
struct Known {
    /// Made when they are first asked for, which is off the runtime's own threads: for long secrets it takes its time.
    masks: LazyLock<Arc<Masks>, Box<dyn FnOnce() -> Arc<Masks> + Send>>,
    /// Those that are numbers: a number that is parsed and written again may look otherwise.
    numbers: Vec<f64>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Known {
    fn shows(&self, number: &Number) -> bool {
        self.masks.occur_in(number.to_string().as_bytes())
            || number.as_f64().is_some_and(|number| self.numbers.iter().any(|known| same(number, *known)))
    }
}

/// Whether these are the same number, but for the last digits of its binary form, in which parsers differ.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() <= other.abs() * 2.0 * f64::EPSILON
}

impl Masking {
    /// Of those that can be masked: the others are refused when the call is started.
    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let secrets: Vec<Secret> = sorted(secrets).0.into_iter().cloned().collect();
        if secrets.is_empty() {
            return Self::default();
        }
        let numbers = secrets.iter().filter_map(Secret::number).collect();
        let make = move || Arc::new(Masks::new(&patterns(secrets.iter()).collect()));
        Self(Some(Arc::new(Known { masks: LazyLock::new(Box::new(make)), numbers })))
    }

    /// These, with those of a plan, ready to be used.
    pub(crate) fn with(self, own: &[Secret], plan: &[Secret]) -> Self {
        let all = if plan.is_empty() { self } else { Self::of(plan.iter().chain(own)) };
        if let Some(known) = &all.0 {
            LazyLock::force(&known.masks);
        }
        all
    }

    /// Masks the words of a call, `secrets` being those that are known here, without making anything that is not needed:
    /// they hardly ever show one.
    pub(crate) fn label(&self, secrets: &[Secret], label: &mut String) {
        let shows = |form: Vec<u8>| memchr::memmem::find(label.as_bytes(), &form).is_some();
        if self.0.is_some() && patterns(sorted(secrets).0.into_iter()).any(shows) {
            self.text(label);
        }
    }

    /// A masker for a stream; `None` when there is nothing to be masked.
    pub(crate) fn stream(&self) -> Option<StreamMasker> {
        self.0.as_ref().map(|known| StreamMasker::new(Arc::clone(&known.masks)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A line, masked.
    pub(crate) fn line<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.0 {
            Some(known) if known.masks.occur_in(bytes) => masked(&known.masks, bytes, false).into(),
            _ => bytes.into(),
        }
    }

    /// Masks a text.
    pub(crate) fn text(&self, text: &mut String) {
        if let Some(known) = &self.0
            && known.masks.occur_in(text.as_bytes())
        {
            *text = lossy(masked(&known.masks, text.as_bytes(), false));
        }
    }

    /// Masks a text that may quote others, and cut them: what is left of a secret before an ellipsis is masked, too, if it
    /// is so much that it tells something.
    fn quoting(&self, text: &mut String) {
        self.text(text);
        let Some(known) = self.0.as_ref().filter(|_| text.contains(CUT)) else { return };
        let pieces = text.split_inclusive(CUT).map(|piece| match piece.strip_suffix(CUT) {
            Some(before) => {
                let mut masker = StreamMasker::new(Arc::clone(&known.masks));
                let mut shown = masker.push(before.to_owned().into()).to_vec();
                let tells = !masker.can_let_go();
                shown.extend_from_slice(&masker.finish(tells));
                lossy(shown) + &CUT.to_string()
            }
            None => piece.to_owned(),
        });
        *text = pieces.collect();
    }

    /// Masks a command line as it is found in a [`Residue`](tool_sandbox::Residue), where its end may be cut off.
    pub(crate) fn command(&self, command: &mut String) {
        let Some(known) = &self.0 else { return };
        // Cut by a mark that says so, or, in brackets, by the kernel.
        let (text, end) = match command.char_indices().next_back() {
            Some((cut, last @ (CUT | ']'))) => (&command[..cut], last.to_string()),
            _ => (&command[..], String::new()),
        };
        let mut shown = lossy(masked(&known.masks, text.as_bytes(), !end.is_empty()));
        shown.push_str(&end);
        *command = shown;
    }

    /// Masks every text in a value, every name of a field, and every number that shows a secret. A name that is the same
    /// as another one then gets another `*`.
    pub(crate) fn value(&self, value: &mut Value) {
        let Some(known) = &self.0 else { return };
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                if fields.keys().any(|name| known.masks.occur_in(name.as_bytes())) {
                    *fields = self.names(std::mem::take(fields));
                }
                fields.values_mut().for_each(|item| self.value(item));
            }
            Value::Number(number) => {
                if known.shows(number) {
                    *value = MASK.into();
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn names(&self, fields: Map<String, Value>) -> Map<String, Value> {
        let mut renamed = Map::with_capacity(fields.len());
        for (mut name, value) in fields {
            self.text(&mut name);
            while renamed.contains_key(&name) {
                name.push('*');
            }
            renamed.insert(name, value);
        }
        renamed
    }

    pub(crate) fn progress(&self, progress: &mut Progress) {
        let Some(known) = &self.0 else { return };
        let Progress { fraction, message, data } = progress;
        if fraction.and_then(Number::from_f64).is_some_and(|number| known.shows(&number)) {
            *fraction = None;
        }
        self.optional(message);
        self.optional_value(data);
    }

    pub(crate) fn log(&self, log: &mut LogMessage) {
        let LogMessage { level, message, data } = log;
        self.text(level);
        self.text(message);
        self.optional_value(data);
    }

    pub(crate) fn tool_error(&self, error: &mut ToolError) {
        let ToolError { phase: _, name, message, stack, data } = error;
        self.text(name);
        self.text(message);
        self.optional(stack);
        self.optional_value(data);
    }

    fn optional(&self, text: &mut Option<String>) {
        text.iter_mut().for_each(|text| self.text(text));
    }

    fn optional_value(&self, value: &mut Option<Value>) {
        value.iter_mut().for_each(|value| self.value(value));
    }

    /// An error, masked. What has been masked already stays as it is.
    pub(crate) fn error(&self, mut error: ErrorKind) -> ErrorKind {
        if self.0.is_none() {
            return error;
        }
        match &mut error {
            ErrorKind::Tool(error) => {
                self.tool_error(error);
                self.quoting(&mut error.message);
            }
            ErrorKind::Invalid { subject, message, hint } => {
                [subject, message, hint].into_iter().for_each(|text| self.quoting(text));
            }
            ErrorKind::Protocol { fault: _, excerpt } => self.text(excerpt),
            ErrorKind::Lost { reason } | ErrorKind::Busy { reason } => self.text(reason),
            ErrorKind::Sandbox { missing, hint } => {
                [missing, hint].into_iter().for_each(|text| self.text(text));
            }
            ErrorKind::Spawn { step: _, subject, errno: _, hint } => {
                [subject, hint].into_iter().for_each(|text| self.text(text));
            }
            ErrorKind::Canceled { by: _, reason } => self.optional(reason),
            ErrorKind::Process { status: _ }
            | ErrorKind::Limit { limit: _ }
            | ErrorKind::Timeout { clock: _, after: _ } => {}
        }
        error
    }
}

fn patterns<'a>(secrets: impl Iterator<Item = &'a Secret> + Clone) -> impl Iterator<Item = Vec<u8>> {
    let all = secrets.clone().map(Secret::len).sum::<usize>() <= ALL_FORMS;
    secrets.flat_map(move |secret| secret.forms(all))
}

/// Patterns are texts, so what is left between them is text.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
