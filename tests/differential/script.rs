//! Statements written by hand, in files that can be read: one a line, a longer one goes on in lines that are indented. A
//! blank line ends a unit, which is a statement, or several that belong together such as a transaction. `--` begins a
//! comment. An indented `\bind` gives a statement parameters, and runs it; there may be several:
//!
//! ```text
//! SELECT v FROM ints WHERE id = $1 AND t = $2
//!     \bind int4 7 | text it's
//!     \bind int8 8 | text NULL
//! ```
//!
//! `!42501 ` in front of a statement: docs/ says that it may fail so over several shards.

/// A parameter: its type's name, and its value as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parameter {
    pub kind: String,
    pub value: Option<String>,
}

/// A statement, and what it is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub sql: String,
    /// One run each; none is one run without parameters.
    pub binds: Vec<Vec<Parameter>>,
    /// The SQLSTATE that docs/ names.
    pub documented: Option<String>,
}

/// Statements that belong together.
pub type Unit = Vec<Statement>;

/// Reads such a file.
pub fn units(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = vec![Vec::new()];
    for line in text.lines() {
        let unit = units.last_mut().expect("there is always one");
        if line.trim().is_empty() {
            units.push(Vec::new());
        } else if line.starts_with("--") {
        } else if !line.starts_with(' ') {
            unit.push(statement(line));
        } else {
            let last = unit.last_mut().unwrap_or_else(|| panic!("nothing goes on here: {line}"));
            match line.trim().strip_prefix("\\bind ") {
                Some(parameters) => last.binds.push(parameters.split(" | ").map(parameter).collect()),
                None => {
                    last.sql.push(' ');
                    last.sql.push_str(line.trim());
                }
            }
        }
    }
    units.retain(|unit| !unit.is_empty());
    units
}

fn statement(line: &str) -> Statement {
    let (documented, sql) = match line.strip_prefix('!') {
        Some(rest) => rest.split_once(' ').map(|(code, sql)| (Some(code.to_owned()), sql)).expect("a code and a blank"),
        None => (None, line),
    };
    Statement { sql: sql.trim_end().to_owned(), binds: Vec::new(), documented }
}

fn parameter(text: &str) -> Parameter {
    let (kind, value) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    Parameter { kind: kind.to_owned(), value: (value != "NULL").then(|| value.to_owned()) }
}

impl Statement {
    /// Whether its rows come in an order that it asks for: an ORDER BY that is in no brackets and no text.
    pub fn is_ordered(&self) -> bool {
        let (mut depth, mut is_quoted, mut outside) = (0, false, String::new());
        for letter in self.sql.chars() {
            match letter {
                '\'' => is_quoted = !is_quoted,
                '(' if !is_quoted => depth += 1,
                ')' if !is_quoted => depth -= 1,
                _ if !is_quoted && depth == 0 => outside.push(letter),
                _ => {}
            }
        }
        outside.contains("ORDER BY")
    }
}

#[test]
fn units_have_statements_with_parameters() {
    let text = "-- a comment\nSELECT $1,\n    (SELECT 2 ORDER BY 1)\n    \\bind int4 7 | text \n    \\bind int4 NULL | text a b\n\n\nBEGIN\n!42501 SELECT 1 ORDER BY 1\n";
    let units = units(text);
    assert_eq!(units.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    let first = &units[0][0];
    assert_eq!((first.sql.as_str(), first.is_ordered()), ("SELECT $1, (SELECT 2 ORDER BY 1)", false));
    let values: Vec<Option<&str>> = first.binds.iter().flatten().map(|bound| bound.value.as_deref()).collect();
    assert_eq!(values, [Some("7"), Some(""), None, Some("a b")]);
    let last = &units[1][1];
    assert_eq!((last.documented.as_deref(), last.is_ordered()), (Some("42501"), true));
}
