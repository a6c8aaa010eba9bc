//! Hostile and enormous texts: no panic, no stack overflow, no quadratic time, and never a read that is a write.

#![allow(clippy::expect_used, reason = "a test may panic in its helpers too")]

use pgsluice::sql::{Kind, Lexer, MAX_PARSED_BYTES, Pin, PrimaryCause, analyse, analyse_bytes, judge};
use proptest::prelude::*;

/// A quarter of the stack of a runtime's worker.
const STACK: usize = 512 * 1024;

fn on_small_stack(text: String) -> Vec<(Kind, Option<PrimaryCause>)> {
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || analyse(&text).statements.iter().map(|s| (s.kind.clone(), judge(s, None))).collect())
        .expect("a thread")
        .join()
        .expect("no panic")
}

/// Repeats `part` until the text is as long as the parser may see, and in tenths of that.
fn lengths(head: &str, part: &str, tail: &str) -> impl Iterator<Item = String> {
    let room = (MAX_PARSED_BYTES - head.len() - tail.len()) / part.len();
    let counts = [20, 60, 100, 200, 500, 900, 1900, 1990, 3000].into_iter().filter(move |n| *n < room).chain([room]);
    counts.map(move |n| format!("{head}{}{tail}", part.repeat(n))).collect::<Vec<_>>().into_iter()
}

#[test]
fn flat_chains_fit_a_small_stack() {
    let cases = [
        ("SELECT 1", "+1", ""),
        ("SELECT a", "::int", ""),
        ("SELECT ", "- ", "1"),
        ("SELECT ", "NOT ", "true"),
        ("SELECT 1", " UNION SELECT 1", ""),
        ("SELECT 1", " UNION ALL SELECT a FROM t", ""),
        ("SELECT * FROM t WHERE a = 1", " OR a = 1", ""),
        ("SELECT * FROM t WHERE a", " AND b", ""),
        ("SELECT * FROM t", " CROSS JOIN t", ""),
        ("SELECT * FROM t", ", t", ""),
        ("SELECT a", "[1]", ""),
        ("SELECT a", ".b", ""),
        ("SELECT 'a'", " || 'b'", ""),
        ("SELECT a", " IS NULL", ""),
        ("SELECT a", " COLLATE b", ""),
        ("SELECT a", " AT TIME ZONE 'x'", ""),
        ("SELECT 1 IN (1", ", 1", ")"),
        ("SELECT ", "a LIKE ", "b"),
        ("SELECT ", "a ~ ANY ", "b"),
        ("SELECT ", "INTERVAL ", "'1'"),
        ("SELECT ", "PRIOR ", "a"),
        ("SELECT ", "a BETWEEN b AND ", "c"),
    ];
    for (head, part, tail) in cases {
        for text in lengths(head, part, tail) {
            let found = on_small_stack(text);
            assert!(found.len() == 1, "{head}{part}…{tail}");
        }
    }
}

#[test]
fn nesting_fits_a_small_stack() {
    let cases = [
        ("SELECT ", "(", "1", ")"),
        ("", "(", "SELECT 1", ")"),
        ("SELECT * FROM ", "(", "t", ")"),
        ("SELECT * FROM ", "(SELECT * FROM ", "t", ") a"),
        ("SELECT ", "(SELECT ", "1", ")"),
        ("SELECT ", "CASE WHEN a THEN ", "1", " END"),
        ("SELECT ", "f(", "1", ")"),
        ("SELECT ", "ARRAY[", "1", "]"),
        ("SELECT a", "[b", "", "]"),
        ("SELECT ", "ROW(", "1", ")"),
        ("SELECT ", "EXISTS (SELECT ", "1", ")"),
        ("SELECT ", "CAST(", "a", " AS int)"),
        ("", "WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("SELECT * FROM ", "(t JOIN ", "t", " ON true)"),
        ("SELECT ", "NOT (", "true", ")"),
        ("SELECT ", "a IN (", "1", ")"),
        ("SELECT ", "((a, b), (", "1", "))"),
        ("SELECT ", "(", "1", ""),
        ("SELECT ", "CASE WHEN ", "1", ""),
    ];
    for (head, open, middle, close) in cases {
        for depth in [5, 15, 25, 40, 63, 64, 65, 100, 1000, 5000] {
            let text = format!("{head}{}{middle}{}", open.repeat(depth), close.repeat(depth));
            if text.len() <= MAX_PARSED_BYTES {
                let found = on_small_stack(text);
                assert!(found.len() == 1, "{head}{open}…{middle}…{close} {depth}");
            }
        }
    }
}

#[test]
fn long_texts_are_understood_by_their_tokens() {
    let long = |head: &str, part: &str, tail: &str| format!("{head}{}{tail}", part.repeat(20_000));
    let read = (Kind::Query, None);
    let unparsed = (Kind::Utility, Some(PrimaryCause::Unparsed));
    let cases = [
        (long("SELECT * FROM t WHERE a IN (1", ", 1", ")"), read.clone()),
        (long("SELECT 1", "+1", ""), read.clone()),
        (long("SELECT * FROM t WHERE a = 1", " OR a = 1", ""), read.clone()),
        (long("VALUES (1)", ", (1)", ""), read.clone()),
        (long("WITH x AS (SELECT 1", "+1", ") SELECT * FROM x"), read.clone()),
        (long("SELECT random()", "+1", ""), read),
        (long("SELECT f()", "+1", ""), (Kind::Query, Some(PrimaryCause::UnknownFunction))),
        (long("SELECT nextval('s')", "+1", ""), (Kind::Query, Some(PrimaryCause::VolatileFunction))),
        (long("SELECT pg_is_in_recovery(), 1", "+1", ""), (Kind::Query, Some(PrimaryCause::ServerFunction))),
        (long("SELECT 1", "+1", " FROM pg_locks"), (Kind::Query, Some(PrimaryCause::ServerRelation))),
        (long("SELECT 1", "+1", " FROM t FOR UPDATE"), (Kind::Query, Some(PrimaryCause::LockingClause))),
        (long("SELECT 1", "+1", " INTO n"), unparsed.clone()),
        (long("WITH x AS (INSERT INTO t VALUES (1", "+1", ") RETURNING 1) SELECT 1"), unparsed.clone()),
        (long("WITH x AS (SELECT 1", "+1", ") DELETE FROM t"), unparsed.clone()),
        (long("INSERT INTO t VALUES (1)", ", (1)", ""), (Kind::Write, Some(PrimaryCause::Write))),
        (long("UPDATE t SET a = 1", "+1", ""), (Kind::Write, Some(PrimaryCause::Write))),
        (long("CREATE VIEW v AS SELECT 1", "+1", ""), (Kind::Ddl, Some(PrimaryCause::Ddl))),
        (long("DO $$", " x", "$$"), (Kind::Utility, Some(PrimaryCause::Utility))),
        (long("EXPLAIN SELECT f()", "+1", ""), (Kind::Query, None)),
        (long("SET search_path TO a", ", a", ""), unparsed.clone()),
        (long("SELECT '", "x", ""), unparsed),
    ];
    for (text, expected) in cases {
        assert_eq!(on_small_stack(text.clone()), [expected], "{}…{}", &text[..40], &text[text.len() - 20..]);
    }
}

#[test]
fn marks_on_the_session_are_found_at_the_end_of_a_long_text() {
    for head in ["INSERT INTO t SELECT 1", "SELECT 1"] {
        let text = format!("{head}{}, pg_advisory_lock(1), set_config('a', 'b', false)", "+f()".repeat(20_000));
        let statement = &analyse(&text).statements[0];
        assert_eq!((statement.pin, statement.changes_settings), (Some(Pin::AdvisoryLock), true), "{head}");
    }
}

#[test]
fn many_statements_are_bounded() {
    let found = on_small_stack("SELECT 1;".repeat(200_000));
    assert!(found.len() < 70_000);
    assert_eq!(found.first(), Some(&(Kind::Query, None)));
    assert_eq!(found.last(), Some(&(Kind::Utility, Some(PrimaryCause::Unparsed))));
}

/// A write in one of many spellings, which random edits then deform.
const WRITES: &[&str] = &[
    "INSERT INTO t (a, b) VALUES (1, 'x') ON CONFLICT DO NOTHING RETURNING a",
    "WITH a AS (DELETE FROM t WHERE b = $1 RETURNING *) SELECT * FROM a",
    "SELECT $x$ a $x$, \"b\", E'\\'' FROM t AS u (c) WHERE (d)::int = 1 FOR UPDATE",
    "/* a /* b */ */ UPDATE t SET a = CASE WHEN b THEN 1 END -- c",
    "EXPLAIN (ANALYZE, VERBOSE) DELETE FROM ONLY t",
    "SET LOCAL TIME ZONE INTERVAL '1' HOUR TO MINUTE; RESET a.b; SHOW x",
    "COPY (SELECT a FROM b) TO STDOUT; DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "PREPARE p (int) AS SELECT 1; EXECUTE p (1); DEALLOCATE ALL",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; BEGIN READ ONLY",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut end = 0;
        for token in Lexer::new(&bytes) {
            prop_assert!(token.start >= end && token.end > token.start && token.end <= bytes.len());
            end = token.end;
        }
        analyse_bytes(&bytes);
    }

    #[test]
    fn deformed_sql(
        which in 0..WRITES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..8),
    ) {
        let mut text = WRITES[which].as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.index(text.len().max(1));
            match how {
                0 if at < text.len() => { text.remove(at); }
                1 if at < text.len() => text[at] = byte,
                _ => text.insert(at.min(text.len()), byte),
            }
        }
        analyse_bytes(&text);
    }

    /// What stands around a write does not hide it.
    #[test]
    fn a_write_stays_a_write(
        before in "(SELECT 1;|;| |\n|/\\*[a-z;' ]{0,5}\\*/|--[a-z;']{0,5}\n){0,4}",
        after in "(;| |\n|/\\*[a-z;' ]{0,5}\\*/|;SELECT 2){0,4}",
        which in 0..4usize,
    ) {
        let text = format!("{before}{}\n{after}", WRITES[which]);
        let analysis = analyse(&text);
        prop_assert!(analysis.statements.iter().any(|s| s.primary.is_some()), "{text}");
        prop_assert!(analysis.statements.iter().all(|s| s.primary != Some(PrimaryCause::Unparsed)), "{text}");
    }
}
