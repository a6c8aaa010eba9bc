//! The statement that is sent at last, over what the shards have said, once the types of that are known.

use std::fmt::Write as _;

use tokio_postgres::types::{Kind, Type};

use super::Steps;

/// A piece of that statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is.
    Text(Box<str>),
    /// One of the shards' columns, from 0.
    Column(usize),
    /// One of those that stand behind the answer's own, from 0.
    Behind(usize),
    /// What a column of the answer is called; if none is, one of the shards' columns.
    Name { name: Box<str>, otherwise: Option<usize> },
    /// An aggregate of all rows.
    Folded(Folded),
}

/// An aggregate over what it is for each part of the rows: as PostgreSQL's combine functions do it
/// (<https://www.postgresql.org/docs/current/xaggr.html#XAGGR-PARTIAL-AGGREGATES>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Folded {
    Count(usize),
    Sum(usize),
    /// `numeric_avg` and its like divide the sum by the number of values.
    Average {
        sum: usize,
        count: usize,
    },
    /// The aggregate of the parts' aggregates is that of all.
    Same {
        function: Box<str>,
        column: usize,
    },
}

/// What is known once a shard has looked at its part.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'k> {
    /// Types of the shards' columns.
    pub types: &'k [u32],
    /// Their collations, as SQL has them; none where a type has none, or it is not determined.
    pub collations: &'k [Option<Box<str>>],
    /// What the columns of the answer are called.
    pub names: &'k [&'k str],
    /// How many parameters the client's statement has. Behind them come the shards' columns, each as an array.
    pub parameters: usize,
}

impl Steps {
    /// The statement over what the shards have said; `None` where it cannot be with such types.
    pub fn last(&self, shown: Shown<'_>) -> Option<String> {
        let mut text = String::from(if self.is_distinct { "SELECT DISTINCT " } else { "SELECT " });
        match &self.items {
            Some(items) if items.len() == shown.names.len() => {
                for (at, item) in items.iter().enumerate() {
                    comma(&mut text, at);
                    write_pieces(&mut text, item, shown)?;
                    write!(text, " AS {}", quoted(shown.names.get(at)?)).ok()?;
                }
            }
            None if shown.types.len() >= shown.names.len() => {
                for (at, name) in shown.names.iter().enumerate() {
                    comma(&mut text, at);
                    write!(text, "{} AS {}", column(at), quoted(name)).ok()?;
                }
            }
            _ => return None,
        }
        write_source(&mut text, shown)?;
        write_pieces(&mut text, &self.tail, shown)?;
        Some(text)
    }

    /// A question for the collations of these of the shards' columns, as a row. Nothing is read for it.
    pub fn collations(&self, asked: &[usize], columns: usize) -> String {
        let mut names = String::new();
        for at in 0..columns {
            comma(&mut names, at);
            names.push_str(&column(at));
        }
        let mut text = String::from("SELECT ");
        for (at, asked) in asked.iter().enumerate() {
            comma(&mut text, at);
            let (wanted, partial) = (column(*asked), &self.partial);
            text.push_str("pg_catalog.pg_collation_for((SELECT ");
            text.push_str(&format!("{wanted} FROM ({partial}\n) AS \"pgsluice\" ({names}) LIMIT 0))"));
        }
        text
    }
}

/// The shards' columns as a table, each with the collation that it had.
fn write_source(text: &mut String, shown: Shown<'_>) -> Option<()> {
    let (mut columns, mut arrays, mut names) = (String::new(), String::new(), String::new());
    for (at, oid) in shown.types.iter().enumerate() {
        let known = Type::from_oid(*oid).filter(|known| matches!(known.kind(), Kind::Simple | Kind::Range(_)))?;
        for list in [&mut columns, &mut arrays, &mut names] {
            comma(list, at);
        }
        let name = column(at);
        columns.push_str(&name);
        if let Some(Some(collation)) = shown.collations.get(at) {
            write!(columns, " COLLATE {collation} AS {name}").ok()?;
        }
        let parameter = shown.parameters + at + 1;
        write!(arrays, "pg_catalog.unnest(${parameter}::{}[])", type_name(&known)).ok()?;
        names.push_str(&name);
    }
    write!(text, " FROM (SELECT {columns} FROM ROWS FROM ({arrays}) AS \"pgsluice\" ({names})) AS \"pgsluice\"").ok()
}

fn write_pieces(text: &mut String, pieces: &[Piece], shown: Shown<'_>) -> Option<()> {
    for piece in pieces {
        match piece {
            Piece::Text(said) => text.push_str(said),
            Piece::Column(at) => text.push_str(&column(*at)),
            Piece::Behind(at) => text.push_str(&column(shown.names.len() + at)),
            Piece::Name { name, .. } if shown.names.contains(&&**name) => text.push_str(&quoted(name)),
            Piece::Name { otherwise, .. } => text.push_str(&column((*otherwise)?)),
            Piece::Folded(folded) => text.push_str(&folded.over(shown.types)?),
        }
    }
    Some(())
}

impl Folded {
    /// Over parts' values of such types; `None` where the sum of sums is another type's, or is not exact.
    fn over(&self, types: &[u32]) -> Option<String> {
        let type_of = |at: usize| types.get(at).and_then(|oid| Type::from_oid(*oid));
        Some(match self {
            Self::Count(at) => format!("COALESCE(pg_catalog.sum({}), 0)::pg_catalog.int8", column(*at)),
            Self::Sum(at) => {
                let summed = type_of(*at)
                    .filter(|known| [Type::INT8, Type::NUMERIC, Type::MONEY, Type::INTERVAL].contains(known))?;
                format!("pg_catalog.sum({})::{}", column(*at), type_name(&summed))
            }
            Self::Average { sum, count } => {
                type_of(*sum).filter(|known| [Type::INT8, Type::NUMERIC].contains(known))?;
                let (sum, count) = (column(*sum), column(*count));
                format!("(pg_catalog.sum({sum}) OPERATOR(pg_catalog./) pg_catalog.sum({count}))")
            }
            Self::Same { function, column: at } => format!("pg_catalog.{function}({})", column(*at)),
        })
    }
}

fn comma(text: &mut String, at: usize) {
    if at > 0 {
        text.push_str(", ");
    }
}

/// No column of the client's is called that.
fn column(at: usize) -> String {
    format!("\"pgsluice {}\"", at + 1)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn type_name(known: &Type) -> String {
    format!("pg_catalog.{}", quoted(known.name()))
}
