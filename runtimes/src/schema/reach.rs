//! How far the references of a schema lead. Each of them is followed when a schema is compiled and when a value is held
//! against it, on the stack, and as often as there are ways to it: without a bound a few kilobytes could end the process.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::SchemaError;

/// How many schemas may be held against one and the same place one inside the other.
const DEEPEST: usize = 32;
/// How many may be in all, counted as often as they are held against it.
const MOST: u64 = 10_000;
/// How many references may lead on from one to the next, whatever lies between them.
const LONGEST: usize = 1000;

pub(super) const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords with schemas that are held against the very place that their own schema is: lists, single ones, and those by name.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SINGLE: [&str; 4] = ["not", "if", "then", "else"];
const NAMED: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords with values that are no schemas, whatever they look like.
pub(super) const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];

/// Whether what is below a keyword are schemas by names that are free.
pub(super) fn has_names(keyword: &str) -> bool {
    matches!(keyword, "properties" | "patternProperties" | "$defs" | "definitions")
        || NAMED.contains(&keyword)
}

/// Whether a JSON Pointer leads into a value that is no schema.
fn leads_into_a_value(pointer: &str) -> bool {
    let mut by_name = false;
    pointer.split('/').skip(1).any(|part| {
        let is_value = !by_name && VALUES.contains(&part);
        by_name = !by_name && has_names(part);
        is_value
    })
}

/// How many schemas are held against one place at most, one inside the other; 0 for a schema without references.
///
/// # Errors
/// When its references lead too far, or round in a circle.
pub(super) fn measure(schema: &Value) -> Result<usize, SchemaError> {
    let mut parts = Parts::default();
    parts.collect(schema, &mut String::new(), true);
    if !parts.refers {
        return Ok(0);
    }
    let mut walk = Walk { parts: &parts, known: HashMap::new() };
    let mut deepest = 0;
    for (part, pointer) in &parts.all {
        if !leads_into_a_value(pointer) && parts.referred_pointers(part).any(|to| leads_into_a_value(&to)) {
            return Err(SchemaError {
                pointer: pointer.clone(),
                message: "refers into a value, which is no schema".into(),
                hint: "put what is meant below `$defs`".into(),
            });
        }
        deepest = deepest.max(walk.here(part, 0).map_err(|wrong| wrong.at(pointer))?.1);
    }
    chain(schema, &parts)?;
    Ok(deepest)
}

/// How many values it is made of.
pub(crate) fn count(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<u64>(),
        Value::Object(fields) => 1 + fields.values().map(count).sum::<u64>(),
        _ => 1,
    }
}

/// How deep a value is.
pub(super) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 1,
    }
}

/// What there is in a schema.
#[derive(Default)]
struct Parts<'s> {
    /// Everything that can be referred to, and where it is.
    all: Vec<(&'s Value, String)>,
    /// What references can begin at: the schema, and what has an `$id`.
    roots: Vec<&'s Value>,
    anchors: HashMap<&'s str, Vec<&'s Value>>,
    refers: bool,
}

impl<'s> Parts<'s> {
    fn collect(&mut self, value: &'s Value, at: &mut String, is_root: bool) {
        let length = at.len();
        match value {
            Value::Object(fields) => {
                self.all.push((value, at.clone()));
                self.refers |= REFERENCES.iter().any(|name| fields.get(*name).is_some_and(Value::is_string));
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                let id = text("$id").or(text("id"));
                if is_root || id.is_some() {
                    self.roots.push(value);
                }
                let own = [text("$anchor"), text("$dynamicAnchor"), id.and_then(|id| id.strip_prefix('#'))];
                for name in own.into_iter().flatten() {
                    self.anchors.entry(name).or_default().push(value);
                }
                for (name, below) in fields {
                    super::violation::push(at, name);
                    self.collect(below, at, false);
                    at.truncate(length);
                }
            }
            Value::Array(items) => {
                for (index, below) in items.iter().enumerate() {
                    super::violation::push(at, &index.to_string());
                    self.collect(below, at, false);
                    at.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// What a reference may mean; rather too much than too little. What lies outside, such as the schema of schemas, is
    /// none of it.
    fn targets(&self, reference: &str) -> Vec<&'s Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let name = decoded(document.rsplit('/').next().unwrap_or_default()).to_ascii_lowercase();
        let is_meant = |root: &&&'s Value| {
            matches!(&*name, "" | "." | "..")
                || root["$id"].as_str().is_some_and(|id| decoded(id).to_ascii_lowercase().contains(&name))
        };
        let roots = self.roots.iter().filter(is_meant).copied();
        match fragment {
            // Of one without a name it is the nearest, which may be any.
            "" => roots.collect(),
            pointer if pointer.starts_with('/') => {
                let pointer = decoded(pointer);
                roots.filter_map(|root| root.pointer(&pointer)).collect()
            }
            anchor => self.anchors.get(decoded(anchor).as_str()).cloned().unwrap_or_default(),
        }
    }

    /// The JSON Pointers that a part refers to itself.
    fn referred_pointers<'p>(&self, part: &'p Value) -> impl Iterator<Item = String> + use<'p> {
        let references = REFERENCES.iter().filter_map(|name| part.get(*name)?.as_str());
        references.map(|reference| decoded(reference.split_once('#').unwrap_or_default().1))
    }

    /// What a part refers to itself.
    fn referred(&self, part: &Value) -> Vec<&'s Value> {
        REFERENCES
            .iter()
            .filter_map(|name| part.get(*name)?.as_str())
            .flat_map(|reference| self.targets(reference))
            .collect()
    }
}

/// With `%41` as `A`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        if let (b'%', [high, low, left @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.push((high * 16 + low) as u8);
            rest = left;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why it leads too far.
#[derive(Clone, Copy)]
enum Wrong {
    Circle,
    Deep,
    Many,
}

impl Wrong {
    fn at(self, pointer: &str) -> SchemaError {
        let (message, hint) = match self {
            Self::Circle => (
                "refers to itself for the very same value, round in a circle".to_owned(),
                "refer to it for a field or an item, below `properties` or `items`",
            ),
            Self::Deep => (
                format!("has more than {DEEPEST} references and alternatives one inside the other"),
                "refer to what is meant directly",
            ),
            Self::Many => (
                format!("would take more than {MOST} schemas for a single value"),
                "leave out what its references bring in more than once",
            ),
        };
        SchemaError { pointer: pointer.to_owned(), message, hint: hint.into() }
    }
}

struct Walk<'p, 's> {
    parts: &'p Parts<'s>,
    /// How many schemas each part comes to, and how deep; `None` while that is looked for.
    known: HashMap<*const Value, Option<(u64, usize)>>,
}

impl<'s> Walk<'_, 's> {
    /// How many schemas are held against a place for this one, and how deep they are inside each other.
    fn here(&mut self, part: &'s Value, above: usize) -> Result<(u64, usize), Wrong> {
        let Value::Object(fields) = part else { return Ok((1, 1)) };
        match self.known.get(&std::ptr::from_ref(part)) {
            Some(Some(known)) if above + known.1 > DEEPEST => return Err(Wrong::Deep),
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(Wrong::Circle),
            None if above >= DEEPEST => return Err(Wrong::Deep),
            None => {}
        }
        self.known.insert(part, None);
        let mut below = self.parts.referred(part);
        below.extend(LISTS.iter().filter_map(|name| fields.get(*name)?.as_array()).flatten());
        below.extend(SINGLE.iter().filter_map(|name| fields.get(*name)));
        below.extend(NAMED.iter().filter_map(|name| fields.get(*name)?.as_object()).flat_map(Map::values));
        let (mut many, mut deepest) = (1u64, 0);
        for next in below {
            let (count, depth) = self.here(next, above + 1)?;
            many = many.saturating_add(count);
            deepest = deepest.max(depth);
        }
        if many > MOST {
            return Err(Wrong::Many);
        }
        self.known.insert(part, Some((many, deepest + 1)));
        Ok((many, deepest + 1))
    }
}

/// Follows everything as it is compiled: each part once, in its order, and within it all that it contains and refers to.
fn chain(schema: &Value, parts: &Parts<'_>) -> Result<(), SchemaError> {
    let mut seen = HashSet::new();
    let mut open = vec![(schema, 0)];
    while let Some((part, references)) = open.pop() {
        if !seen.insert(std::ptr::from_ref(part)) {
            continue;
        }
        if references > LONGEST {
            let place = parts.all.iter().find(|(known, _)| std::ptr::eq(*known, part));
            return Err(SchemaError {
                pointer: place.map(|(_, pointer)| pointer.clone()).unwrap_or_default(),
                message: format!("lies behind more than {LONGEST} references, each leading on to the next"),
                hint: "refer to what is meant directly".into(),
            });
        }
        let first = open.len();
        open.extend(parts.referred(part).into_iter().map(|target| (target, references + 1)));
        match part {
            Value::Object(fields) => open.extend(fields.values().map(|below| (below, references))),
            Value::Array(items) => open.extend(items.iter().map(|below| (below, references))),
            _ => {}
        }
        // What comes first is gone into first.
        open[first..].reverse();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn said(schema: &Value) -> String {
        Schema::new(schema.clone()).map(drop).unwrap_err().to_string()
    }

    /// `links` definitions, each made of the next; the last takes anything.
    fn linked(links: usize, each: impl Fn(Value) -> Value) -> Value {
        let next = |index: usize| json!({ "$ref": format!("#/$defs/d{}", index + 1) });
        let mut definitions: Map<String, Value> =
            (0..links).map(|index| (format!("d{index}"), each(next(index)))).collect();
        definitions.insert(format!("d{links}"), json!({}));
        json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
    }

    #[test]
    fn references_that_would_fill_the_stack_are_refused() {
        let text = said(&linked(20_000, |next| next));
        assert!(text.contains("one inside the other; refer to"), "{text}");
        let text = said(&linked(20_000, |next| json!({ "items": next })));
        assert!(text.contains("behind more than 1000 references"), "{text}");
        Schema::new(linked(900, |next| json!({ "items": next }))).unwrap();
    }

    #[test]
    fn references_that_multiply_are_refused() {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let text = said(&linked(14, |next| json!({ keyword: [next, next] })));
            assert!(text.contains("more than 10000 schemas for a single value"), "{text}");
        }
        let text = said(&linked(14, |next| json!({ "dependentSchemas": { "a": next, "b": next } })));
        assert!(text.contains("more than 10000"), "{text}");
    }

    #[test]
    fn references_in_a_circle_are_refused_and_those_of_fields_and_items_are_not() {
        for circle in [
            json!({ "$ref": "#" }),
            json!({ "$defs": { "a": { "anyOf": [{ "$ref": "#/$defs/%61" }] } } }),
            json!({ "$id": "http://a.example/b", "not": { "$ref": "b" } }),
            json!({ "$dynamicAnchor": "x", "allOf": [{ "$dynamicRef": "#x" }] }),
        ] {
            let text = said(&circle);
            assert!(text.contains("round in a circle; refer to it for a field"), "{text}");
        }
        let tree = json!({
            "$defs": { "node": {
                "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/list" }],
            }, "list": { "type": "array", "items": { "$ref": "#/$defs/node" } } },
            "properties": { "child": { "$ref": "#" }, "$ref": { "$ref": "#/$defs/node" } },
        });
        let tree = Schema::new(tree).unwrap();
        assert!(tree.check(&json!({ "child": { "$ref": [["a", []]] } })).is_ok());
        assert!(tree.check(&json!({ "child": { "$ref": [[1]] } })).is_err());
        Schema::new(json!({ "$ref": "https://json-schema.org/draft/2020-12/schema" })).unwrap();
    }

    /// On a stack as small as an engine's threads have it, a value as deep as JSON may be against the deepest schema.
    #[test]
    fn the_deepest_that_is_allowed_fits_the_stack() {
        let mut schema = linked(DEEPEST / 2 - 2, |next| json!({ "anyOf": [next] }));
        let last = schema["$defs"].as_object().unwrap().len() - 1;
        schema["$defs"][format!("d{last}")] = json!({ "items": { "$ref": "#/$defs/d0" }, "type": "array" });
        let value = (0..126).fold(json!(1), |value, _| json!([value]));
        let compiled = Schema::new(schema).unwrap();
        let check = move || compiled.check(&value).unwrap_err().to_string();
        let said = std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
        assert!(said.starts_with("fits none of its forms"), "{said}");
    }
}
