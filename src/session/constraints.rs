//! Constraints that each shard enforces among its own rows only, and that would pass for more: DDL that makes one fails.
//!
//! What DDL makes is not read from its text: PostgreSQL has parsed it. On the first shard where it has run, in its
//! transaction, the catalog is asked which such constraints there are, and which were there before.

use serde_json::json;

use super::everywhere::Why;
use super::hand::texts;
use super::{Fault, Session};
use crate::commit::RunError;
use crate::config::Placement;
use crate::pool::quote_literal;
use crate::shard::sql::CONSTRAINTS;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// One of them.
#[derive(Debug)]
pub(super) struct Unfit {
    oid: String,
    /// Its table and name: a rebuilt index has another OID.
    identity: String,
    kind: String,
    name: String,
    table: String,
    /// The columns of the table's key; none where it has none.
    key: Option<String>,
    /// The table that a foreign key refers to.
    other: Option<String>,
    other_key: Option<String>,
    /// What a foreign key does to the shard key.
    action: Option<String>,
}

impl Session {
    /// All that there are, on the shard at hand, in the transaction that is open there.
    pub(super) async fn unfit_constraints(&mut self) -> Result<Result<Vec<Unfit>, Why>, Fault> {
        let sql = CONSTRAINTS.replace("{tables}", &quote_literal(&self.declared_tables()));
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        match server.run_own(&sql).await {
            Ok(own) => Ok(Ok(own.rows.iter().filter_map(|row| Unfit::read(row)).collect())),
            Err(RunError::Refused(refusal)) => {
                self.status = TransactionStatus::Failed;
                Ok(Err(Why::Refused(refusal.0.as_ref().into())))
            }
            Err(RunError::Lost(_)) => Err(Fault::ServerLost(None)),
        }
    }

    /// As JSON in ASCII: the session's encoding may be any.
    pub(super) fn declared_tables(&self) -> String {
        let config = self.proxy.config.load();
        let tables = config.tables.iter().map(|table| {
            let (place, key) = match &table.placement {
                Placement::Key(columns) => ("key".to_owned(), Some(columns)),
                Placement::Reference => ("reference".to_owned(), None),
                Placement::Shard(shard) => (format!("shard {shard}"), None),
            };
            json!({ "schema": table.name.schema, "name": table.name.name, "place": place, "key": key })
        });
        ascii(&serde_json::Value::from(tables.collect::<Vec<_>>()).to_string())
    }
}

/// The same JSON in ASCII.
pub(super) fn ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let units = &mut [0; 2];
            ascii.extend(character.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

impl Unfit {
    fn read(row: &[u8]) -> Option<Self> {
        let mut columns = texts(row).map(|text| text.map(str::to_owned));
        Some(Self {
            oid: columns.next()??,
            identity: columns.next()??,
            kind: columns.next()??,
            name: columns.next()??,
            table: columns.next()??,
            key: columns.next()?,
            other: columns.next()?,
            other_key: columns.next()?,
            action: columns.next()?,
        })
    }

    /// What the client is told of it.
    fn reply(&self) -> ErrorReply {
        let Self { kind, name, table, .. } = self;
        let reply = ErrorReply::error("0A000", format!("{kind} \"{name}\" of {table} cannot hold over all shards"));
        if let (Some(action), Some(key)) = (&self.action, &self.key) {
            return reply
                .detail(format!(
                    "{action} changes the shard key ({key}) of rows, and each shard leaves them where they are: others would \
                     look for them elsewhere."
                ))
                .hint(format!("Leave {action} out: NO ACTION and RESTRICT change nothing."));
        }
        match (&self.other, &self.key, &self.other_key) {
            (None, key, _) => unique_somewhere(kind, name, table, key.as_deref().unwrap_or_default()),
            (Some(other), Some(key), Some(other_key)) => reply
                .detail(format!(
                    "A row of {table} and the row of {other} that it refers to may lie on different shards, and each shard \
                     looks for it among its own rows only."
                ))
                .hint(format!(
                    "Refer from the shard key ({key}) of the one to the shard key ({other_key}) of the other, column by \
                     column and in types of one class, besides other columns."
                )),
            (Some(other), ..) => reply
                .detail(format!(
                    "Not every shard that has rows of {table} has those of {other}, and each shard looks for the row that is \
                     referred to among its own rows only."
                ))
                .hint("Refer to a reference table, or to one on the same shard; or leave the constraint out."),
        }
    }
}

/// What a client is told of a constraint or index that would be unique on each shard only.
pub(super) fn unique_somewhere(kind: &str, name: &str, table: &str, key: &str) -> ErrorReply {
    ErrorReply::error("0A000", format!("{kind} \"{name}\" of {table} cannot hold over all shards"))
        .detail(format!(
            "Rows of {table} lie on the shard that their shard key ({key}) says, and each shard looks for the same value among \
             its own rows only."
        ))
        .hint(format!("Put all columns of the shard key ({key}) into it, compared by equality."))
}

/// Why a statement must fail behind which there are these, where there were those before.
pub(super) fn objection(before: &[Unfit], after: &[Unfit]) -> Option<ErrorReply> {
    let was_there = |unfit: &Unfit| before.iter().any(|old| old.oid == unfit.oid || old.identity == unfit.identity);
    after.iter().find(|unfit| !was_there(unfit)).map(Unfit::reply)
}
