//! Where in a JSON text something stands.

use serde::de::{Deserialize, IgnoredAny};

/// The offset of what a JSON Pointer leads to, or of the last part of its way that is there. The text is JSON.
pub(super) fn locate(text: &str, pointer: &str) -> usize {
    let mut at = blank(text, 0);
    for part in pointer.split('/').skip(1) {
        let Some(below) = step(text, at, &part.replace("~1", "/").replace("~0", "~")) else { break };
        at = below;
    }
    at
}

/// The offset of a field or an item of what begins here.
fn step(text: &str, at: usize, name: &str) -> Option<usize> {
    let mut below = below(text, at).enumerate();
    // Of fields with one name the last counts.
    let named = |found, (index, (key, at)): (usize, (Option<String>, usize))| match key {
        Some(key) if key == name => Some(at),
        None if name.parse() == Ok(index) => Some(at),
        _ => found,
    };
    below.by_ref().fold(None, named)
}

/// The fields of the object that begins here, with their names, or the items of the list, and their offsets. The text is
/// gone through once.
pub(super) fn below(text: &str, at: usize) -> impl Iterator<Item = (Option<String>, usize)> {
    let is_object = text.as_bytes().get(at) == Some(&b'{');
    let mut next = (is_object || text.as_bytes().get(at) == Some(&b'[')).then(|| blank(text, at + 1));
    std::iter::from_fn(move || {
        let mut at = next.take()?;
        let mut name = None;
        if is_object {
            let (key, after) = take::<String>(text, at)?;
            // Past the colon.
            at = blank(text, blank(text, after) + 1);
            name = Some(key);
        }
        match take(text, at) {
            Some((IgnoredAny, after)) => {
                let after = blank(text, after);
                // Past the comma; otherwise it was the last.
                next = (text.as_bytes().get(after) == Some(&b',')).then(|| blank(text, after + 1));
            }
            // The end of an empty list, or of a text that is no JSON.
            None if name.is_none() => return None,
            None => {}
        }
        Some((name, at))
    })
}

/// The value that begins here, and where it ends.
fn take<T: for<'t> Deserialize<'t>>(text: &str, at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_str(text.get(at..)?).into_iter();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

/// Past blanks.
fn blank(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + (rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_a_place() {
        let text = " {\"a\" : [1, {\"b\\\"/c\":true}, [ ], -2.5e3],\n\"ä\": {}, \"e\": null, \"a/b\": \"x\", \"e\":0}";
        for (pointer, expected) in [
            ("", "{\"a\""),
            ("/a", "[1, "),
            ("/a/0", "1, {"),
            ("/a/1/b\"~1c", "true"),
            ("/a/2", "[ ]"),
            ("/a/3", "-2.5e3"),
            ("/ä", "{}, "),
            ("/a~1b", "\"x\""),
            ("/e", "0}"),
            ("/a/9", "[1, "),
            ("/ä/gone/deeper", "{}, "),
        ] {
            assert!(text[locate(text, pointer)..].starts_with(expected), "{pointer}");
        }
        assert_eq!(locate("", "/a"), 0);
        assert_eq!(below("[1, [2,3] ,{}]", 0).map(|(_, at)| at).collect::<Vec<_>>(), [1, 4, 11]);
        assert_eq!((below("[ ]", 0).count(), below("{}", 0).count(), below("7", 0).count()), (0, 0, 0));
        assert_eq!(locate("{\"a\"", "/a/b"), 5);
    }
}
