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
    let is_object = match text.as_bytes().get(at)? {
        b'{' => true,
        b'[' => false,
        _ => return None,
    };
    let mut found = None;
    let mut at = blank(text, at + 1);
    for index in 0.. {
        let wanted = if is_object {
            let Some((key, after)) = take::<String>(text, at) else { break };
            // Past the colon.
            at = blank(text, blank(text, after) + 1);
            key == name
        } else {
            name.parse() == Ok(index)
        };
        if wanted {
            // Of fields with one name the last counts.
            found = Some(at);
        }
        let Some((IgnoredAny, after)) = take(text, at) else { break };
        // Past the comma, or the end of it all.
        at = blank(text, after);
        if text.as_bytes().get(at) != Some(&b',') {
            break;
        }
        at = blank(text, at + 1);
    }
    found
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
        assert_eq!(locate("{\"a\"", "/a/b"), 5);
    }
}
