//! Texts that are understood already.
//!
//! Two levels. The exact text answers at once. A text that is new but differs from a known one only in
//! literals is lexed and finds the other's [`Analysis`] by its shape. What neither knows is analysed,
//! outside any lock. Both levels are bounded by bytes and scan-resistant, so that a
//! client which never sends the same text twice drives nobody's texts out: a text whose shape is known is kept when it
//! comes a second time.

use super::{
    hint::Hint,
    shape::{Shape, shape},
    statement::{Analysis, Name, Statement},
    text::{MAX_PARSED_BYTES, analyse_bytes},
    uses::Uses,
};
use foldhash::quality::RandomState;
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};
use std::{
    fmt,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

type Texts = Cache<Box<[u8]>, Arc<Analysis>, Bytes, RandomState>;
type Shapes = Cache<Shape, Arc<Analysis>, Bytes, RandomState>;

/// Analyses by text, shared by all clients.
pub struct AnalysisCache {
    texts: Texts,
    shapes: Shapes,
    /// Digests of texts that came lately and are not kept; where two share a slot, of the later one.
    seen: Box<[AtomicU64]>,
    hasher: RandomState,
    key: [u8; 16],
}

/// How many of them: 128 KiB.
const SEEN: usize = 1 << 14;

impl AnalysisCache {
    /// Keeps at most about `max_bytes` of texts and analyses.
    pub fn new(max_bytes: usize) -> Self {
        let shapes = max_bytes / 4;
        Self {
            texts: Cache::with(
                (max_bytes - shapes) / TYPICAL_ENTRY,
                (max_bytes - shapes) as u64,
                Bytes,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            shapes: Cache::with(
                shapes / TYPICAL_ENTRY,
                shapes as u64,
                Bytes,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            seen: (0..SEEN).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::default(),
            key: rand::random(),
        }
    }

    /// What the text says. Texts longer than [`MAX_PARSED_BYTES`] are analysed each time.
    pub fn analyse(&self, text: &[u8]) -> Arc<Analysis> {
        if text.len() > MAX_PARSED_BYTES {
            return Arc::new(analyse_bytes(text));
        }
        if let Some(known) = self.texts.get(text) {
            return known;
        }
        let (analysis, is_worth_keeping) = match shape(text, &self.key) {
            Some(shape) => (self.by_shape(shape, text), self.has_come_before(text)),
            None => (Arc::new(analyse_bytes(text)), true),
        };
        if is_worth_keeping {
            self.texts.insert(text.into(), Arc::clone(&analysis));
        }
        analysis
    }

    /// Whether that needs no parsing.
    pub fn knows(&self, text: &[u8]) -> bool {
        let is_shape_known = || shape(text, &self.key).is_some_and(|shape| self.shapes.peek(&shape).is_some());
        text.len() <= MAX_PARSED_BYTES && (self.texts.peek(text).is_some() || is_shape_known())
    }

    /// Whether it has come lately; notes that it has come now.
    fn has_come_before(&self, text: &[u8]) -> bool {
        let digest = self.hasher.hash_one(text);
        let slot = usize::try_from(digest % SEEN as u64).ok().and_then(|slot| self.seen.get(slot));
        // Of two who come at once both may be told either.
        slot.is_some_and(|slot| slot.swap(digest, Ordering::Relaxed) == digest)
    }

    fn by_shape(&self, shape: Shape, text: &[u8]) -> Arc<Analysis> {
        if let Some(known) = self.shapes.get(&shape) {
            return known;
        }
        let analysis = Arc::new(analyse_bytes(text));
        // Another thread may have been quicker: one analysis for all, for what it learns later.
        match self.shapes.peek(&shape) {
            Some(known) => known,
            None => {
                self.shapes.insert(shape, Arc::clone(&analysis));
                analysis
            }
        }
    }

    /// Distinct texts known.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.shapes.is_empty()
    }

    /// Distinct shapes known.
    pub fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// Bytes held by both levels, about; an analysis that several texts share counts for each.
    pub fn weight(&self) -> u64 {
        self.texts.weight() + self.shapes.weight()
    }
}

impl fmt::Debug for AnalysisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnalysisCache").field("texts", &self.len()).field("shapes", &self.shapes()).finish()
    }
}

/// What an entry weighs when it is an ordinary statement, in bytes; only a hint for the tables' first size.
const TYPICAL_ENTRY: usize = 1024;

/// What an entry costs beside its own bytes: the tables' slots and the allocator's share.
const OVERHEAD: usize = 128;

/// Weighs entries by the bytes that they keep alive.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Weighter<Box<[u8]>, Arc<Analysis>> for Bytes {
    fn weight(&self, text: &Box<[u8]>, analysis: &Arc<Analysis>) -> u64 {
        (OVERHEAD + text.len() + weight_of(analysis)) as u64
    }
}

impl Weighter<Shape, Arc<Analysis>> for Bytes {
    fn weight(&self, _: &Shape, analysis: &Arc<Analysis>) -> u64 {
        (OVERHEAD + weight_of(analysis)) as u64
    }
}

fn weight_of(analysis: &Analysis) -> usize {
    let hints: usize = analysis.hints.iter().map(|hint| size_of::<Hint>() + hint.key.len() + hint.value.len()).sum();
    let statements: usize = analysis.statements.iter().map(statement_weight).sum();
    size_of::<Analysis>() + size_of_val(analysis.places()) + hints + statements
}

fn statement_weight(statement: &Statement) -> usize {
    let names = |names: &[Name]| -> usize {
        names.iter().map(|n| size_of::<Name>() + n.name.len() + n.schema.as_deref().map_or(0, str::len)).sum()
    };
    let uses = statement.uses.as_deref().map_or(0, Uses::weight);
    let upkeep = statement.upkeep.as_deref().map_or(0, size_of_val);
    size_of::<Statement>() + names(&statement.relations) + names(&statement.functions) + uses + upkeep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_shapes_are_shared() {
        let cache = AnalysisCache::new(1 << 20);
        let first = cache.analyse(b"SELECT * FROM t WHERE a = 1");
        assert!(Arc::ptr_eq(&first, &cache.analyse(b"SELECT * FROM t WHERE a = 1")));
        assert!(Arc::ptr_eq(&first, &cache.analyse(b"select * from t where a = 2")));
        assert!(!cache.knows(b"SELECT * FROM u WHERE a = 1"));
        assert!(!Arc::ptr_eq(&first, &cache.analyse(b"SELECT * FROM u WHERE a = 1")));
        assert!(cache.knows(b"SELECT * FROM u WHERE a = 1") && cache.knows(b"SELECT * FROM u WHERE a = 7"));
        first.note_refused_by_standby();
        assert!(cache.analyse(b"SELECT * FROM t WHERE a = 3").was_refused_by_standby());
        assert_eq!((cache.len(), cache.shapes()), (1, 2), "one of the texts has come twice");
        cache.analyse(b"SELECT * FROM t WHERE a = 3");
        cache.analyse(b"SET a = 1");
        assert_eq!((cache.len(), cache.shapes()), (3, 2), "what has no shape is kept at once");
    }

    #[test]
    fn literals_that_matter_are_kept_apart() {
        let cache = AnalysisCache::new(1 << 20);
        for (one, other) in [
            ("SET a = 1", "SET a = 2"),
            ("SELECT current_setting('port')", "SELECT current_setting('x')"),
            ("SELECT U&\"current_setting\"('port')", "SELECT U&\"current_setting\"('x')"),
            ("EXPLAIN (ANALYZE 0) DELETE FROM t", "EXPLAIN (ANALYZE 1) DELETE FROM t"),
            ("EXECUTE p", " EXECUTE p"),
            ("/* pgsluice: route=auto */ SELECT 1", "/* pgsluice: route=primary */ SELECT 1"),
            ("/* pgsluice: route=auto */ SELECT 1", "SELECT 1"),
        ] {
            let (one, other) = (cache.analyse(one.as_bytes()), cache.analyse(other.as_bytes()));
            assert!(one.statements != other.statements || one.hints != other.hints);
        }
    }

    #[test]
    fn stays_within_its_bytes() {
        let limit = 256 * 1024;
        let cache = AnalysisCache::new(limit);
        for n in 0..20_000 {
            cache.analyse(format!("SELECT {n} FROM t{n} WHERE f{n}() = '{}'", "x".repeat(n % 500)).as_bytes());
            // What is parsed anew each time otherwise.
            cache.analyse(format!("SET a = {n}").as_bytes());
        }
        assert!(cache.weight() <= limit as u64, "{}", cache.weight());
        assert!(cache.len() > 50);
        let long = vec![b' '; MAX_PARSED_BYTES + 1];
        let before = cache.len();
        cache.analyse(&long);
        assert_eq!(cache.len(), before);
    }
}
