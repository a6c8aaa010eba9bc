//! Commands that a server runs in no transaction block, or that tend its files and not its rows: what is to be known of them
//! where several servers run them, each on its own.
//!
//! Read from their tokens. What is not understood counts as [`Upkeep::Repeatable`]: a server says what is wrong with it.

use super::{lexer::TokenKind, statement::Name, tokens::Cursor};

/// Such a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    /// CREATE INDEX CONCURRENTLY.
    CreateIndex {
        /// `None`: PostgreSQL chooses it.
        name: Option<Box<str>>,
        /// Of which table.
        table: Name,
        /// Of a unique one: its columns, without expressions and what has a collation of its own.
        unique: Option<Box<[Box<str>]>>,
    },
    /// DROP INDEX CONCURRENTLY.
    DropIndex(Name),
    /// ALTER TABLE … DETACH PARTITION … CONCURRENTLY.
    Detach {
        /// The partitioned table.
        table: Name,
        /// Its partition.
        partition: Name,
    },
    /// VACUUM, ANALYZE, CLUSTER, REINDEX: run once more it does the same again.
    Repeatable,
    /// CREATE and DROP DATABASE and TABLESPACE.
    OfServer,
}

/// What such a command is, with `cursor` behind its first word.
pub(super) fn upkeep(leading: &str, cursor: Cursor<'_>) -> Option<Upkeep> {
    match leading {
        "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "repack" => Some(Upkeep::Repeatable),
        "create" | "drop" if cursor.is("database") || cursor.is("tablespace") => Some(Upkeep::OfServer),
        "create" => create_index(cursor),
        "drop" => drop_index(cursor),
        "alter" => detach(cursor),
        _ => None,
    }
}

fn create_index(mut cursor: Cursor<'_>) -> Option<Upkeep> {
    let is_unique = cursor.take("unique");
    if !cursor.take_all(&["index", "concurrently"]) {
        return None;
    }
    let mut understood = || {
        cursor.take_all(&["if", "not", "exists"]);
        let name = if cursor.is("on") { None } else { Some(cursor.ident()?.0) };
        if !cursor.take("on") {
            return None;
        }
        cursor.take("only");
        let table = cursor.name()?;
        if cursor.take("using") {
            cursor.ident()?;
        }
        let columns = cursor.parenthesised()?;
        Some(Upkeep::CreateIndex { name, table, unique: is_unique.then(|| plain_columns(columns)) })
    };
    Some(understood().unwrap_or(Upkeep::Repeatable))
}

/// The columns of an index that stand there as they are.
fn plain_columns(mut list: Cursor<'_>) -> Box<[Box<str>]> {
    let mut columns = Vec::new();
    while !list.at_end() {
        let column = list.ident().map(|(name, _)| name);
        let is_plain = !list.is_punct(0, "(") && !list.is_punct(0, ".") && !list.is("collate");
        columns.extend(column.filter(|_| is_plain));
        while !list.at_end() && !list.take_punct(",") {
            if list.parenthesised().is_none() {
                list.next();
            }
        }
    }
    columns.into()
}

fn drop_index(mut cursor: Cursor<'_>) -> Option<Upkeep> {
    if !cursor.take_all(&["index", "concurrently"]) {
        return None;
    }
    cursor.take_all(&["if", "exists"]);
    let name = cursor.name().filter(|_| !cursor.is_punct(0, ","));
    Some(name.map_or(Upkeep::Repeatable, Upkeep::DropIndex))
}

fn detach(mut cursor: Cursor<'_>) -> Option<Upkeep> {
    if !cursor.take("table") {
        return None;
    }
    cursor.take_all(&["if", "exists"]);
    cursor.take("only");
    let table = cursor.name()?;
    if cursor.peek().is_some_and(|token| token.kind == TokenKind::Operator) {
        cursor.take_operator("*");
    }
    if !cursor.take_all(&["detach", "partition"]) {
        return None;
    }
    let partition = cursor.name()?;
    cursor.take("concurrently").then_some(Upkeep::Detach { table, partition })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyse;

    fn of(sql: &str) -> Option<Upkeep> {
        analyse(sql).statements[0].upkeep.as_deref().cloned()
    }

    fn name(schema: Option<&str>, name: &str) -> Name {
        Name { schema: schema.map(Into::into), name: name.into() }
    }

    #[test]
    fn indexes_are_known_by_name() {
        let create = |index: Option<&str>, table, unique: Option<&[&str]>| {
            let unique = unique.map(|columns| columns.iter().map(|column| (*column).into()).collect());
            Some(Upkeep::CreateIndex { name: index.map(Into::into), table, unique })
        };
        for (sql, expected) in [
            ("CREATE INDEX CONCURRENTLY i ON t (a)", create(Some("i"), name(None, "t"), None)),
            (
                "create index concurrently if not exists \"I\" on only s.t using gin (a)",
                create(Some("I"), name(Some("s"), "t"), None),
            ),
            ("CREATE INDEX CONCURRENTLY ON t (a)", create(None, name(None, "t"), None)),
            (
                "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a, lower(b), (c), d DESC NULLS LAST, e COLLATE \"C\", f text_ops, g opts(x = 1)) INCLUDE (h)",
                create(Some("i"), name(None, "t"), Some(&["a", "d", "f", "g"])),
            ),
            ("CREATE INDEX CONCURRENTLY i", Some(Upkeep::Repeatable)),
            ("CREATE INDEX i ON t (a)", None),
            ("CREATE UNIQUE INDEX i ON t (a)", None),
            ("DROP INDEX CONCURRENTLY IF EXISTS s.i", Some(Upkeep::DropIndex(name(Some("s"), "i")))),
            ("DROP INDEX CONCURRENTLY i, j", Some(Upkeep::Repeatable)),
            ("DROP INDEX i", None),
        ] {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_a_server_does_by_itself() {
        let detached = Upkeep::Detach { table: name(Some("s"), "t"), partition: name(None, "p") };
        for (sql, expected) in [
            ("ALTER TABLE s.t DETACH PARTITION p CONCURRENTLY", Some(detached)),
            ("ALTER TABLE s.t DETACH PARTITION p", None),
            ("ALTER TABLE t ADD a int", None),
            ("VACUUM (VERBOSE) t", Some(Upkeep::Repeatable)),
            ("analyze", Some(Upkeep::Repeatable)),
            ("CLUSTER t USING i", Some(Upkeep::Repeatable)),
            ("REINDEX (CONCURRENTLY) TABLE t", Some(Upkeep::Repeatable)),
            ("CREATE DATABASE d", Some(Upkeep::OfServer)),
            ("DROP TABLESPACE x", Some(Upkeep::OfServer)),
            ("ALTER DATABASE d SET x = 1", None),
            ("CREATE TABLE t (a int)", None),
            ("EXPLAIN ANALYZE SELECT 1", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }
}
