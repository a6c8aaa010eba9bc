//! Rows that the shards of one statement return (`RETURNING`): kept until the last of them has answered, and then given to
//! the client behind one description, in front of one completion.
//!
//! Pure: messages in, messages out. Rows are kept as they came and never looked into. What is kept is bounded.

use std::sync::Arc;

use bytes::BytesMut;

use crate::wire::backend::{self, tag};
use crate::wire::frontend::put;
use crate::wire::{ErrorReply, Frames};

/// How much is kept, in bytes.
pub(super) const MAX_RETURNED: usize = 16 << 20;

/// Why the rows cannot be given to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// There are more than are kept.
    TooLong,
    /// The client has asked for some of them only.
    Suspended,
    /// They are a plan, of one shard.
    Explained,
    /// They come as the data of a COPY.
    Copied,
}

/// What a statement's shards have returned so far.
#[derive(Debug, Default)]
pub struct Returned {
    /// In the order in which they have run.
    shards: Vec<OfShard>,
    /// In which they are told, unless `rows` says it.
    order: Vec<Arc<str>>,
    /// Of an INSERT: the shard of each row that it puts in.
    rows: Option<Arc<[Arc<str>]>>,
    /// Bytes of all rows.
    size: usize,
    /// Rows that were changed on the shards before.
    changed: u64,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct OfShard {
    shard: Arc<str>,
    /// Names, types and formats; none where it has not said what it returns.
    description: Option<Vec<u8>>,
    /// `DataRow` messages, one behind the other.
    messages: Vec<u8>,
    count: usize,
}

impl Returned {
    /// Of these shards, whose rows come in this order; of an INSERT, in the order of its rows, which go to the shards that
    /// `rows` says.
    pub fn new(order: Vec<Arc<str>>, rows: Option<Arc<[Arc<str>]>>) -> Self {
        Self { order, rows, ..Self::default() }
    }

    /// What comes next is of this shard.
    pub fn begin(&mut self, shard: &Arc<str>) {
        let shard = Arc::clone(shard);
        self.shards.push(OfShard { shard, description: None, messages: Vec::new(), count: 0 });
    }

    /// A `RowDescription`: its body.
    pub fn describe(&mut self, body: &[u8]) {
        if let Some(last) = self.shards.last_mut() {
            last.description = Some(without_places(body));
        }
    }

    /// A `DataRow`, or as much of it as has come.
    pub fn row(&mut self, message: &[u8]) {
        let size =
            message.get(1..5).and_then(|length| length.first_chunk()).map_or(0, |length| u32::from_be_bytes(*length));
        let is_whole = usize::try_from(size).is_ok_and(|size| size + 1 == message.len());
        self.size = self.size.saturating_add(message.len());
        if !is_whole || self.size > MAX_RETURNED {
            self.fail(Trouble::TooLong);
        } else if let Some(last) = self.shards.last_mut().filter(|_| self.trouble.is_none()) {
            last.messages.extend_from_slice(message);
            last.count += 1;
        }
    }

    /// A `PortalSuspended`.
    pub fn suspended(&mut self) {
        self.fail(Trouble::Suspended);
    }

    /// A `CopyOutResponse`.
    pub fn copied(&mut self) {
        self.fail(Trouble::Copied);
    }

    /// A `CommandComplete` that the client does not see: its body.
    pub fn completed(&mut self, body: &[u8]) {
        self.note_tag(body);
        self.changed = self.changed.saturating_add(backend::rows(body));
    }

    /// The one that the client gets: how many rows it speaks of, and all that is kept, with it behind.
    pub fn complete(&mut self, body: &[u8]) -> (u64, Vec<u8>) {
        self.note_tag(body);
        let mut messages = if self.trouble.is_none() { self.in_order() } else { Vec::new() };
        // Another statement may follow in the same message.
        self.shards.iter_mut().for_each(OfShard::clear);
        let own = backend::rows(body);
        let rows = own.saturating_add(std::mem::take(&mut self.changed));
        if rows == own {
            let mut message = BytesMut::new();
            put(&mut message, tag::COMMAND_COMPLETE, &[body]);
            messages.extend_from_slice(&message);
        } else {
            messages.extend_from_slice(&backend::command_complete(body, rows));
        }
        (rows, messages)
    }

    /// Why the client must be told an error instead.
    pub fn objection(&self) -> Option<ErrorReply> {
        let reply = match self.trouble {
            Some(Trouble::TooLong) => ErrorReply::error("54000", "RETURNING gives too many rows of several shards")
                .detail(format!("At most {MAX_RETURNED} bytes are kept until all shards have answered."))
                .hint(
                    "Change fewer rows at a time, by several statements in one transaction block, or give the shard key's \
                     value: then the statement is for one shard.",
                ),
            Some(Trouble::Suspended) => {
                ErrorReply::error("0A000", "RETURNING gives rows of several shards, and these cannot be fetched in parts")
                    .hint("Execute it without a limit on rows (a fetch size).")
            }
            Some(Trouble::Explained) => {
                ErrorReply::error("0A000", "EXPLAIN ANALYZE would run the statement on several shards").hint(
                    "Name the shard: SET pgsluice.shard = 'name', or /* pgsluice: shard=name */ in front of the statement.",
                )
            }
            Some(Trouble::Copied) => {
                ErrorReply::error("0A000", "COPY of what RETURNING gives would copy rows of several shards")
                    .hint("Send the statement alone, or give the shard key's value: then it is for one shard.")
            }
            None => return self.objection_to_descriptions(),
        };
        Some(reply)
    }

    fn objection_to_descriptions(&self) -> Option<ErrorReply> {
        let first = self.shards.first()?;
        let other = self.shards.iter().find(|other| other.description != first.description)?;
        Some(
            ErrorReply::error("0A000", "RETURNING gives rows that are not alike on all shards")
                .detail(format!(
                    "Names or types of its columns differ between the shards \"{}\" and \"{}\".",
                    first.shard, other.shard
                ))
                .hint("Compare the tables there: types of one's own have an OID of their own on each shard."),
        )
    }

    fn fail(&mut self, trouble: Trouble) {
        self.trouble.get_or_insert(trouble);
        self.shards.iter_mut().for_each(OfShard::clear);
    }

    fn note_tag(&mut self, body: &[u8]) {
        if body == b"EXPLAIN\0" && self.shards.len() > 1 {
            self.fail(Trouble::Explained);
        }
    }

    /// All rows.
    fn in_order(&mut self) -> Vec<u8> {
        if let [only] = &mut *self.shards {
            return std::mem::take(&mut only.messages);
        }
        let of = |shard: &Arc<str>| self.shards.iter().find(|known| known.shard == *shard);
        let mut all = Vec::with_capacity(self.size);
        match self.rows.as_deref().filter(|rows| self.are_all_there(rows)) {
            Some(rows) => {
                let mut left: Vec<(&Arc<str>, Frames<'_>)> =
                    self.shards.iter().map(|known| (&known.shard, Frames::new(&known.messages))).collect();
                for row in rows {
                    let next = left.iter_mut().find(|(shard, _)| *shard == row).and_then(|(_, frames)| frames.next());
                    all.extend_from_slice(next.and_then(Result::ok).map_or(b"", |frame| frame.bytes));
                }
            }
            None => self.order.iter().filter_map(of).for_each(|known| all.extend_from_slice(&known.messages)),
        }
        all
    }

    /// Whether every row that was put in has come back: only then it is known which is which.
    fn are_all_there(&self, rows: &[Arc<str>]) -> bool {
        let given = |shard: &Arc<str>| rows.iter().filter(|row| *row == shard).count();
        self.shards.iter().all(|known| known.count == given(&known.shard))
    }
}

impl OfShard {
    fn clear(&mut self) {
        (self.messages, self.count) = (Vec::new(), 0);
    }
}

/// A `RowDescription`'s body without what is each shard's own: the columns' tables, and their numbers in them.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
fn without_places(body: &[u8]) -> Vec<u8> {
    let mut kept = body.to_vec();
    let mut at = 2;
    while let Some(name) = body.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
        let table = at + name + 1;
        if let Some(place) = kept.get_mut(table..table + 6) {
            place.fill(0);
        }
        // Table, number, type, length, modifier, format.
        at = table + 18;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Vec<u8> {
        let mut message = BytesMut::new();
        put(&mut message, tag::DATA_ROW, &[text.as_bytes()]);
        message.to_vec()
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// What the client is told, by the shards' rows in the order in which they have run; the last one's number is its own.
    fn told(rows: Option<&[&str]>, shards: &[(&str, &[&str])]) -> (u64, String) {
        let rows = rows.map(|rows| names(rows).into());
        let mut returned = Returned::new(names(&["a", "b", "c"]), rows);
        let mut end = (0, Vec::new());
        for (index, (shard, texts)) in shards.iter().enumerate() {
            returned.begin(&Arc::from(*shard));
            texts.iter().for_each(|text| returned.row(&row(text)));
            let tag = format!("INSERT 0 {}\0", texts.len());
            if index + 1 == shards.len() {
                end = returned.complete(tag.as_bytes());
            } else {
                returned.completed(tag.as_bytes());
            }
        }
        assert_eq!(returned.objection(), None);
        let frames = Frames::new(&end.1).map(|frame| String::from_utf8_lossy(frame.unwrap().body).replace('\0', ""));
        (end.0, frames.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn rows_come_in_order() {
        let shards: [(&str, &[&str]); 3] = [("b", &["1", "4"]), ("c", &["2"]), ("a", &["3"])];
        assert_eq!(told(None, &shards), (4, "3,1,4,2,INSERT 0 4".into()), "by shard");
        assert_eq!(told(Some(&["b", "c", "a", "b"]), &shards), (4, "1,2,3,4,INSERT 0 4".into()), "as they were given");
        assert_eq!(told(Some(&["b", "c", "a", "b", "a"]), &shards), (4, "3,1,4,2,INSERT 0 4".into()), "one is missing");
        assert_eq!(told(None, &[("c", &["1"])]), (1, "1,INSERT 0 1".into()));
    }

    #[test]
    fn only_so_much_is_kept() {
        let mut returned = Returned::new(names(&["a"]), None);
        returned.begin(&Arc::from("a"));
        let half = row(&"x".repeat(MAX_RETURNED / 2));
        returned.row(&half);
        assert_eq!(returned.objection(), None);
        returned.row(&half);
        assert_eq!(returned.objection().map(|reply| reply.sqlstate), Some("54000"));
        assert_eq!(returned.complete(b"DELETE 2\0").1, b"C\0\0\0\x0dDELETE 2\0", "nothing is kept any longer");
        let mut cut = Returned::new(names(&["a"]), None);
        cut.begin(&Arc::from("a"));
        cut.row(&half[..100]);
        assert_eq!(cut.objection().map(|reply| reply.sqlstate), Some("54000"), "not all of it is there");
    }

    #[test]
    fn descriptions_are_compared_but_for_each_shards_own() {
        let column = |table: u32, number: u16, oid: u32| {
            let parts: [&[u8]; 7] = [
                b"name\0",
                &table.to_be_bytes(),
                &number.to_be_bytes(),
                &oid.to_be_bytes(),
                &8_u16.to_be_bytes(),
                &u32::MAX.to_be_bytes(),
                &0_u16.to_be_bytes(),
            ];
            [&1_u16.to_be_bytes()[..], &parts.concat()].concat()
        };
        let alike = |one: &[u8], other: &[u8]| {
            let mut returned = Returned::new(names(&["a", "b"]), None);
            for (shard, body) in [("a", one), ("b", other)] {
                returned.begin(&Arc::from(shard));
                returned.describe(body);
            }
            returned.objection().is_none()
        };
        assert!(alike(&column(16400, 1, 20), &column(16500, 2, 20)));
        assert!(!alike(&column(16400, 1, 20), &column(16400, 1, 23)));
    }
}
