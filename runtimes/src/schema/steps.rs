//! How often references are followed when a value is held against a schema. A schema for trees with several forms may be held
//! against each part of a value by each of them, twice as often with each level, so that it has to be given up at some point.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value, json};

use super::reach::{REFERENCES, VALUES, has_names};

/// The keyword that counts.
pub(super) const KEYWORD: &str = "run-tool:step";

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// What it is given up with.
struct GivenUp;

pub(super) struct Step;

impl<'i> Keyword<'i> for Step {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        if take() { Ok(()) } else { Err(ValidationError::custom("given up")) }
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        take()
    }
}

fn take() -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    // Where panics end the process nothing else ends the search for mistakes, but at least that for the first.
    if left == 0 && cfg!(panic = "unwind") {
        resume_unwind(Box::new(GivenUp));
    }
    left > 0
}

/// What the work comes to, unless it takes more steps.
pub(super) fn within<T>(steps: u64, work: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => (LEFT.get() > 0).then_some(done),
        Err(given_up) if given_up.is::<GivenUp>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// The schema with a step at each of its references. Every other part stays where it is, so that they still lead to it.
pub(super) fn counted(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let is_old = ignores_siblings(&schema);
    insert(&mut schema, is_old, false);
    schema
}

/// Whether a part is of a draft in which nothing counts beside a reference.
fn ignores_siblings(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let draft = fields.get("$schema").and_then(Value::as_str).unwrap_or_default();
            ["draft-03", "draft-04", "draft-06", "draft-07"].iter().any(|old| draft.contains(old))
                || fields.values().any(ignores_siblings)
        }
        Value::Array(items) => items.iter().any(ignores_siblings),
        _ => false,
    }
}

fn insert(schema: &mut Value, is_old: bool, by_name: bool) {
    match schema {
        Value::Object(fields) => {
            for (name, below) in fields.iter_mut() {
                if by_name || !VALUES.contains(&name.as_str()) {
                    insert(below, is_old, !by_name && has_names(name));
                }
            }
            let without_effect = is_old && fields.len() > 1;
            if !by_name && !without_effect {
                step(fields);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| insert(item, is_old, false)),
        _ => {}
    }
}

fn step(fields: &mut Map<String, Value>) {
    let references: Map<String, Value> = REFERENCES
        .iter()
        .filter(|name| fields.get(**name).is_some_and(Value::is_string))
        .filter_map(|name| fields.get(*name).map(|to| ((*name).to_owned(), to.clone())))
        .collect();
    if references.is_empty() {
        return;
    }
    // One that is no list is no schema; that is told elsewhere.
    if let Value::Array(all) = fields.entry("allOf").or_insert_with(|| json!([])) {
        for (name, to) in &references {
            all.push(json!({ KEYWORD: true }));
            all.push(json!({ name: to }));
        }
    }
    fields.retain(|name, _| !references.contains_key(name));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::schema::Schema;

    #[test]
    fn references_are_counted_where_they_are_and_values_are_left_alone() {
        let schema = json!({
            "properties": { "default": { "$ref": "#/$defs/a", "title": "x" }, "b": { "const": { "$ref": "c" } } },
            "$defs": { "a": {} },
        });
        let step = json!({ KEYWORD: true });
        let mut expected = schema.clone();
        expected["properties"]["default"] = json!({ "title": "x", "allOf": [step, { "$ref": "#/$defs/a" }] });
        assert_eq!(counted(&schema), expected);
        let old = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "items": [{ "$ref": "#" }, { "$ref": "#", "minimum": 1 }],
        });
        let mut expected = old.clone();
        expected["items"][0] = json!({ "allOf": [step, { "$ref": "#" }] });
        assert_eq!(counted(&old), expected);
    }

    #[test]
    fn what_takes_more_steps_is_given_up_and_what_panics_goes_on() {
        assert_eq!(within(3, || [take(), take()]), Some([true, true]));
        assert_eq!(within(1, || [take(), take()]), None);
        let panicked = catch_unwind(|| within(1, || resume_unwind(Box::new("other"))));
        assert_eq!(panicked.map(|_: Option<()>| ()).unwrap_err().downcast_ref(), Some(&"other"));
    }

    #[test]
    fn what_would_take_for_ever_is_given_up() {
        let list = |most: u64| json!({ "type": "array", "items": { "$ref": "#" }, "maxItems": most });
        let tree = Schema::new(json!({ "anyOf": [list(1), list(2), { "type": "number" }] })).unwrap();
        let nested = |depth: usize, inner: Value| (0..depth).fold(inner, |value, _| json!([value]));
        assert!(tree.check(&nested(100, json!(1))).is_ok());
        let said = tree.check(&nested(3, json!("x"))).unwrap_err().to_string();
        assert!(said.starts_with("fits none of 3 forms"), "{said}");
        let said = tree.check(&nested(100, json!("x"))).unwrap_err().to_string();
        assert_eq!(said, "fits none of its forms, which are too many to say where it does not");
        let wide = json!(vec![json!([1]); 200_000]);
        let lists = Schema::new(json!({ "$defs": { "l": { "items": { "$ref": "#/$defs/n" } }, "n": {} },
            "items": { "$ref": "#/$defs/l" } }));
        assert!(lists.unwrap().check(&wide).is_ok(), "much is not too much");
    }

    /// With and without steps a schema says the same.
    #[test]
    fn steps_change_nothing_else() {
        let schemas = [
            json!({ "$defs": { "a": { "required": ["x"] } }, "$ref": "#/$defs/a", "properties": { "x": { "$ref": "#" } } }),
            json!({ "allOf": [{ "properties": { "x": {} } }, { "$ref": "#/allOf/0" }], "unevaluatedProperties": false }),
            json!({ "$dynamicAnchor": "n", "properties": { "x": { "$dynamicRef": "#n" } }, "unevaluatedProperties": false }),
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "properties": { "x": { "$ref": "#", "type": "null" } } }),
        ];
        let values =
            [json!({}), json!({ "x": {} }), json!({ "x": { "x": 1, "y": 2 } }), json!({ "y": 1 }), json!(7)];
        let mut seen = BTreeMap::new();
        for schema in &schemas {
            for value in &values {
                let plain = jsonschema::options().offline().build(schema).unwrap();
                let expected = plain.is_valid(value);
                assert_eq!(
                    Schema::new(schema.clone()).unwrap().check(value).is_ok(),
                    expected,
                    "{schema} {value}"
                );
                *seen.entry(expected).or_insert(0) += 1;
            }
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}
