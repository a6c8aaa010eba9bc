//! `[audit]` and `[statements]`.

use toml::de::DeValue;

use super::choices::{AUDIT_EVENTS, AUDIT_STATEMENTS, AUDIT_TEXT};
use super::credentials::Surroundings;
use super::document::{Mistakes, Section, kind};
use super::error::Complaint;
use super::schema::{Audit, AuditEvents, AuditText, Statements};
use super::table_name::{TableName, table_name};
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

fn tables(value: &DeValue<'_>) -> Result<Vec<TableName>, Complaint> {
    let tables: Vec<TableName> = list(value)?.map(table_name).collect::<Result<_, _>>()?;
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
