//! What is wrong in a config file, said so that it can be mended: where, what, and what would be right.
//!
//! All mistakes of a file are reported together, in the file's order. Nothing here ever holds the
//! text of a secret: whoever makes a [`Complaint`] about one says what is wrong with it in general words.

use std::fmt;

use serde::Serialize;

/// A place in the file, as editors count it: both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters, a tab being one.
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where; `None` if the file could not even be read.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// Which key: `pool.size`, `shards[0].nodes[1]`.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The nearest thing that would be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// Every mistake of one file, in the file's order. There is at least one.
///
/// `Display` prints one line for each: `FILE:LINE:COLUMN: <key>: <problem>; expected …; did you mean …?`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    pub(super) fn new(file: &str, mistakes: Vec<Mistake>) -> Self {
        Self { file: file.to_owned(), mistakes }
    }

    /// The one mistake of a file that is no readable text at all.
    pub(super) fn unreadable(file: &str, place: Option<Place>, problem: String) -> Self {
        let mistake = Mistake { place, key: String::new(), problem, expected: None, suggestion: None };
        Self::new(file, vec![mistake])
    }

    /// The file's name, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What is wrong with it.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let gap = if mistake.place.is_some() { "" } else { " " };
            write!(f, "{separator}{}:{gap}{mistake}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What a value's parser has against it; the section reader adds the key and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) expected: Option<String>,
    pub(super) suggestion: Option<String>,
}

impl Complaint {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), expected: None, suggestion: None }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

/// A value as a message may show it: in quotes, without control characters, cut short.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    // `escape_debug` also escapes both kinds of quotes; between double quotes the single one needs none.
    format!("\"{}\"", shown.replace("\\'", "'"))
}

/// The nearest of `candidates`, if any is near enough to be what was meant.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let allowed = (text.chars().count() / 3).max(1);
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&text, candidate);
    let slip = candidates.iter().copied().min_by_key(distance).filter(|candidate| distance(candidate) <= allowed);
    slip.or_else(|| {
        // An abbreviation, or a word too many: `idle` for `idle_timeout`, `max_size` for `size`. Only if it
        // can be just one.
        let part = |candidate: &&str| {
            text.len() >= 3 && candidate.contains(&text) || candidate.len() >= 3 && text.contains(*candidate)
        };
        let mut parts = candidates.iter().copied().filter(part);
        parts.next().filter(|_| parts.next().is_none())
    })
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn one_of<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let words: Vec<S> = words.into_iter().collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_leaves_strangers_alone() {
        let keys = ["mode", "size", "checkout_timeout", "idle_timeout"];
        let cases = [
            ("sise", Some("size")),
            ("Size", Some("size")),
            ("checkout_timout", Some("checkout_timeout")),
            ("checkout-timeout", Some("checkout_timeout")),
            ("idle", Some("idle_timeout")),
            ("max_size", Some("size")),
            ("timeout", None),
            ("colour", None),
            ("x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(nearest(text, keys), expected, "{text}");
        }
    }

    #[test]
    fn quoted_shows_no_control_characters_and_is_short() {
        assert_eq!(quoted("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), 63);
    }

    #[test]
    fn one_of_reads_as_a_sentence() {
        assert_eq!(one_of(["a"]), "a");
        assert_eq!(one_of(["a", "b"]), "a or b");
        assert_eq!(one_of(["a", "b", "c"]), "a, b or c");
    }
}
