//! How far a shard is with a command that all of them run each on its own, as its catalog says: so that the same command,
//! sent again, goes on where it has failed.

use super::constraints::unique_somewhere;
use super::everywhere::Why;
use super::hand::texts;
use super::{Fault, Session};
use crate::commit::RunError;
use crate::pool::{quote_identifier, quote_literal};
use crate::route::places::Placement;
use crate::sql::{Name, Upkeep};
use crate::wire::ErrorReply;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is to be run there.
    Open,
    /// It has been.
    Done,
    /// It has failed there, and left something that is in its way: this removes it.
    Left(String),
}

impl Session {
    /// Asks the shard at hand.
    pub(super) async fn standing(&mut self, upkeep: &Upkeep) -> Result<Result<Standing, Why>, Fault> {
        let Some(sql) = question(upkeep) else { return Ok(Ok(Standing::Open)) };
        let rows = match self.ask(&sql).await? {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why)),
        };
        let mut columns = rows.first().into_iter().flat_map(|row| texts(row)).flatten();
        Ok(Ok(match (columns.next(), columns.next()) {
            (Some("done"), _) => Standing::Done,
            (Some("left"), Some(index)) => Standing::Left(format!("DROP INDEX CONCURRENTLY {index}")),
            _ => Standing::Open,
        }))
    }

    /// Why an index cannot be made: it would be unique on each shard only. Asks the shard at hand of which table it is.
    pub(super) async fn object_to_index(&mut self, upkeep: &Upkeep) -> Result<Result<(), Why>, Fault> {
        let Upkeep::CreateIndex { name, table, unique } = upkeep else { return Ok(Ok(())) };
        let Some(name) = name else { return Ok(Err(Why::Told(nameless()))) };
        let Some(columns) = unique else { return Ok(Ok(())) };
        let rows = match self.ask(&whole_of(table)).await? {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why)),
        };
        let Some((schema, whole)) = rows.first().and_then(|row| {
            let mut columns = texts(row).flatten();
            Some((columns.next()?.into(), columns.next()?.into()))
        }) else {
            return Ok(Ok(()));
        };
        let whole = Name { schema: Some(schema), name: whole };
        let known = self.rows.as_ref().and_then(|rows| rows.distribution.table(&whole).ok().flatten());
        let Some(Placement::Key(parts)) = known.map(|known| &known.placement) else { return Ok(Ok(())) };
        if parts.iter().all(|part| columns.contains(&part.name)) {
            return Ok(Ok(()));
        }
        let key: Vec<&str> = parts.iter().map(|part| &*part.name).collect();
        let table = format!("{table}");
        Ok(Err(Why::Told(unique_somewhere("unique index", name, &table, &key.join(", ")))))
    }

    async fn ask(&mut self, sql: &str) -> Result<Result<Vec<Box<[u8]>>, Why>, Fault> {
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        match server.run_own(sql).await {
            Ok(own) => Ok(Ok(own.rows)),
            Err(RunError::Refused(refusal)) => Ok(Err(Why::Refused(refusal.0.as_ref().into()))),
            Err(RunError::Lost(_)) => {
                let shard = self.server.take().map(|server| server.shard).unwrap_or_default();
                Ok(Err(Why::Told(ErrorReply::error("08006", format!("the connection to shard \"{shard}\" was lost")))))
            }
        }
    }
}

/// An index that is not valid is one's own that has failed, unless somebody is just making it: who does holds that lock.
fn question(upkeep: &Upkeep) -> Option<String> {
    let eq = "OPERATOR(pg_catalog.=)";
    match upkeep {
        Upkeep::CreateIndex { name, table, .. } => Some(format!(
            "SELECT CASE WHEN i.indisvalid THEN 'done' WHEN EXISTS (SELECT FROM pg_catalog.pg_locks AS l \
                 WHERE l.relation {eq} i.indrelid AND l.mode {eq} 'ShareUpdateExclusiveLock' AND l.granted AND l.database {eq} \
                 (SELECT oid FROM pg_catalog.pg_database WHERE datname {eq} pg_catalog.current_database())) \
                 THEN 'open' ELSE 'left' END, pg_catalog.format('%I.%I', n.nspname, x.relname) \
             FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid {eq} i.indexrelid \
             JOIN pg_catalog.pg_namespace AS n ON n.oid {eq} x.relnamespace \
             WHERE i.indrelid {eq} {}::pg_catalog.oid AND x.relname {eq} {}::pg_catalog.name",
            relation(table),
            quote_literal(name.as_deref()?),
        )),
        Upkeep::DropIndex(index) => {
            Some(format!("SELECT CASE WHEN {} IS NULL THEN 'done' ELSE 'open' END", relation(index)))
        }
        Upkeep::Detach { table, partition } => Some(format!(
            "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid {eq} {partition}::pg_catalog.oid \
             AND inhparent {eq} {table}::pg_catalog.oid) THEN 'open' ELSE 'done' END \
             WHERE {partition} IS NOT NULL AND {table} IS NOT NULL",
            partition = relation(partition),
            table = relation(table),
        )),
        Upkeep::Repeatable | Upkeep::OfServer => None,
    }
}

/// Schema and name of the table whose rows are placed: of a partition, the whole one.
fn whole_of(table: &Name) -> String {
    let eq = "OPERATOR(pg_catalog.=)";
    format!(
        "SELECT n.nspname, w.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_class AS w ON w.oid {eq} \
         CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid ELSE c.oid END \
         JOIN pg_catalog.pg_namespace AS n ON n.oid {eq} w.relnamespace WHERE c.oid {eq} {}::pg_catalog.oid",
        relation(table)
    )
}

/// As the session finds it by its name; NULL where it does not.
fn relation(name: &Name) -> String {
    let schema = name.schema.as_deref().map(|schema| format!("{}.", quote_identifier(schema))).unwrap_or_default();
    format!("pg_catalog.to_regclass({})", quote_literal(&format!("{schema}{}", quote_identifier(&name.name))))
}

fn nameless() -> ErrorReply {
    ErrorReply::error("0A000", "CREATE INDEX CONCURRENTLY over several shards needs the index's name")
        .detail("By its name it is known on which shards the index is there when the statement is sent again.")
        .hint("CREATE INDEX CONCURRENTLY name ON …")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_where_they_stand() {
        let name = Name { schema: Some("S".into()), name: "it's \"a\"".into() };
        assert_eq!(relation(&name), r#"pg_catalog.to_regclass('"S"."it''s ""a"""')"#);
    }
}
