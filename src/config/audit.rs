//! `[audit]` and `[statements]`.

use std::fmt;

use toml::de::DeValue;

use super::choices::{AUDIT_EVENTS, AUDIT_STATEMENTS, AUDIT_TEXT};
use super::credentials::Surroundings;
use super::document::{Mistakes, Section, kind};
use super::error::{Complaint, quoted};
use super::schema::{Audit, AuditEvents, AuditTable, AuditText, Statements};
use super::values::{Choices, count_usize, size};

const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;

/// Tables that can be named.
const MAX_TABLES: usize = 1000;

pub(super) fn audit(mistakes: &mut Mistakes<'_>, section: &Section<'_>, around: Surroundings<'_>) -> Option<Audit> {
    let file = section.optional(mistakes, "file", |value| around.path(value));
    let events = section.read(mistakes, "events", vec![AuditEvents::All], |value| choices(value, &AUDIT_EVENTS));
    let statements = section.read(mistakes, "statements", Vec::new(), |value| choices(value, &AUDIT_STATEMENTS));
    let tables = section.read(mistakes, "tables", Vec::new(), tables);
    let text = section.read(mistakes, "text", AuditText::Normalised, |value| AUDIT_TEXT.parse(value));
    let rotate_size = section.read(mistakes, "rotate_size", 64 << 20, |value| size(value, 4 * KIB, 1024 * GIB));
    let rotate_keep = section.read(mistakes, "rotate_keep", 8, |value| count_usize(value, 1, 1000));
    let queue = section.read(mistakes, "queue", 16 << 20, |value| size(value, 64 * KIB, GIB));
    Some(Audit {
        file: file.take()?,
        events: events.take()?,
        statements: statements.take()?,
        tables: tables.take()?,
        text: text.take()?,
        rotate_size: rotate_size.take()?,
        rotate_keep: rotate_keep.take()?,
        queue: queue.take()?,
    })
}

pub(super) fn statements(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Statements> {
    let max = section.read(mistakes, "max", 1000, |value| count_usize(value, 10, 100_000));
    Some(Statements { max: max.take()? })
}

/// A list of values from a closed set.
fn choices<T: Copy + PartialEq>(value: &DeValue<'_>, choices: &Choices<T>) -> Result<Vec<T>, Complaint> {
    list(value)?.map(|value| choices.parse(value)).collect()
}

fn tables(value: &DeValue<'_>) -> Result<Vec<AuditTable>, Complaint> {
    let tables: Vec<AuditTable> = list(value)?.map(table).collect::<Result<_, _>>()?;
    if tables.len() > MAX_TABLES {
        let problem = format!("names {} tables", tables.len());
        return Err(Complaint::new(problem).expected(format!("at most {MAX_TABLES}")));
    }
    Ok(tables)
}

fn list<'v>(value: &'v DeValue<'_>) -> Result<impl Iterator<Item = &'v DeValue<'v>>, Complaint> {
    match value {
        DeValue::Array(array) => Ok(array.iter().map(|element| element.get_ref())),
        _ => Err(Complaint::new(format!("is {}", kind(value))).expected("a list, such as [\"a\", \"b\"]")),
    }
}

/// `name` or `schema.name`, quoted as in SQL.
fn table(value: &DeValue<'_>) -> Result<AuditTable, Complaint> {
    const FORM: &str = "a table's name as in SQL, such as \"accounts\" or \"public.accounts\"";
    let text = super::values::text(value, FORM)?;
    let wrong = || Complaint::new(format!("{} is not a table's name", quoted(text))).expected(FORM);
    let (first, rest) = part(text).ok_or_else(wrong)?;
    match rest.strip_prefix('.') {
        None if rest.is_empty() => Ok(AuditTable { schema: None, name: first }),
        None => Err(wrong()),
        Some(rest) => match part(rest) {
            Some((name, "")) => Ok(AuditTable { schema: Some(first), name }),
            _ => Err(wrong()),
        },
    }
}

/// One part of a name, folded as PostgreSQL folds it, and what follows.
fn part(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let is_part = |character: char| character.is_alphanumeric() || "_$".contains(character);
    let end = text.find(|character| !is_part(character)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins = name.starts_with(|first: char| first.is_alphabetic() || first == '_');
    begins.then(|| (name.to_ascii_lowercase(), rest))
}

impl fmt::Display for AuditTable {
    /// As SQL writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", as_written(schema))?;
        }
        f.write_str(&as_written(&self.name))
    }
}

fn as_written(name: &str) -> String {
    match part(name) {
        Some((folded, "")) if folded == name && !name.starts_with('"') => folded,
        _ => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_read_as_sql_reads_them() {
        let read = |text: &str| table(&DeValue::String(text.into())).map(|table| table.to_string()).ok();
        for (text, expected) in [
            ("accounts", Some("accounts")),
            ("Public.Accounts", Some("public.accounts")),
            ("\"Odd.Name\"", Some("\"Odd.Name\"")),
            ("s.\"a\"\"b\"", Some("s.\"a\"\"b\"")),
            ("\"plain\"", Some("plain")),
            ("größe", Some("größe")),
            ("", None),
            ("a.b.c", None),
            ("1a", None),
            ("a b", None),
            ("\"open", None),
            ("\"\"", None),
            ("a.", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }
}
