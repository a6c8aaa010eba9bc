//! Tables that the open transaction has itself made or changed, as it sees them.
//!
//! What is known of the database's rows was read from what is committed ([`crate::monitor::distribution_rows`]). Behind DDL
//! of its own a transaction knows more, and nobody else does. So before its next statement that is placed by a table, that
//! table is asked for over the transaction's own connections: what all of them tell alike counts, up to the transaction's
//! end, and is asked for anew behind further DDL and behind ROLLBACK TO. Behind the end the session waits, before it places
//! anything again, until the monitor has read what is committed. A session that runs no DDL pays one comparison.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::constraints::ascii;
use super::everywhere::Why;
use super::fence::outdated;
use super::hand::values;
use super::place::Place;
use super::scatter::ends_ready;
use super::serve::Work;
use super::understand::Understood;
use super::{Fault, Session};
use crate::commit::RunError;
use crate::monitor::Rows;
use crate::monitor::distribution_rows::{ColumnRow, columns, tables};
use crate::pool::quote_literal;
use crate::route::places::{Placement, Table};
use crate::shard::Charset;
use crate::sql::{Kind, Statement};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// How long it is waited for that the monitor has read what is committed: more than until it tries again.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// What the session's own DDL has made of the declared tables.
#[derive(Debug, Default)]
pub(super) enum Made {
    /// There was none; or everybody knows it.
    #[default]
    Nothing,
    /// In the open transaction; it has not been looked at since.
    Unread,
    /// This, in the open transaction.
    Read {
        /// What counts in this transaction.
        rows: Arc<Rows>,
        /// The names of the tables that were read.
        names: Vec<Box<str>>,
    },
    /// The transaction is over, and what everybody knows may have been read before its end.
    Over,
}

impl Made {
    /// The transaction has run DDL.
    pub(super) fn change(&mut self) {
        *self = Self::Unread;
    }

    /// Some of it may be undone; or what it was read together with is not current any more.
    pub(super) fn reconsider(&mut self) {
        if matches!(self, Self::Read { .. }) {
            *self = Self::Unread;
        }
    }

    /// The transaction is over.
    pub(super) fn end(&mut self) {
        if !self.is_nothing() {
            *self = Self::Over;
        }
    }

    /// Whether all that there is to know is known to everybody.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn has_read(&self, name: &str) -> bool {
        matches!(self, Self::Read { names, .. } if names.iter().any(|read| **read == *name))
    }
}

/// How messages are to be understood.
enum Seeing {
    /// As they are already.
    AsUnderstood,
    /// By what is known now.
    Anew,
}

impl Session {
    /// Has the messages understood by the tables as the open transaction sees them, where it has changed some. False where
    /// a server could not be asked, and the client was told why.
    pub(super) async fn see_made(&mut self, work: &Work, understood: &mut Understood) -> Result<bool, Fault> {
        let seeing = match (&self.across.made, self.status) {
            (_, TransactionStatus::Failed) => Ok(Seeing::AsUnderstood),
            (Made::Over, _) => self.await_committed(work, understood).await,
            (Made::Unread | Made::Read { .. }, TransactionStatus::Transaction) => {
                self.read_unread(work, understood).await?
            }
            _ => Ok(Seeing::AsUnderstood),
        };
        match seeing {
            Ok(Seeing::AsUnderstood) => {}
            Ok(Seeing::Anew) => {
                *understood = Understood { asked_at: understood.asked_at, ..self.understand(work)? };
            }
            Err(Why::Told(reply)) => understood.place = Place::Refused(Box::new(reply)),
            Err(why) => {
                self.fail(work, false, why).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the session has committed is to be read by the monitor before anything is placed by it.
    async fn await_committed(&mut self, work: &Work, understood: &Understood) -> Result<Seeing, Why> {
        if !goes_on(work) && self.tables_of(understood).is_empty() {
            return Ok(Seeing::AsUnderstood);
        }
        if !self.await_ddl(READ_LIMIT).await && self.proxy.catalogs().is_behind(&self.identity.database) {
            return Err(Why::Told(not_read()));
        }
        self.take_rows().await;
        // An open transaction has kept what it had where the bucket map has changed since.
        let known = self.known_rows().map(|rows| rows.versions().known);
        if known.is_some_and(|known| known != self.known_version()) {
            return Err(Why::Told(outdated()));
        }
        self.across.made = Made::Nothing;
        Ok(Seeing::Anew)
    }

    async fn read_unread(&mut self, work: &Work, understood: &Understood) -> Result<Result<Seeing, Why>, Fault> {
        let is_back = goes_back(understood.statements())
            || self.in_batch && goes_back(self.executed.iter().flat_map(|analysis| &analysis.statements));
        let mut names = self.tables_of(understood);
        if is_back || self.in_batch {
            names.retain(|name| is_back || !self.across.made.has_read(name));
            return Ok(if names.is_empty() { Ok(Seeing::AsUnderstood) } else { Err(Why::Told(uncertain())) });
        }
        if goes_on(work) {
            // What else comes cannot be asked for when it comes.
            names = self.proxy.config.load().tables.iter().map(|table| table.name.name.as_str().into()).collect();
        }
        names.retain(|name| !self.across.made.has_read(name));
        if names.is_empty() {
            return Ok(Ok(Seeing::AsUnderstood));
        }
        Ok(self.read_made(names).await?.map(|()| Seeing::Anew))
    }

    /// The names of the declared tables that the messages are placed by.
    fn tables_of(&self, understood: &Understood) -> Vec<Box<str>> {
        let config = self.proxy.config.load();
        let placed = understood.analyses.iter().filter(|analysis| self.wished_shard(analysis).is_none());
        let placed = placed.flat_map(|analysis| &analysis.statements);
        let placed = placed.filter(|statement| matches!(statement.kind, Kind::Query | Kind::Write));
        let used = placed.filter_map(|statement| statement.uses.as_deref()).flat_map(|uses| &uses.tables);
        let mut names: Vec<Box<str>> = used.map(|used| used.relation.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| config.tables.iter().any(|table| *table.name.name == **name));
        names
    }

    /// Asks the transaction's connections for these tables, and goes by what they say.
    async fn read_made(&mut self, mut names: Vec<Box<str>>) -> Result<Result<(), Why>, Fault> {
        let Some(base) = self.rows.clone() else { return Ok(Ok(())) };
        let mut seen = match self.ask_for(&names).await? {
            Ok(seen) => seen,
            Err(why) => return Ok(Err(why)),
        };
        let is_asked_for = |table: &Table| names.contains(&table.name);
        for shard in self.proxy.topology.load().shards.iter().map(|shard| &shard.name) {
            // DDL for all shards has brought the transaction to all of them; by hand it may be on some.
            if seen.iter().all(|(known, _)| known != shard) {
                seen.push((Arc::clone(shard), base.distribution.tables().cloned().collect()));
            }
        }
        for (_, tables) in &mut seen {
            tables.retain(is_asked_for);
        }
        let agreed = match agree(&seen) {
            Ok(agreed) => agreed,
            Err(table) => return Ok(Err(Why::Told(differs(&table)))),
        };
        if let Made::Read { names: before, .. } = &mut self.across.made {
            names.append(before);
        }
        let distribution = Arc::new(base.distribution.with(agreed));
        let rows = Arc::new(Rows { distribution, ..Rows::clone(&base) });
        self.rows = Some(Arc::clone(&rows));
        self.across.made = Made::Read { rows, names };
        Ok(Ok(()))
    }

    /// What the declared tables with these names are like on each shard that the transaction has come to.
    async fn ask_for(&mut self, names: &[Box<str>]) -> Result<Result<Vec<Seen>, Why>, Fault> {
        let names = quote_literal(&ascii(&json!(names).to_string()));
        let sql = format!(
            "SAVEPOINT pgsluice_tables; SET LOCAL search_path = pg_catalog, pg_temp; {}; \
             ROLLBACK TO SAVEPOINT pgsluice_tables; RELEASE SAVEPOINT pgsluice_tables",
            columns(&format!("ARRAY(SELECT json_array_elements_text({names}))"))
        );
        let asked = self.server.iter_mut().chain(&mut self.across.others).map(|server| async {
            let told = server.run_own(&sql).await;
            (Arc::clone(&server.shard), told)
        });
        let told = join_all(asked).await;
        let (config, charset) = (self.proxy.config.load(), self.charset());
        let mut seen = Vec::with_capacity(told.len());
        for (shard, told) in told {
            match told {
                Ok(own) => {
                    let rows = own.rows.iter().map(|row| column(row, charset)).collect::<Option<Vec<_>>>();
                    let Some(rows) = rows else { return Ok(Err(Why::Told(uncertain()))) };
                    seen.push((shard, tables(&config, rows)));
                }
                Err(RunError::Refused(refusal)) => {
                    self.status = TransactionStatus::Failed;
                    return Ok(Err(Why::Refused(refusal.0.as_ref().into())));
                }
                Err(RunError::Lost(_)) => return Err(Fault::ServerLost(None)),
            }
        }
        Ok(Ok(seen))
    }
}

/// A shard, and what tables are like there.
type Seen = (Arc<str>, Vec<Table>);

/// What the tables are like for who sends statements to all shards; or the name of one that is not the same there.
fn agree(seen: &[Seen]) -> Result<Vec<Table>, Box<str>> {
    let Some((_, first)) = seen.first() else { return Ok(Vec::new()) };
    let agreed = first.iter().map(|table| {
        let is_it = |other: &&Table| other.schema == table.schema && other.name == table.name;
        if let Placement::Shard(shard) = &table.placement {
            // What the others have by that name is nobody's.
            let there = seen.iter().find(|(known, _)| known == shard);
            return Ok(there.and_then(|(_, tables)| tables.iter().find(is_it)).unwrap_or(table).clone());
        }
        let is_same = seen.iter().all(|(_, tables)| tables.iter().find(is_it) == Some(table));
        if is_same { Ok(table.clone()) } else { Err(table.name.clone()) }
    });
    agreed.collect()
}

/// Whether DDL may be undone by one of them, or be everybody's.
fn goes_back<'s>(mut statements: impl Iterator<Item = &'s Statement>) -> bool {
    statements.any(|statement| {
        matches!(
            statement.kind,
            Kind::Savepoint { rollback: true } | Kind::Commit { .. } | Kind::Rollback { .. } | Kind::TwoPhase
        )
    })
}

/// Whether they are a part of a pipeline of which more comes.
fn goes_on(work: &Work) -> bool {
    match work {
        Work::Messages { bytes, .. } => !ends_ready(bytes),
        // It goes nowhere by its tables.
        Work::Long(_) => false,
    }
}

/// A row of [`columns`], as text. A name that may be another one in the session's encoding becomes one that no statement
/// gives.
fn column(row: &[u8], charset: Charset) -> Option<ColumnRow> {
    let mut values = values(row);
    let mut text = || {
        let value = values.next()??;
        let is_known = charset == Charset::Utf8 || value.is_ascii();
        let known = std::str::from_utf8(value).ok().filter(|_| is_known).map(Into::into);
        Some(known.unwrap_or_else(|| String::from_utf8_lossy(value).replace(|of: char| !of.is_ascii(), "\u{FFFD}")))
    };
    Some(ColumnRow {
        schema: text()?.into(),
        table: text()?.into(),
        name: text()?.into(),
        type_oid: text()?.parse().ok()?,
        typmod: text()?.parse().ok()?,
        is_deterministic: text()? == "t",
        is_table: text()? == "t",
        // NULL where it is not known.
        is_bytewise: text().is_some_and(|is| is == "t"),
        is_identity: text()? == "t",
        made_by: text().map(Into::into),
    })
}

fn uncertain() -> ErrorReply {
    ErrorReply::error("0A000", "what this transaction has made of its tables is not known here")
        .detail("It has changed tables, and this came in one message or pipeline with ROLLBACK TO, or with its end.")
        .hint("Send ROLLBACK TO SAVEPOINT, COMMIT and the like in messages of their own.")
}

fn not_read() -> ErrorReply {
    ErrorReply::error("57P03", "what this session has made of its tables has not been read yet")
        .detail("Behind DDL pgsluice reads the tables anew, and goes by nothing older. The server did not let it, or not in time.")
        .hint("Try again in a moment.")
}

fn differs(table: &str) -> ErrorReply {
    ErrorReply::error("0A000", format!("table \"{table}\" is not the same on all shards"))
        .detail("This transaction has changed it on some of them, by name.")
        .hint("Change it on the others too; or name the shard for this statement: /* pgsluice: shard=name */.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut row = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            row.extend(value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
            row.extend_from_slice(value.unwrap_or_default());
        }
        row
    }

    fn described(name: &[u8], made_by: Option<&[u8]>) -> Vec<u8> {
        let texts: [&[u8]; 6] = [b"public", b"t", name, b"20", b"-1", b"t"];
        let mut values: Vec<Option<&[u8]>> = texts.into_iter().map(Some).collect();
        values.extend([Some(&b"t"[..]), None, Some(b"f"), made_by]);
        row(&values)
    }

    #[test]
    fn columns_are_read_from_texts() {
        let read = column(&described(b"id", Some(b"nextval('s'::regclass)")), Charset::Other).unwrap();
        assert_eq!((&*read.schema, &*read.table, &*read.name), ("public", "t", "id"));
        assert_eq!((read.type_oid, read.typmod, read.made_by.as_deref()), (20, -1, Some("nextval('s'::regclass)")));
        assert!(read.is_deterministic && read.is_table && !read.is_bytewise && !read.is_identity);
        assert!(column(&described(b"id", None), Charset::Other).unwrap().made_by.is_none());
        assert!(column(&row(&[Some(b"public"), None]), Charset::Utf8).is_none());
    }

    #[test]
    fn a_name_in_an_encoding_that_is_not_followed_is_nobodys() {
        let utf8 = "größe".as_bytes();
        assert_eq!(&*column(&described(utf8, None), Charset::Utf8).unwrap().name, "größe");
        for name in [utf8, b"gr\xf6\xdfe"] {
            let read = column(&described(name, None), Charset::Other).unwrap();
            assert!(read.name.contains('\u{FFFD}') && !read.name.contains('ö'), "{}", read.name);
        }
    }

    fn table(name: &str, type_oid: u32, placement: &str) -> Table {
        let toml = format!(
            "[auth]\nmethod = \"trust\"\n[[shards]]\nname = \"a\"\nnodes = [\"10.0.0.1:1\"]\n\
             [[shards]]\nname = \"b\"\nnodes = [\"10.0.0.2:1\"]\n\
             [[tables]]\nname = \"{name}\"\n{placement}\n"
        );
        let config = crate::config::Config::parse(&toml, std::path::Path::new("."), "test.toml").unwrap();
        let read = column(&described(b"id", None), Charset::Utf8).unwrap();
        tables(&config, [ColumnRow { table: name.into(), type_oid, ..read }]).remove(0)
    }

    #[test]
    fn what_all_shards_tell_alike_counts() {
        let (key, other) = (table("t", 20, "shard_key = \"id\""), table("t", 25, "shard_key = \"id\""));
        let seen = |a: &Table, b: &Table| [("a".into(), vec![a.clone()]), ("b".into(), vec![b.clone()])];
        assert_eq!(agree(&seen(&key, &key)), Ok(vec![key.clone()]));
        assert_eq!(agree(&seen(&key, &other)), Err("t".into()));
        assert_eq!(agree(&[("a".into(), vec![key.clone()]), ("b".into(), vec![])]), Err("t".into()));
        // Of one that is on one shard, that one's word.
        let (here, there) = (table("t", 20, "shard = \"b\""), table("t", 25, "shard = \"b\""));
        assert_eq!(agree(&seen(&here, &there)), Ok(vec![there]));
    }
}
