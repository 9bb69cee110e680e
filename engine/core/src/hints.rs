//! What a tool may have missed: paths that it names at its end, that are there, and that it was not shown.

use std::{path::PathBuf, time::Duration};

use tokio::time::timeout;

use crate::{
    error::ErrorKind, janitor::Leader, lane::Lane, masking::Masking, plan::Protocol, report::Report,
};

/// How much of the end of what a tool says is looked at.
const END: usize = 4096;
/// How many of the paths in it, the last ones, and how many hints are given.
const MOST_PATHS: usize = 16;
const MOST_HINTS: usize = 3;
/// Looking takes microseconds; nobody waits longer for a hint.
const PATIENCE: Duration = Duration::from_millis(500);

/// What to tell about an execution that failed by itself. Nothing is guessed: each path is known to be there, and not to have
/// been shown.
pub(crate) async fn of(
    kind: &ErrorKind,
    report: &Report,
    protocol: &Protocol,
    leader: &Leader,
    lane: &Lane,
    masking: &Masking,
) -> Vec<String> {
    let thrown = match kind {
        ErrorKind::Tool(error) => &*error.message,
        ErrorKind::Process { .. } => "",
        _ => return Vec::new(),
    };
    let stderr = report.stderr.bytes();
    let end = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(END)..]);
    let start = thrown.char_indices().map(|(at, _)| at).take_while(|at| *at <= END).last().unwrap_or(0);
    let whole = if thrown.len() <= END { thrown } else { &thrown[..start] };
    let mut paths = named(&format!("{end}\n{whole}"));
    if paths.is_empty() {
        return Vec::new();
    }
    paths.drain(..paths.len().saturating_sub(MOST_PATHS));
    let look = leader.unshown();
    let looked = timeout(PATIENCE, lane.spawn(move || look(paths))).await;
    let unshown = looked.ok().and_then(Result::ok).unwrap_or_default();
    let hint = |path: PathBuf| {
        let path = path.display().to_string();
        let word =
            if path.contains(|c: char| c.is_whitespace()) { format!("{path:?}") } else { path.clone() };
        let declared = match protocol {
            Protocol::ExitCode => "",
            Protocol::Stdio | Protocol::Channel { .. } => " (of a declared tool: with `policy.ro`)",
        };
        let mut hint = format!(
            "{path} exists on the host but was not shown to the tool; show it with --ro {word}{declared}"
        );
        masking.text(&mut hint);
        hint
    };
    unshown.into_iter().take(MOST_HINTS).map(hint).collect()
}

/// The absolute paths in a text, each once, in the order in which they were last named.
fn named(text: &str) -> Vec<PathBuf> {
    const QUOTES: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('`', '`'), ('‘', '’'), ('“', '”')];
    let is_before = |c: char| c.is_whitespace() || "([{<=:,;|>".contains(c);
    let is_end = |c: char| c.is_whitespace() || c.is_control() || "'\"`’”‘“()[]{}<>|;,:".contains(c);
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut before = None;
    for (at, c) in text.char_indices() {
        let quoted = before.and_then(|before| QUOTES.iter().find(|(open, _)| *open == before));
        if c == '/' && (quoted.is_some() || before.is_none_or(is_before)) {
            let rest = &text[at..];
            let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
            let within = quoted.and_then(|(_, close)| line.split_once(*close)).map(|(inside, _)| inside);
            let path = within.unwrap_or_else(|| {
                let word = &line[..line.find(is_end).unwrap_or(line.len())];
                word.trim_end_matches(['.', '!', '?', '…'])
            });
            let is_plain = !path.contains('\0') && !path.split('/').any(|part| part == "..");
            // `//` begins the second part of a URL.
            if path.len() > 1 && path.len() < END && !path.starts_with("//") && is_plain {
                let path = PathBuf::from(path);
                paths.retain(|known| *known != path);
                paths.push(path);
            }
        }
        before = Some(c);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_found_as_programs_write_them() {
        for (text, expected) in [
            ("cat: /a/b.txt: No such file or directory\n", vec!["/a/b.txt"]),
            ("FileNotFoundError: [Errno 2] No such file or directory: '/a/my file'", vec!["/a/my file"]),
            ("ENOENT: no such file or directory, open '/a/it:s'", vec!["/a/it:s"]),
            ("ls: cannot access ‘/a b’: …", vec!["/a b"]),
            ("error: unable to open \"/a/x.db\".", vec!["/a/x.db"]),
            ("at run (/t/tool.ts:3:5)\nat /t/other.mjs:1", vec!["/t/tool.ts", "/t/other.mjs"]),
            ("--config=/etc/x.conf, cannot read /a/b.", vec!["/etc/x.conf", "/a/b"]),
            ("/a /b /a", vec!["/b", "/a"]),
            ("it's /a", vec!["/a"]),
            ("'/never closed\n/a'", vec!["/never", "/a"]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(named(text), expected, "{text:?}");
        }
        for nothing in ["", "/", "a/b", "./a", "https://example.org/a", "1 / 2", "and/or", "/a/../b"] {
            assert!(named(nothing).is_empty(), "{nothing:?}");
        }
    }
}
