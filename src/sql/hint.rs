//! Hints: `/* pgsluice: key=value, key=value */` in front of a statement, for this statement alone.
//!
//! Here they are only taken apart; what the keys mean, and whether they may be used, is the session's affair.

/// What a hint's comment begins with.
const MARK: &[u8] = b"pgsluice:";

/// One `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// In lower case.
    pub key: Box<str>,
    /// Without the quotes that it may stand in.
    pub value: Box<str>,
}

/// The inside of the text's hint, behind `pgsluice:`. It stands before the first token; other comments may
/// stand before it.
pub(super) fn find(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.trim_ascii_start();
    // In nearly every text this is all that is looked at.
    while rest.starts_with(b"/*") {
        let end = rest.windows(2).position(|pair| pair == b"*/")?;
        let inside = rest.get(2..end)?.trim_ascii();
        if let Some(hint) = inside.strip_prefix(MARK) {
            return Some(hint);
        }
        rest = rest.get(end + 2..)?.trim_ascii_start();
    }
    None
}

/// The text's hints, in order; a part that is no `key=value` is a key without a value. Commas within quotes belong to the
/// value, and so do those of a session token, which is a list.
pub(super) fn hints(text: &[u8]) -> Box<[Hint]> {
    let Some(inside) = find(text) else { return [].into() };
    let inside = String::from_utf8_lossy(inside);
    let (mut is_quoted, mut last) = (false, ' ');
    let parts = inside.split(|character: char| {
        if character == '\'' {
            is_quoted = !is_quoted && last == '=';
        }
        if !character.is_whitespace() {
            last = character;
        }
        character == ',' && !is_quoted
    });
    let mut hints: Vec<Hint> = Vec::new();
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = match (part.split_once('='), hints.last_mut()) {
            (Some(pair), _) => pair,
            (None, Some(token)) if *token.key == *"session_token" && part.contains(':') => {
                token.value = format!("{},{part}", token.value).into();
                continue;
            }
            (None, _) => (part, ""),
        };
        let value = value.trim();
        let unquoted = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        hints.push(Hint { key: key.trim().to_ascii_lowercase().into(), value: unquoted.unwrap_or(value).into() });
    }
    hints.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_taken_apart() {
        let cases: [(&str, &[(&str, &str)]); 13] = [
            ("/* pgsluice: route=primary */ SELECT 1", &[("route", "primary")]),
            (
                "  /*pgsluice:Consistency = Eventual,route=auto*/select 1",
                &[("consistency", "Eventual"), ("route", "auto")],
            ),
            ("/* app */ /* pgsluice: max_staleness = '5 s' */ SELECT 1", &[("max_staleness", "5 s")]),
            ("/* pgsluice: unheard */ SELECT 1", &[("unheard", "")]),
            (
                "/* pgsluice: session_token='a:1:0/1,b:1:0/2', route=auto */ SELECT 1",
                &[("session_token", "a:1:0/1,b:1:0/2"), ("route", "auto")],
            ),
            (
                "/* pgsluice: session_token=a:1:0/1, b:1:0/2, route=auto */ SELECT 1",
                &[("session_token", "a:1:0/1,b:1:0/2"), ("route", "auto")],
            ),
            (
                "/* pgsluice: session_key=o'neill, route=auto */ SELECT 1",
                &[("session_key", "o'neill"), ("route", "auto")],
            ),
            ("/* pgsluice: session_token=a:1:0/1, more */ SELECT 1", &[("session_token", "a:1:0/1"), ("more", "")]),
            ("/* pgsluice: , */ SELECT 1", &[]),
            ("SELECT 1 /* pgsluice: route=primary */", &[]),
            ("/* pgsluice route=primary */ SELECT 1", &[]),
            ("/* pgsluice: route=primary SELECT 1", &[]),
            ("-- pgsluice: route=primary\nSELECT 1", &[]),
        ];
        for (text, expected) in cases {
            let found = hints(text.as_bytes());
            let found: Vec<_> = found.iter().map(|hint| (&*hint.key, &*hint.value)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
