//! `[[tables]]`: on which shards a table's rows are.

use std::collections::HashMap;

use toml::de::DeValue;

use super::document::{Mistakes, Section, Setting, kind};
use super::error::{Complaint, nearest, quoted};
use super::keys::TABLES;
use super::schema::{Placement, Shard, Table};
use super::table_name::{TableName, part, table_name};
use super::values::{label, text};

/// `INDEX_MAX_KEYS`: what a primary key can have.
const MAX_COLUMNS: usize = 32;

/// `shards`: `None` where they are wrong, which has been said already.
pub(super) fn tables(mistakes: &mut Mistakes<'_>, file: &Section<'_>, shards: Option<&[Shard]>) -> Option<Vec<Table>> {
    let sections = file.tables(mistakes, "tables", &TABLES)?;
    let mut seen = HashMap::new();
    let tables: Vec<_> = sections.iter().map(|section| table(mistakes, section, shards, &mut seen)).collect();
    tables.into_iter().collect()
}

fn table(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    shards: Option<&[Shard]>,
    seen: &mut HashMap<String, Vec<(Option<String>, String)>>,
) -> Option<Table> {
    let name = section.required(mistakes, "name", "name = \"…\", the table's name", table_name);
    unique(mistakes, section, &name, seen);
    let key = section.optional(mistakes, "shard_key", columns);
    let reference = section.read(mistakes, "reference", false, boolean);
    let shard = section.optional(mistakes, "shard", label);
    if let (Some(Some(on)), Some(shards)) = (shard.sound(), shards)
        && shards.iter().all(|shard| shard.name != *on)
    {
        let names = || shards.iter().map(|shard| &*shard.name);
        let complaint = Complaint::new(format!("there is no shard {}", quoted(on)))
            .expected("the name of one of [[shards]]")
            .suggest(nearest(on, names()).map(str::to_owned));
        section.complain(mistakes, "shard", &shard, complaint);
        return None;
    }
    let (name, key, reference, shard) = (name.take(), key.take()?, reference.take()?, shard.take()?);
    let placement = match (key, reference, shard) {
        (Some(columns), false, None) => Placement::Key(columns),
        (None, true, None) => Placement::Reference,
        (None, false, Some(shard)) => Placement::Shard(shard),
        (None, false, None) => {
            return not_one(mistakes, section, "does not say where the table's rows are");
        }
        _ => return not_one(mistakes, section, "says more than once where the table's rows are"),
    };
    Some(Table { name: name?, placement })
}

fn not_one<T>(mistakes: &mut Mistakes<'_>, section: &Section<'_>, problem: &str) -> Option<T> {
    let expected = "one of shard_key = \"column\", reference = true, and shard = \"name\"";
    section.complain_whole(mistakes, Complaint::new(problem).expected(expected));
    None
}

/// A name without a schema stands for the table in every schema, so it excludes the others.
fn unique(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    name: &Setting<TableName>,
    seen: &mut HashMap<String, Vec<(Option<String>, String)>>,
) {
    let Some(table) = name.sound() else { return };
    let others = seen.entry(table.name.clone()).or_default();
    let clash = others.iter().find(|(schema, _)| schema.is_none() || table.schema.is_none() || *schema == table.schema);
    if let Some((_, first)) = clash {
        let complaint = Complaint::new(format!("{table} is the name of {first} already")).expected("each table once");
        section.complain(mistakes, "name", name, complaint);
        return;
    }
    others.push((table.schema.clone(), section.path().to_owned()));
}

fn boolean(value: &DeValue<'_>) -> Result<bool, Complaint> {
    value.as_bool().ok_or_else(|| Complaint::new(format!("is {}", kind(value))).expected("true or false"))
}

/// `"column"`, or a list of them.
fn columns(value: &DeValue<'_>) -> Result<Vec<String>, Complaint> {
    const FORM: &str = "a column's name as in SQL, such as \"account_id\", or a list of them";
    let column = |value: &DeValue<'_>| {
        let text = text(value, FORM)?;
        match part(text) {
            Some((name, "")) => Ok(name),
            _ => Err(Complaint::new(format!("{} is not a column's name", quoted(text))).expected(FORM)),
        }
    };
    let DeValue::Array(array) = value else { return Ok(vec![column(value)?]) };
    let columns: Vec<String> = array.iter().map(|entry| column(entry.get_ref())).collect::<Result<_, _>>()?;
    let is_twice = |(index, name): (usize, &String)| columns.iter().take(index).any(|other| other == name);
    if let Some((_, name)) = columns.iter().enumerate().find(|entry| is_twice(*entry)) {
        return Err(Complaint::new(format!("names {} twice", quoted(name))).expected("each column once"));
    }
    match columns.len() {
        0 => Err(Complaint::new("is empty").expected(FORM)),
        1..=MAX_COLUMNS => Ok(columns),
        count => Err(Complaint::new(format!("names {count} columns")).expected(format!("at most {MAX_COLUMNS}"))),
    }
}
