//! JSON Schemas: what an input or a value has to be like, and in plain words where it is not.

mod reach;
mod steps;
mod violation;

use std::{fmt, sync::Arc};

use jsonschema::{PatternOptions, ReferencingError, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

pub(crate) use reach::count;
pub use violation::{Violation, Violations};

/// A JSON Schema, of 2020-12 where it does not say otherwise, compiled. It refers to nothing outside itself, its patterns
/// take time linear in the text, and its formats are held to.
#[derive(Clone)]
pub struct Schema {
    compiled: Arc<Compiled>,
}

struct Compiled {
    source: Value,
    validator: Validator,
    /// How many of its parts are held against one place, one inside the other, as far as its references make that many.
    reach: usize,
}

/// What is wrong with a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}; {hint}", if pointer.is_empty() { String::new() } else { format!("{pointer}: ") })]
#[non_exhaustive]
pub struct SchemaError {
    /// Where in the schema: a JSON Pointer, empty for the schema itself.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// [`SchemaError`] when it is no schema, refers to something outside or that is not there, or has a pattern that
    /// cannot be held against a text in linear time, or its references lead too far.
    pub fn new(source: Value) -> Result<Self, SchemaError> {
        let reach = reach::measure(&source)?;
        let options = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex());
        // Mistakes are looked for in the schema as it was written.
        let mut validator = options.build(&source).map_err(|error| SchemaError::of(&source, &error))?;
        if reach > 0 {
            let options = options.with_keyword(steps::KEYWORD, |_, _, _| Ok(Box::new(steps::Step)));
            validator =
                options.build(&steps::counted(&source)).map_err(|error| SchemaError::of(&source, &error))?;
        }
        Ok(Self { compiled: Arc::new(Compiled { source, validator, reach }) })
    }

    /// Everything that is wrong with a schema, as far as that can be told at once; at most 20 mistakes.
    pub fn mistakes(source: &Value) -> Vec<SchemaError> {
        const MOST: usize = 20;
        let mut rest = source.clone();
        let mut found: Vec<SchemaError> = Vec::new();
        // The first is told, mended, and so on. A mistake that is still there after the first try is taken out.
        for _ in 0..2 * MOST {
            let Err(error) = Self::new(rest.clone()) else { break };
            let again = found.iter().any(|known| known.pointer == error.pointer);
            let mended = mend(&mut rest, &error.pointer, again);
            if !again {
                found.push(error);
            }
            if !mended || found.len() == MOST {
                break;
            }
        }
        found
    }

    /// The schema as it was given.
    pub fn source(&self) -> &Value {
        &self.compiled.source
    }

    /// Holds a value against it.
    ///
    /// # Errors
    /// Where the value is not as it should be.
    pub fn check(&self, value: &Value) -> Result<(), Violations> {
        /// What fits the smallest stack that a thread may have, with much to spare.
        const FEW: usize = 256;
        /// What the deepest value takes that JSON may carry, against the deepest schema, with much to spare.
        const STACK: usize = 64 << 20;
        let compiled = &self.compiled;
        if compiled.reach == 0 {
            return compiled.check(value);
        }
        if compiled.reach * reach::depth(value) <= FEW {
            return compiled.count(value);
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("run-tool-schema".into()).stack_size(STACK);
            match thread
                .spawn_scoped(scope, || compiled.count(value))
                .map(std::thread::ScopedJoinHandle::join)
            {
                Ok(Ok(checked)) => checked,
                Ok(Err(_)) => {
                    Err(Violations::untold("cannot be held against its schema: that failed".into()))
                }
                Err(error) => Err(Violations::untold(format!(
                    "cannot be held against its schema: no thread for it: {error}"
                ))),
            }
        })
    }
}

impl Compiled {
    /// Checks it, but does not follow references without end.
    fn count(&self, value: &Value) -> Result<(), Violations> {
        /// What takes a fraction of a second, and more for large values.
        const STEPS: u64 = 500_000;
        /// To say what is wrong takes longer than to see that something is.
        const TELLING: u64 = 20_000;
        let much = 64 * reach::count(value);
        match steps::within(STEPS.saturating_add(much), || self.validator.is_valid(value)) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => {
                let reason =
                    "cannot be held against its schema, which has too many forms for one as deep as this";
                return Err(Violations::untold(reason.into()));
            }
        }
        let told = || Violations::of(&self.source, self.validator.iter_errors(value));
        let untold = || {
            Violations::untold("fits none of its forms, which are too many to say where it does not".into())
        };
        Err(steps::within(TELLING.saturating_add(much), told).unwrap_or_else(untold))
    }

    fn check(&self, value: &Value) -> Result<(), Violations> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        Err(Violations::of(&self.source, self.validator.iter_errors(value)))
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.compiled.source).finish()
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.compiled.source == other.compiled.source
    }
}

impl SchemaError {
    /// What is wrong, with the place in the schema.
    pub(crate) fn placed(&self) -> String {
        let place = if self.pointer.is_empty() { "" } else { ": " };
        format!("{}{place}{}", self.pointer, self.message)
    }

    fn of(source: &Value, error: &ValidationError<'_>) -> Self {
        let pointer = error.instance_path().as_str().to_owned();
        match error.kind() {
            ValidationErrorKind::Referencing(reason) => Self::of_reference(source, pointer, reason),
            ValidationErrorKind::Format { format } if format == "regex" => Self::of_pattern(source, pointer),
            _ if pointer.ends_with("/pattern") => Self::of_pattern(source, pointer),
            _ => {
                let violation = Violation::of(&Value::Null, error);
                Self { pointer, message: violation.message, hint: "see JSON Schema 2020-12".into() }
            }
        }
    }

    fn of_pattern(source: &Value, pointer: String) -> Self {
        let pattern = source.pointer(&pointer).map(violation::short).unwrap_or_default();
        Self {
            pointer,
            message: format!("{pattern} is no pattern that takes linear time"),
            hint: "write it without look-around and back references, and with its brackets closed".into(),
        }
    }

    fn of_reference(source: &Value, pointer: String, reason: &ReferencingError) -> Self {
        let (to, message, hint) = match reason {
            ReferencingError::Unretrievable { uri, .. } => (
                uri.trim_start_matches("json-schema:///").to_owned(),
                format!("refers to {uri:?}, which lies outside; nothing is fetched"),
                "put it below `$defs` and refer to it as `#/$defs/NAME`",
            ),
            ReferencingError::PointerToNowhere { pointer: to } => (
                to.clone(),
                format!("refers to {:?}, which is not in the schema", format!("#{to}")),
                "check the name",
            ),
            ReferencingError::NoSuchAnchor { anchor } => (
                anchor.clone(),
                format!("refers to the anchor {anchor:?}, which is not in the schema"),
                "check the name",
            ),
            other => (String::new(), other.to_string(), "refer to parts of this schema only"),
        };
        let pointer = if pointer.is_empty() {
            find_reference(source, &to, &mut String::new()).unwrap_or_default()
        } else {
            pointer
        };
        Self { pointer, message, hint: hint.into() }
    }
}

/// Puts something harmless in the place of a mistake: a schema that allows everything, or nothing at all. Of a list, which
/// would have other places then, that is done to the whole.
fn mend(schema: &mut Value, pointer: &str, remove: bool) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    match schema.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            let name = name.replace("~1", "/").replace("~0", "~");
            match fields.get_mut(&name) {
                // It has to refer to something, and cannot be a truth value.
                Some(_)
                    if remove || matches!(name.as_str(), "$ref" | "$dynamicRef" | "$schema" | "pattern") =>
                {
                    fields.shift_remove(&name).is_some()
                }
                Some(value) => {
                    *value = Value::Bool(true);
                    true
                }
                None => false,
            }
        }
        Some(Value::Array(_)) => mend(schema, parent, true),
        _ => false,
    }
}

/// Where a schema refers to something that ends so.
fn find_reference(schema: &Value, to: &str, at: &mut String) -> Option<String> {
    let below = |name: &str, value: &Value, at: &mut String| {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let refers = matches!(name, "$ref" | "$dynamicRef" | "$schema")
            && value.as_str().is_some_and(|text| text.trim_start_matches("./").ends_with(to));
        let found = if refers { Some(at.clone()) } else { find_reference(value, to, at) };
        at.truncate(length);
        found
    };
    match schema {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| below(name, value, at)),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, value)| below(&index.to_string(), value, at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(schema: Value) -> String {
        Schema::new(schema).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_place() {
        let text = wrong(json!({ "properties": { "a": { "type": "text" } } }));
        assert!(text.starts_with("/properties/a/type: ") && text.contains("text"), "{text}");
        let text = wrong(json!({ "required": "a" }));
        assert_eq!(text, "/required: is \"a\", not a list; see JSON Schema 2020-12");
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let schema = json!({
            "$defs": { "a": 5, "b": { "$ref": "#/$defs/a" } },
            "type": "objet",
            "required": ["a", 1],
            "properties": {
                "a": { "pattern": "(a" },
                "b": { "$ref": "other.json" },
                "c": { "$ref": "#/$defs/gone" },
                "d/e": { "minLength": -1, "pattern": "(b)\\1" },
            },
            "anyOf": [{ "type": "text" }, { "maximum": "1" }],
        });
        let mut found: Vec<_> =
            Schema::mistakes(&schema).into_iter().map(|mistake| mistake.pointer).collect();
        found.sort();
        let expected = [
            "/$defs/a",
            "/anyOf/0/type",
            "/anyOf/1/maximum",
            "/properties/a/pattern",
            "/properties/b/$ref",
            "/properties/c/$ref",
            "/properties/d~1e/minLength",
            "/properties/d~1e/pattern",
            "/required/1",
            "/type",
        ];
        assert_eq!(found, expected);
        assert_eq!(Schema::mistakes(&json!(3)).len(), 1);
        assert!(Schema::mistakes(&json!({ "type": "object" })).is_empty());
    }

    #[test]
    fn nothing_outside_is_fetched() {
        for to in ["https://example.com/a.json", "file:///etc/passwd", "other.json"] {
            let text = wrong(json!({ "properties": { "a": { "$ref": to } } }));
            assert!(text.starts_with("/properties/a/$ref: ") && text.contains("lies outside"), "{text}");
        }
        let text = wrong(json!({ "items": { "$ref": "#/$defs/b" } }));
        assert!(text.starts_with("/items/$ref: ") && text.contains("not in the schema"), "{text}");
        Schema::new(json!({ "$defs": { "b": {} }, "items": { "$ref": "#/$defs/b" } })).unwrap();
    }

    #[test]
    fn a_pattern_that_could_take_for_ever_is_refused() {
        for pattern in ["(a)\\1", "(?=a)b", "(a"] {
            let text = wrong(json!({ "properties": { "a": { "pattern": pattern } } }));
            assert!(text.starts_with("/properties/a/pattern: ") && text.contains("linear"), "{text}");
        }
    }
}
