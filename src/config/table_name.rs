//! Names of tables in the config, read and folded as SQL's are.

use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;

use super::error::{Complaint, quoted};
use super::values::text;

/// `"name"`, in whatever schema, or `"schema.name"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// None: any.
    pub schema: Option<String>,
    /// As PostgreSQL keeps it: unquoted names are in lower case.
    pub name: String,
}

/// The text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a table's name as in SQL, such as accounts or public.accounts")]
pub struct UnfitTableName;

impl FromStr for TableName {
    type Err = UnfitTableName;

    /// `name` or `schema.name`, quoted as in SQL.
    fn from_str(text: &str) -> Result<Self, UnfitTableName> {
        let (first, rest) = part(text).ok_or(UnfitTableName)?;
        match rest.strip_prefix('.') {
            None if rest.is_empty() => Ok(Self { schema: None, name: first }),
            None => Err(UnfitTableName),
            Some(rest) => match part(rest) {
                Some((name, "")) => Ok(Self { schema: Some(first), name }),
                _ => Err(UnfitTableName),
            },
        }
    }
}

/// As [`TableName::from_str`].
pub(super) fn table_name(value: &DeValue<'_>) -> Result<TableName, Complaint> {
    const FORM: &str = "a table's name as in SQL, such as \"accounts\" or \"public.accounts\"";
    let text = text(value, FORM)?;
    text.parse().map_err(|_| Complaint::new(format!("{} is not a table's name", quoted(text))).expected(FORM))
}

/// One part of a name, folded as PostgreSQL folds it, and what follows.
pub(super) fn part(text: &str) -> Option<(String, &str)> {
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

impl fmt::Display for TableName {
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
        let read = |text: &str| table_name(&DeValue::String(text.into())).map(|table| table.to_string()).ok();
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
