//! What is wrong with a manifest, and where.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Everything that is wrong with a manifest and the files it includes, in the order of the files and their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    diagnostics: Vec<Diagnostic>,
}

/// One mistake, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The file, by the name under which it was asked for.
    pub file: PathBuf,
    /// The line, from 1 on. 0 when it is the file as a whole.
    pub line: usize,
    /// The column, in characters, from 1 on. 0 when it is the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line as it is written, for people to look at: control characters and what is too long are taken out.
    pub excerpt: Option<Excerpt>,
}

/// A line of a file, and the place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Excerpt {
    /// The line, or the part around the place.
    pub text: String,
    /// How many characters of it lie before the place.
    pub before: usize,
}

impl ManifestError {
    pub(crate) fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    /// The mistakes; there is at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", plain(&self.file.to_string_lossy()))?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", plain(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "; {}", plain(hint))?;
        }
        if let Some(excerpt) = &self.excerpt {
            let number = self.line.to_string();
            let (width, before) = (number.len(), excerpt.before);
            write!(f, "\n  {number} | {}\n  {:width$} | {:before$}^", excerpt.text, "", "")?;
        }
        Ok(())
    }
}

impl Diagnostic {
    /// A mistake that is the whole file's.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, message: message.into(), hint, excerpt: None }
    }

    /// A mistake at an offset of a file's text.
    pub(crate) fn at(
        file: &Path,
        text: &str,
        offset: usize,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
        let line = text[..start].matches('\n').count() + 1;
        let before = text[start..offset].chars().count();
        Self {
            file: file.into(),
            line,
            column: before + 1,
            message: message.into(),
            hint,
            excerpt: Some(Excerpt::new(text[start..end].trim_end(), before)),
        }
    }
}

/// A text that does nothing to a terminal, whatever a manifest put into it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl Excerpt {
    const LONGEST: usize = 120;

    fn new(line: &str, before: usize) -> Self {
        let skip = if before >= Self::LONGEST { before - Self::LONGEST / 2 } else { 0 };
        let text = line
            .chars()
            .skip(skip)
            .take(Self::LONGEST)
            .map(|c| match c {
                '\t' => ' ',
                c if c.is_control() => char::REPLACEMENT_CHARACTER,
                c => c,
            })
            .collect();
        Self { text, before: before - skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_the_place() {
        let shown =
            Diagnostic::at(Path::new("a"), "x\r\n\tä = 1\r\n", 8, "no", Some("yes".into())).to_string();
        assert_eq!(shown, "a:2:5: no; yes\n  2 |  ä = 1\n    |     ^");
    }

    #[test]
    fn an_offset_past_the_end_and_a_long_line_are_shown_all_the_same() {
        assert_eq!(Diagnostic::at(Path::new("a"), "x", 9, "no", None).column, 2);
        let long = Diagnostic::at(Path::new("a"), &"y\u{1b}".repeat(999), 999, "no", None);
        let excerpt = long.excerpt.unwrap();
        assert_eq!((excerpt.text.chars().count(), excerpt.before), (120, 60));
        assert!(!excerpt.text.contains('\u{1b}'));
        let message = Diagnostic::of_file(Path::new("a"), "\u{1b}[2J", None).to_string();
        assert_eq!(message, "a: \u{fffd}[2J");
    }
}
