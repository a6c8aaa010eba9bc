//! Prepared statements that outlive the server connection that they were prepared on.
//!
//! A client's name stands for a text with its parameter types. All clients' equal ones share one
//! [`Prepared`] with one name of its own on the servers, which is prepared on a connection when it is first
//! needed there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::pool::Shape;
use crate::sql::Analysis;
use crate::wire::frontend::Parse;

/// What the names on the servers begin with; an ID follows.
pub const SERVER_NAME_PREFIX: &str = "pgsluice_";

/// A text with its parameter types.
#[derive(Debug)]
pub struct Prepared {
    /// Unique in this process.
    pub id: u64,
    /// Its name on the servers.
    pub server_name: Box<str>,
    /// As the client sent it.
    pub text: Box<[u8]>,
    /// Parameter types, as in `Parse`.
    pub types: Box<[u8]>,
    /// What is known of it.
    pub analysis: Arc<Analysis>,
    /// The statement that its text runs, or deallocates, under that one's name on the servers.
    pub names: Option<Arc<Self>>,
}

/// All prepared statements that some client holds.
#[derive(Debug, Default)]
pub struct Statements {
    by_key: Mutex<HashMap<u64, Vec<Weak<Prepared>>>>,
    hasher: foldhash::quality::RandomState,
    last_id: AtomicU64,
}

impl Statements {
    /// The one for this text and these types.
    pub fn intern(&self, parse: Parse<'_>, analysis: Arc<Analysis>) -> Arc<Prepared> {
        use std::hash::BuildHasher;
        let key = self.hasher.hash_one((parse.text, parse.types));
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let same = by_key.entry(key).or_default();
        same.retain(|statement| statement.strong_count() > 0);
        let known = same
            .iter()
            .filter_map(Weak::upgrade)
            .find(|known| *known.text == *parse.text && *known.types == *parse.types);
        known.unwrap_or_else(|| {
            let statement = Arc::new(self.make(parse, analysis, server_name));
            same.push(Arc::downgrade(&statement));
            statement
        })
    }

    /// One that is not shared: for the unnamed statement. Mostly it is the `last` one again.
    pub fn unnamed(&self, parse: Parse<'_>, analysis: Arc<Analysis>, last: Option<&Held>) -> Arc<Prepared> {
        let is_same = |known: &&Arc<Prepared>| {
            Arc::ptr_eq(&known.analysis, &analysis)
                && known.names.is_none()
                && *known.text == *parse.text
                && *known.types == *parse.types
        };
        match last.map(|held| &held.statement).filter(is_same) {
            Some(known) => Arc::clone(known),
            None => Arc::new(self.make(parse, analysis, |_| String::new())),
        }
    }

    /// One whose text names another one. It is not shared: the same text is another client's for another of its names.
    pub fn naming(&self, parse: Parse<'_>, analysis: Arc<Analysis>, named: Arc<Prepared>) -> Arc<Prepared> {
        let name = if parse.name.is_empty() { |_| String::new() } else { server_name };
        Arc::new(Prepared { names: Some(named), ..self.make(parse, analysis, name) })
    }

    /// Forgets the keys of those that nobody holds any more.
    pub fn sweep(&self) {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.retain(|_, same| {
            same.retain(|statement| statement.strong_count() > 0);
            !same.is_empty()
        });
    }

    fn make(&self, parse: Parse<'_>, analysis: Arc<Analysis>, name: fn(u64) -> String) -> Prepared {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        Prepared {
            id,
            server_name: name(id).into(),
            text: parse.text.into(),
            types: parse.types.into(),
            analysis,
            names: None,
        }
    }
}

fn server_name(id: u64) -> String {
    format!("{SERVER_NAME_PREFIX}{id}")
}

/// One client's names.
#[derive(Debug, Default)]
pub struct ClientStatements {
    named: HashMap<Box<[u8]>, Held, foldhash::fast::RandomState>,
    unnamed: Option<Held>,
}

/// A statement that a client holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// The statement.
    pub statement: Arc<Prepared>,
    /// What the client was told that it looks like; 0 when it was not told.
    pub shape: Shape,
    /// Likewise, of its columns alone, wherever they come from.
    pub columns: u64,
}

impl ClientStatements {
    /// By the client's name; the unnamed one by the empty name.
    pub fn get(&self, name: &[u8]) -> Option<&Held> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// The client's name for a statement.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        self.named.iter().find(|(_, held)| held.statement.id == id).map(|(name, _)| &**name)
    }

    /// Gives it a name.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Prepared>) {
        let held = Held { statement, shape: 0, columns: 0 };
        if name.is_empty() {
            self.unnamed = Some(held);
        } else {
            self.named.insert(name.into(), held);
        }
    }

    /// Takes the name away.
    pub fn remove(&mut self, name: &[u8]) -> Option<Held> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    /// The client was told what this statement looks like.
    pub fn note_shape(&mut self, id: u64, shape: Shape, columns: u64) {
        for held in self.named.values_mut().chain(&mut self.unnamed).filter(|held| held.statement.id == id) {
            (held.shape, held.columns) = (shape, columns);
        }
    }

    /// Takes away the names that stand for this statement: it could not be prepared.
    pub fn remove_id(&mut self, id: u64, names: &[Box<[u8]>]) {
        for name in names {
            if self.get(name).is_some_and(|held| held.statement.id == id) {
                self.remove(name);
            }
        }
    }

    /// DEALLOCATE ALL, DISCARD ALL.
    pub fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    /// A simple query drops the unnamed statement.
    pub fn drop_unnamed(&mut self) {
        self.unnamed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statements_are_one() {
        let statements = Statements::default();
        let intern = |text: &[u8], types: &[u8]| statements.intern(Parse { name: b"", text, types }, Arc::default());
        let one = intern(b"select $1", b"\0\0");
        assert!(Arc::ptr_eq(&one, &intern(b"select $1", b"\0\0")));
        assert!(!Arc::ptr_eq(&one, &intern(b"select $1", b"\0\x01\0\0\0\x17")));
        assert_eq!(&*one.server_name, format!("pgsluice_{}", one.id));
        drop(one);
        statements.sweep();
        assert!(statements.by_key.lock().unwrap().is_empty());
    }

    #[test]
    fn the_unnamed_statement_is_the_same_one_as_long_as_it_is_the_same_text() {
        let statements = Statements::default();
        let analysis = Arc::<Analysis>::default();
        let parse = |text, types| Parse { name: b"", text, types };
        let one = statements.unnamed(parse(b"select $1", b"\0\0"), Arc::clone(&analysis), None);
        assert_eq!(&*one.server_name, "");
        let held = Held { statement: Arc::clone(&one), shape: 5, columns: 0 };
        let again = |text, types, analysis: &Arc<Analysis>| {
            let next = statements.unnamed(parse(text, types), Arc::clone(analysis), Some(&held));
            Arc::ptr_eq(&one, &next)
        };
        assert!(again(b"select $1", b"\0\0", &analysis));
        assert!(!again(b"select $2", b"\0\0", &analysis));
        assert!(!again(b"select $1", b"\0\x01\0\0\0\x17", &analysis));
        assert!(!again(b"select $1", b"\0\0", &Arc::default()), "it is understood otherwise by now");
    }

    #[test]
    fn names_are_the_clients_own() {
        let statements = Statements::default();
        let mut client = ClientStatements::default();
        let one = statements.intern(Parse { name: b"", text: b"select 1", types: b"\0\0" }, Arc::default());
        client.insert(b"a", Arc::clone(&one));
        client.insert(b"", Arc::clone(&one));
        client.note_shape(one.id, 5, 0);
        assert_eq!(client.get(b"a").unwrap().shape, 5);
        client.drop_unnamed();
        assert!(client.get(b"").is_none());
        client.remove_id(one.id, &[b"a".as_slice().into()]);
        assert!(client.get(b"a").is_none());
    }
}
