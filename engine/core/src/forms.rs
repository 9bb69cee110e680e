//! The forms in which a secret is looked for: as it is, and as it is written in JSON, in the words of an error, in a URL.
//!
//! What is not listed here gets through: base64 and other encodings, a hash, a part of it, one character on each line. A
//! tool can turn a secret into anything.

use std::fmt::Write as _;

use serde_json::Value;

/// A line of a secret that has at least this many bytes is masked on its own, too. A shorter one says little, and is often
/// one of a format: `}`, `EOF`.
const SHORTEST_LINE: usize = 8;

/// Percent-encodings: what each leaves as it is beside letters and digits, what becomes of a space, and of the others.
const URL: [Percent; 5] = [
    // RFC 3986.
    Percent { keep: b"-_.~", space: "%20", lower: false },
    // `encodeURIComponent` (ECMA-262).
    Percent { keep: b"-_.!~*'()", space: "%20", lower: false },
    // `application/x-www-form-urlencoded`: `URLSearchParams`, and `quote_plus` in Python.
    Percent { keep: b"-_.*", space: "+", lower: false },
    Percent { keep: b"-_.~", space: "+", lower: false },
    // RFC 3986 allows it, and .NET does it.
    Percent { keep: b"-_.~", space: "%20", lower: true },
];

struct Percent {
    keep: &'static [u8],
    space: &'static str,
    lower: bool,
}

/// The forms of a value: `all` of them, or only the most common, which take a fourth of the room.
pub(crate) fn of(value: &str, all: bool) -> impl Iterator<Item = Vec<u8>> {
    let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
    [value, value.trim()].into_iter().chain(lines).flat_map(move |text| {
        let mut forms = vec![text.to_owned(), within_quotes(&Value::from(text).to_string())];
        forms.extend(URL[..2].iter().map(|encoding| encoding.of(text)));
        if all {
            forms.extend(URL[2..].iter().map(|encoding| encoding.of(text)));
            forms.extend([
                // What our own errors quote with, and serde_json's.
                within_quotes(&format!("{text:?}")),
                // A JSON pointer (RFC 6901), with which they say where.
                text.replace('~', "~0").replace('/', "~1"),
                // `json.dumps` in Python, `json_encode` in PHP, with and without its escapes, `encoding/json` in Go.
                json(text, |c| !(' '..='~').contains(&c), false),
                json(text, |c| !c.is_ascii(), true),
                json(text, |_| false, true),
                json(text, |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'), false),
            ]);
        }
        forms.into_iter().map(String::into_bytes)
    })
}

fn within_quotes(literal: &str) -> String {
    literal[1..literal.len() - 1].to_owned()
}

/// As it stands between the quotes of a JSON string, when these characters are escaped, and perhaps the slash.
fn json(text: &str, escaped: impl Fn(char) -> bool, slash: bool) -> String {
    let plain = within_quotes(&Value::from(text).to_string());
    let mut form = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '/' if slash => form.push_str("\\/"),
            c if escaped(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(form, "\\u{unit:04x}");
                }
            }
            c => form.push(c),
        }
    }
    form
}

impl Percent {
    fn of(&self, text: &str) -> String {
        let mut form = String::with_capacity(text.len());
        for byte in text.bytes() {
            // Writing to a string does not fail.
            let _ = match byte {
                b' ' => write!(form, "{}", self.space),
                byte if byte.is_ascii_alphanumeric() || self.keep.contains(&byte) => {
                    write!(form, "{}", char::from(byte))
                }
                byte if self.lower => write!(form, "%{byte:02x}"),
                byte => write!(form, "%{byte:02X}"),
            };
        }
        form
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(value: &str) -> BTreeSet<String> {
        of(value, true).map(|form| String::from_utf8(form).unwrap()).collect()
    }

    #[test]
    fn a_plain_value_has_one_form() {
        assert_eq!(all("ghp_16C7e42F292c6912"), ["ghp_16C7e42F292c6912".to_owned()].into());
    }

    #[test]
    fn what_is_escaped_has_more() {
        let forms = all("a\"b\\c d+e/~'ä<");
        for form in [
            "a\"b\\c d+e/~'ä<",
            r#"a\"b\\c d+e/~'ä<"#,
            r#"a\"b\\c d+e/~'\u00e4<"#,
            r#"a\"b\\c d+e\/~'\u00e4<"#,
            r#"a\"b\\c d+e\/~'ä<"#,
            r#"a\"b\\c d+e/~'ä\u003c"#,
            "a\"b\\c d+e~1~0'ä<",
            "a%22b%5Cc%20d%2Be%2F~'%C3%A4%3C",
            "a%22b%5Cc%20d%2Be%2F~%27%C3%A4%3C",
            "a%22b%5cc%20d%2be%2f~%27%c3%a4%3c",
            "a%22b%5Cc+d%2Be%2F%7E%27%C3%A4%3C",
            "a%22b%5Cc+d%2Be%2F~%27%C3%A4%3C",
        ] {
            assert!(forms.contains(form), "{form} is not in {forms:#?}");
        }
        assert_eq!(of("a\"b\\c d+e/~'ä<", false).collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn one_of_many_lines_is_looked_for_whole_and_by_the_line() {
        let forms = all("-----BEGIN KEY-----\r\n  bGluZTE+\nshort\n        }\n-----END KEY-----\n");
        for form in ["-----BEGIN KEY-----", "bGluZTE+", "bGluZTE%2B", "-----END KEY-----"] {
            assert!(forms.contains(form), "{form} is not in {forms:#?}");
        }
        assert!(forms.iter().any(|form| form.starts_with(r"-----BEGIN KEY-----\r\n  bGluZTE+\nshort\n")));
        assert!(!forms.contains("short") && !forms.contains("}"), "{forms:#?}");
    }
}
