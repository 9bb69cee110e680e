//! Where a value is not as its schema has it, in plain words.

use std::fmt::{self, Write as _};

use jsonschema::{ValidationError, error::TypeKind, error::ValidationErrorKind as Kind};
use serde_json::Value;

/// One place where a value is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The place: a JSON Pointer, empty for the value itself.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// All such places, of which at most five are named.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violations {
    /// The first of them.
    pub list: Vec<Violation>,
    /// How many more there are.
    pub more: usize,
}

const NAMED: usize = 5;
const LISTED: usize = 10;
const SHOWN: usize = 60;

impl Violations {
    pub(super) fn of<'a>(schema: &Value, errors: impl Iterator<Item = ValidationError<'a>>) -> Self {
        let mut found = Self { list: Vec::new(), more: 0 };
        for error in errors {
            if found.list.len() == NAMED {
                found.more += 1;
                continue;
            }
            let violation = Violation::of(schema, &error);
            // What several parts of a schema say is said once.
            if !found.list.contains(&violation) {
                found.list.push(violation);
            }
        }
        found
    }

    /// For what cannot be said of any place.
    pub(super) fn untold(message: String) -> Self {
        Self { list: vec![Violation { pointer: String::new(), message }], more: 0 }
    }
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.list.iter().enumerate() {
            write!(f, "{}{violation}", if index == 0 { "" } else { "; " })?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        if place.is_empty() { f.write_str(&self.message) } else { write!(f, "{place}: {}", self.message) }
    }
}

impl Violation {
    /// The place as people write it, such as `items[3].price`; empty for the value itself.
    pub fn place(&self) -> String {
        let mut place = String::new();
        for part in self.pointer.split('/').skip(1) {
            let name = part.replace("~1", "/").replace("~0", "~");
            if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
                let _ = write!(place, "[{name}]");
            } else if name.is_empty() || name.contains(|c: char| c == '.' || c == '[' || c.is_control()) {
                let _ = write!(place, "[{name:?}]");
            } else {
                let _ = write!(place, "{}{name}", if place.is_empty() { "" } else { "." });
            }
        }
        place
    }

    pub(super) fn of(schema: &Value, error: &ValidationError<'_>) -> Self {
        let mut pointer = error.instance_path().as_str().to_owned();
        let is = short(error.instance());
        let length =
            |limit: &u64| format!("{limit} {}", if *limit == 1 { "character" } else { "characters" });
        let message = match error.kind() {
            Kind::Type { kind } => format!("is {is}, not {}", types(kind)),
            Kind::Required { property } => {
                push(&mut pointer, property.as_str().unwrap_or_default());
                "is missing".into()
            }
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                let known = known(schema, error.schema_path().as_str());
                return Self::unknown(pointer, unexpected, known.as_deref());
            }
            Kind::Enum { options } => format!("is {is}; it may be {}", choice(options)),
            Kind::Constant { expected_value } => format!("is {is}; it may only be {}", short(expected_value)),
            Kind::Minimum { limit } => format!("is {is}, less than the least allowed, {limit}"),
            Kind::Maximum { limit } => format!("is {is}, more than the most allowed, {limit}"),
            Kind::ExclusiveMinimum { limit } => format!("is {is}, and must be more than {limit}"),
            Kind::ExclusiveMaximum { limit } => format!("is {is}, and must be less than {limit}"),
            Kind::MultipleOf { multiple_of } => format!("is {is}, not a multiple of {multiple_of}"),
            Kind::MinLength { limit: 1 } => "is empty".into(),
            Kind::MinLength { limit } => format!("is {is}, shorter than {}", length(limit)),
            Kind::MaxLength { limit } => format!("is {is}, longer than {}", length(limit)),
            Kind::MinItems { limit } => format!("has {} items, fewer than {limit}", count(error.instance())),
            Kind::MaxItems { limit } => format!("has {} items, more than {limit}", count(error.instance())),
            Kind::AdditionalItems { limit } => {
                format!("has {} items, more than {limit}", count(error.instance()))
            }
            Kind::UnevaluatedItems { .. } => "has more items than are known".into(),
            Kind::MinProperties { limit } => {
                format!("has {} fields, fewer than {limit}", count(error.instance()))
            }
            Kind::MaxProperties { limit } => {
                format!("has {} fields, more than {limit}", count(error.instance()))
            }
            Kind::UniqueItems => "has the same item more than once".into(),
            Kind::Contains => "has no item, or too few or too many, of the kind it must contain".into(),
            Kind::Pattern { pattern } => format!("is {is}, which does not match {}", cut(pattern)),
            Kind::Format { format } => format!("is {is}, not of the format {format}"),
            // Which one, the library does not say.
            Kind::FalseSchema if error.schema_path().as_str().ends_with("/additionalProperties") => {
                "has a field, and may have none".into()
            }
            Kind::FalseSchema => "is not allowed".into(),
            Kind::Not { schema: counted } => {
                let written = schema.pointer(error.schema_path().as_str()).unwrap_or(counted);
                format!("is {is}, which {} forbids", short(written))
            }
            Kind::PropertyNames { error } => {
                format!("has a field with a wrong name, which {}", Self::of(schema, error).message)
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                alternatives(schema, &pointer, &is, context)
            }
            Kind::OneOfMultipleValid { context } => {
                format!("is {is}, which fits more than one of {} forms", context.len())
            }
            _ => cut(&error.masked_with("the value").to_string()),
        };
        Self { pointer, message }
    }

    fn unknown(mut pointer: String, unexpected: &[String], known: Option<&[&str]>) -> Self {
        let known = match known {
            Some([]) => "; no field is known".to_owned(),
            Some(known) => format!("; known are: {}", list(known)),
            None => String::new(),
        };
        let message = if let [one] = unexpected {
            push(&mut pointer, one);
            format!("is an unknown field{known}")
        } else {
            let names: Vec<_> = unexpected.iter().map(String::as_str).collect();
            format!("has the unknown fields {}{known}", list(&names))
        };
        Self { pointer, message }
    }
}

/// What to say when none of several forms fits: all that is wrong, when it is the type; or else what is wrong with the form
/// that the value comes closest to.
fn alternatives(
    schema: &Value,
    pointer: &str,
    is: &str,
    context: &[Vec<ValidationError<'static>>],
) -> String {
    let here = |error: &ValidationError<'_>| error.instance_path().as_str() == pointer;
    let types: Option<Vec<String>> = context
        .iter()
        .map(|errors| match &errors[..] {
            [error] if here(error) => match error.kind() {
                Kind::Type { kind } => Some(types(kind)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    if let Some(types) = types.filter(|types| !types.is_empty()) {
        return format!("is {is}, not {}", types.join(" or "));
    }
    let nearest =
        context.iter().enumerate().filter(|(_, errors)| !errors.is_empty()).min_by_key(|(_, errors)| {
            let no_such = errors.iter().any(|error| {
                matches!(error.kind(), Kind::Type { .. } | Kind::Constant { .. }) && here(error)
            });
            (no_such, errors.len())
        });
    match nearest {
        None => format!("is {is}, which fits none of {} forms", context.len()),
        Some((index, errors)) => {
            let violation = Violation::of(schema, &errors[0]);
            if errors.len() == 1 && violation.pointer == pointer {
                return violation.message;
            }
            format!("fits none of {} forms; of the nearest, number {}: {violation}", context.len(), index + 1)
        }
    }
}

/// The fields that the schema knows at a place, given the place of the keyword that refused another.
fn known<'s>(schema: &'s Value, keyword: &str) -> Option<Vec<&'s str>> {
    let (parent, _) = keyword.rsplit_once('/')?;
    let parent = schema.pointer(parent)?;
    if parent.get("patternProperties").is_some() {
        return None;
    }
    let properties = parent.get("properties").and_then(Value::as_object);
    Some(properties.map(|fields| fields.keys().map(String::as_str).collect()).unwrap_or_default())
}

fn types(kind: &TypeKind) -> String {
    let named = |name: &str| match name {
        "array" => "a list".to_owned(),
        "boolean" => "true or false".into(),
        "integer" => "a whole number".into(),
        "null" => "null".into(),
        "object" => "an object".into(),
        "string" => "a text".into(),
        other => format!("a {other}"),
    };
    match kind {
        TypeKind::Single(one) => named(one.as_str()),
        TypeKind::Multiple(several) => {
            several.iter().map(|one| named(one.as_str())).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn choice(options: &Value) -> String {
    let options: Vec<String> =
        options.as_array().map(|all| all.iter().map(short).collect()).unwrap_or_default();
    list(&options)
}

fn list<T: AsRef<str>>(words: &[T]) -> String {
    let shown: Vec<_> = words.iter().take(LISTED).map(|word| cut(word.as_ref())).collect();
    match words.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn count(value: &Value) -> usize {
    value.as_array().map(Vec::len).or_else(|| value.as_object().map(serde_json::Map::len)).unwrap_or_default()
}

/// A value for people: as JSON, but not more of it than a line can take.
pub(super) fn short(value: &Value) -> String {
    match value {
        // Nobody wants the whole of a long text in quotes and escapes.
        Value::String(text) if text.chars().count() > SHOWN => Value::from(cut(text)).to_string(),
        Value::Object(fields) if fields.len() > LISTED => format!("an object with {} fields", fields.len()),
        Value::Array(items) if items.len() > LISTED => format!("a list of {} items", items.len()),
        other => cut(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(SHOWN - 1).collect();
    cut.push('…');
    cut
}

pub(super) fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::schema::Schema;

    use super::*;

    fn said(schema: Value, value: Value) -> String {
        Schema::new(schema).unwrap().check(&value).unwrap_err().to_string()
    }

    #[test]
    fn the_place_and_what_is_wrong_there_in_plain_words() {
        let schema = json!({
            "type": "object",
            "required": ["text"],
            "properties": {
                "text": { "type": "string", "minLength": 1 },
                "items": { "items": { "properties": { "price": { "type": "number" } } } },
                "top": { "minimum": 1 },
                "day": { "format": "date" },
                "mode": { "enum": ["fast", "slow"] },
            },
        });
        assert_eq!(said(schema.clone(), json!({})), "text: is missing");
        let prices = json!({ "text": "a", "items": [{}, {}, {}, { "price": "cheap" }] });
        assert_eq!(said(schema.clone(), prices), "items[3].price: is \"cheap\", not a number");
        let top = json!({ "text": "a", "top": 0 });
        assert_eq!(said(schema.clone(), top), "top: is 0, less than the least allowed, 1");
        let day = json!({ "text": "a", "day": "2024-02-31" });
        assert_eq!(said(schema.clone(), day), "day: is \"2024-02-31\", not of the format date");
        let mode = json!({ "text": "a", "mode": "idle" });
        assert_eq!(said(schema.clone(), mode), "mode: is \"idle\"; it may be \"fast\", \"slow\"");
        assert_eq!(said(schema.clone(), json!({ "text": "" })), "text: is empty");
        assert_eq!(said(schema, json!(7)), "is 7, not an object");
    }

    #[test]
    fn an_unknown_field_is_answered_with_those_there_are() {
        let schema = json!({ "properties": { "color": {}, "size": {} }, "additionalProperties": false });
        assert_eq!(
            said(schema.clone(), json!({ "colour": 1 })),
            "colour: is an unknown field; known are: color, size"
        );
        assert_eq!(
            said(schema, json!({ "a.b": 1, "c": 2 })),
            "has the unknown fields a.b, c; known are: color, size"
        );
        let below = json!({
            "$defs": { "p": { "properties": { "x": {} }, "additionalProperties": false } },
            "items": { "$ref": "#/$defs/p" },
        });
        assert_eq!(said(below, json!([{ "a.b": 1 }])), "[0][\"a.b\"]: is an unknown field; known are: x");
        assert_eq!(
            said(json!({ "additionalProperties": false }), json!({ "a": 1 })),
            "has a field, and may have none"
        );
    }

    #[test]
    fn what_is_long_is_shortened_and_what_is_much_is_counted() {
        let text = said(json!({ "type": "number" }), json!("x".repeat(999)));
        assert!(text.chars().count() < 90 && text.contains('…'), "{text}");
        let many = said(json!({ "items": { "type": "number" } }), json!(vec!["a"; 9]));
        assert!(
            many.starts_with("[0]: is \"a\", not a number; [1]") && many.ends_with("; and 4 more"),
            "{many}"
        );
        let options: Vec<_> = (0..30).collect();
        assert!(said(json!({ "enum": options }), json!(99)).ends_with("8, 9 and 20 more"));
    }

    #[test]
    fn what_several_parts_of_a_schema_say_is_said_once() {
        let schema = json!({ "type": "string", "allOf": [{ "type": "string" }, { "minimum": 3 }] });
        assert_eq!(said(schema, json!(1)), "is 1, not a text; is 1, less than the least allowed, 3");
    }

    #[test]
    fn of_several_forms_the_nearest_is_spoken_of() {
        let types = json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] });
        assert_eq!(said(types, json!(true)), "is true, not a text or a whole number");
        let forms = json!({ "oneOf": [
            { "type": "string" },
            { "type": "object", "required": ["price"] },
        ] });
        assert_eq!(
            said(forms, json!({})),
            "fits none of 2 forms; of the nearest, number 2: price: is missing"
        );
    }
}
