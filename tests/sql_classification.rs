//! Statements, and what must be known of them: kind, reason for the primary, mark on the session.

use PrimaryCause as P;
use pgsluice::sql::{
    Catalog, Discard, Kind, Pin, PrimaryCause, RelationKind, Setting, TransactionModes, Volatility, analyse,
    analyse_bytes, judge,
};

/// A database: `pg_catalog`'s own functions as far as the tables need them, and a user's things.
fn catalog() -> Catalog {
    use Volatility::*;
    let mut builder = Catalog::builder();
    for name in ["count", "sum", "lower", "length", "abs", "to_jsonb", "jsonb_each", "generate_series", "row_number"] {
        builder.function("pg_catalog", name, Immutable);
    }
    for name in ["now", "current_setting", "pg_backend_pid", "inet_server_addr", "pg_postmaster_start_time"] {
        builder.function("pg_catalog", name, Stable);
    }
    for name in
        ["random", "gen_random_uuid", "clock_timestamp", "nextval", "pg_is_in_recovery", "pg_sleep", "set_config"]
    {
        builder.function("pg_catalog", name, Volatile);
    }
    for name in ["lo_get", "lo_import", "pg_advisory_lock", "pg_advisory_xact_lock", "pg_xact_status", "currval"] {
        builder.function("pg_catalog", name, Volatile);
    }
    builder
        .function("public", "total", Stable)
        .function("public", "writes", Volatile)
        .function("public", "mixed", Immutable)
        .function("public", "mixed", Volatile)
        .function("other", "gen_random_uuid", Volatile)
        .function("other", "random", Stable)
        .function("calm", "random", Stable)
        .function("public", "Quoted", Stable)
        .relation("public", "hits", RelationKind::Unlogged)
        .relation("public", "Odd", RelationKind::Unlogged)
        .relation("public", "numbers", RelationKind::Sequence)
        .view("public", "v_plain", "SELECT a, lower(b) FROM t;")
        .view("public", "v_writes", "SELECT writes() AS w")
        .view("public", "v_deep", "SELECT * FROM v_mid")
        .view("public", "v_mid", "SELECT * FROM public.v_writes")
        .view("public", "v_hits", "SELECT count(*) FROM hits")
        .view("public", "v_loop", "SELECT * FROM v_loop2")
        .view("public", "v_loop2", "SELECT * FROM v_loop")
        .view("public", "v_stat", "SELECT * FROM pg_stat_activity")
        .policy("public", "guarded", "(owner = CURRENT_USER) AND writes() > 0")
        .policy("public", "fenced", "(owner = (CURRENT_USER)::text)");
    builder.build()
}

/// One statement with a catalog: kind without its fields, cause.
#[test]
fn queries_and_writes() {
    let cases: &[(&str, Option<P>)] = &[
        // Plain reads.
        ("SELECT 1", None),
        ("select * from t where a = $1", None),
        ("SELECT count(*), sum(x) FROM s.t GROUP BY y HAVING count(*) > 1 ORDER BY 1 LIMIT 5 OFFSET 2", None),
        ("VALUES (1), (2)", None),
        ("TABLE t", None),
        ("TABLE ONLY s.t", None),
        ("WITH a AS (TABLE t) TABLE a", None),
        ("TABLE t UNION ALL TABLE u", None),
        ("(SELECT 1) UNION ALL (SELECT 2)", None),
        ("WITH a AS (SELECT 1) SELECT * FROM a", None),
        ("WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a) SELECT * FROM a", None),
        ("SELECT * FROM ONLY t", None),
        ("SELECT * FROM a JOIN ONLY b ON a.x = b.x FETCH FIRST 1 ROW ONLY", None),
        ("SELECT a::int, CAST(b AS text), c::numeric(10,2) FROM t", None),
        ("SELECT coalesce(a, b), nullif(a, 1), greatest(1, 2), least(1, 2) FROM t", None),
        (
            "SELECT extract(epoch FROM now()), substring('a' FROM 1), trim(both ' ' from a), position('a' in b) FROM t",
            None,
        ),
        ("SELECT CURRENT_USER, current_date, CURRENT_TIMESTAMP, LOCALTIME, session_user", None),
        ("SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t", None),
        ("SELECT * FROM generate_series(1, 10) AS g(n)", None),
        ("SELECT * FROM t, LATERAL jsonb_each(to_jsonb(t)) AS j", None),
        ("SELECT CASE WHEN a THEN 1 ELSE 2 END FROM t", None),
        ("SELECT * FROM t WHERE a IN (SELECT b FROM u) AND EXISTS (SELECT 1 FROM w)", None),
        ("SELECT a -> 'b' ->> 'c', d @> '{}' FROM t WHERE e ? 'f'", None),
        ("SELECT 'it''s; -- no', $$x;y$$, E'\\'', \"a;b\" FROM t", None),
        ("SELECT ARRAY[1,2], ARRAY(SELECT 1), a[1] FROM t", None),
        ("SELECT t.* FROM t TABLESAMPLE system (1)", None),
        ("SELECT 'FOR UPDATE'", None),
        ("SELECT a AS for_update FROM t -- FOR UPDATE", None),
        ("SELECT * FROM information_schema.tables", None),
        ("SELECT * FROM pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace", None),
        ("SELECT * FROM pg_settings", None),
        ("SELECT * FROM pg_stats", None),
        ("SELECT count(*) FILTER (WHERE a) FROM t", None),
        ("SELECT interval '1 day', date '2020-01-01', timestamp '2020-01-01'", None),
        // Functions.
        ("SELECT now(), random(), clock_timestamp(), pg_sleep(0)", None),
        ("SELECT pg_catalog.random()", None),
        ("SELECT total(1)", None),
        ("SELECT \"Quoted\"()", None),
        ("SELECT Quoted()", Some(P::UnknownFunction)),
        ("SELECT calm.random()", None),
        ("SELECT other.gen_random_uuid()", Some(P::VolatileFunction)),
        ("SELECT gen_random_uuid()", Some(P::VolatileFunction)),
        ("SELECT pg_catalog.gen_random_uuid()", None),
        ("SELECT writes()", Some(P::VolatileFunction)),
        ("SELECT public.writes()", Some(P::VolatileFunction)),
        ("SELECT nowhere.total()", Some(P::UnknownFunction)),
        ("SELECT WRITES()", Some(P::VolatileFunction)),
        ("SELECT mixed(1)", Some(P::VolatileFunction)),
        ("SELECT unheard_of()", Some(P::UnknownFunction)),
        ("SELECT * FROM writes()", Some(P::VolatileFunction)),
        ("SELECT * FROM writes() AS w(a)", Some(P::VolatileFunction)),
        ("SELECT * FROM t, LATERAL writes(t.a) w", Some(P::VolatileFunction)),
        ("SELECT * FROM t ORDER BY writes()", Some(P::VolatileFunction)),
        ("SELECT * FROM t LIMIT writes()", Some(P::VolatileFunction)),
        ("SELECT * FROM t WHERE a = (SELECT writes())", Some(P::VolatileFunction)),
        ("SELECT lower(length(writes()))", Some(P::VolatileFunction)),
        ("SELECT count(*) FILTER (WHERE writes() > 0) FROM t", Some(P::VolatileFunction)),
        ("SELECT sum(a) OVER (ORDER BY writes()) FROM t", Some(P::VolatileFunction)),
        ("SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY writes())", Some(P::VolatileFunction)),
        ("SELECT CASE WHEN writes() > 0 THEN 1 END", Some(P::VolatileFunction)),
        ("SELECT ARRAY[writes()]", Some(P::VolatileFunction)),
        ("SELECT (ARRAY[1,2])[writes()]", Some(P::VolatileFunction)),
        ("SELECT coalesce(a, writes()) FROM t", Some(P::VolatileFunction)),
        ("SELECT extract(epoch FROM writes())", Some(P::VolatileFunction)),
        ("SELECT 1 UNION SELECT writes()", Some(P::VolatileFunction)),
        ("VALUES (writes())", Some(P::VolatileFunction)),
        ("SELECT a FROM t JOIN u ON writes() = 1", Some(P::VolatileFunction)),
        ("SELECT DISTINCT ON (writes()) a FROM t", Some(P::VolatileFunction)),
        ("SELECT a FROM t GROUP BY a, writes()", Some(P::VolatileFunction)),
        ("SELECT writes() AT TIME ZONE 'utc'", Some(P::VolatileFunction)),
        ("SELECT writes()::text", Some(P::VolatileFunction)),
        ("SELECT a BETWEEN writes() AND 2 FROM t", Some(P::VolatileFunction)),
        ("WITH a AS (SELECT writes()) SELECT * FROM a", Some(P::VolatileFunction)),
        ("SELECT nextval('s')", Some(P::VolatileFunction)),
        ("SELECT setval('s', 1)", Some(P::VolatileFunction)),
        ("SELECT pg_notify('c', 'x')", Some(P::VolatileFunction)),
        ("SELECT lo_import('/x')", Some(P::VolatileFunction)),
        ("SELECT lo_get(1)", None),
        ("SELECT txid_current()", Some(P::VolatileFunction)),
        ("SELECT pg_current_xact_id()", Some(P::VolatileFunction)),
        ("SELECT pg_export_snapshot()", Some(P::VolatileFunction)),
        ("SELECT pg_logical_emit_message(false, 'a', 'b')", Some(P::VolatileFunction)),
        ("SELECT pg_create_physical_replication_slot('a')", Some(P::VolatileFunction)),
        ("SELECT pg_xact_status('1')", Some(P::VolatileFunction)),
        ("SELECT currval('s')", Some(P::SequenceState)),
        ("SELECT lastval()", Some(P::SequenceState)),
        ("SELECT pg_is_in_recovery()", Some(P::ServerFunction)),
        ("SELECT pg_catalog.pg_is_in_recovery()", Some(P::ServerFunction)),
        ("SELECT my.pg_is_in_recovery()", Some(P::UnknownFunction)),
        ("SELECT pg_last_wal_replay_lsn()", Some(P::ServerFunction)),
        ("SELECT pg_last_xact_replay_timestamp()", Some(P::ServerFunction)),
        ("SELECT pg_current_wal_lsn()", Some(P::ServerFunction)),
        ("SELECT inet_server_addr(), inet_server_port()", Some(P::ServerFunction)),
        ("SELECT inet_client_addr()", Some(P::ServerFunction)),
        ("SELECT pg_backend_pid()", Some(P::ServerFunction)),
        ("SELECT * FROM pg_backend_pid()", Some(P::ServerFunction)),
        ("SELECT pg_terminate_backend(1)", Some(P::ServerFunction)),
        ("SELECT pg_cancel_backend(1)", Some(P::ServerFunction)),
        ("SELECT pg_reload_conf()", Some(P::ServerFunction)),
        ("SELECT pg_switch_wal()", Some(P::ServerFunction)),
        ("SELECT pg_stat_reset()", Some(P::ServerFunction)),
        ("SELECT pg_read_file('x')", Some(P::ServerFunction)),
        ("SELECT * FROM pg_ls_dir('x')", Some(P::ServerFunction)),
        ("SELECT pg_blocking_pids(1)", Some(P::ServerFunction)),
        ("SELECT pg_postmaster_start_time()", Some(P::ServerFunction)),
        ("SELECT txid_current_snapshot()", Some(P::ServerFunction)),
        ("SELECT current_setting('transaction_read_only')", Some(P::ServerFunction)),
        ("SELECT current_setting('TimeZone')", None),
        ("SELECT pg_advisory_xact_lock(1)", Some(P::AdvisoryLock)),
        ("SELECT pg_advisory_unlock(1)", Some(P::AdvisoryLock)),
        ("SELECT setseed(0.5)", Some(P::SessionState)),
        ("SELECT set_config('a.b', 'c', false)", Some(P::SessionState)),
        ("SELECT set_config('a.b', 'c', true)", None),
        ("SELECT pg_temp.f()", Some(P::SessionState)),
        // Relations.
        ("SELECT * FROM pg_stat_activity", Some(P::ServerRelation)),
        ("SELECT * FROM pg_catalog.pg_stat_replication", Some(P::ServerRelation)),
        ("SELECT * FROM mine.pg_stat_activity", None),
        ("SELECT * FROM pg_statio_user_tables", Some(P::ServerRelation)),
        ("SELECT * FROM pg_locks", Some(P::ServerRelation)),
        ("SELECT * FROM pg_replication_slots", Some(P::ServerRelation)),
        ("SELECT * FROM pg_cursors", Some(P::ServerRelation)),
        ("SELECT * FROM pg_prepared_xacts", Some(P::ServerRelation)),
        ("TABLE pg_locks", Some(P::ServerRelation)),
        ("SELECT 1 UNION (TABLE pg_locks)", Some(P::ServerRelation)),
        ("WITH pg_locks AS (SELECT 1) SELECT * FROM pg_locks", None),
        ("SELECT * FROM pg_temp.t", Some(P::SessionState)),
        ("SELECT last_value FROM numbers", Some(P::ServerRelation)),
        ("SELECT * FROM hits", Some(P::Unlogged)),
        ("SELECT * FROM public.hits", Some(P::Unlogged)),
        ("SELECT * FROM ONLY hits", Some(P::Unlogged)),
        ("SELECT * FROM ONLY (hits)", Some(P::Unlogged)),
        ("SELECT * FROM other.hits", None),
        ("SELECT * FROM \"Odd\"", Some(P::Unlogged)),
        ("SELECT * FROM Odd", None),
        ("TABLE hits", Some(P::Unlogged)),
        ("TABLE \"Odd\"", Some(P::Unlogged)),
        ("SELECT 1 UNION TABLE ONLY hits", Some(P::Unlogged)),
        ("SELECT * FROM t WHERE a IN (SELECT b FROM hits)", Some(P::Unlogged)),
        ("SELECT * FROM (t CROSS JOIN hits)", Some(P::Unlogged)),
        ("WITH hits AS (SELECT 1) SELECT * FROM hits", None),
        ("WITH hits AS (SELECT * FROM hits) SELECT * FROM hits", Some(P::Unlogged)),
        ("WITH RECURSIVE hits AS (SELECT 1 UNION SELECT * FROM hits) SELECT * FROM hits", None),
        ("WITH a AS (WITH hits AS (SELECT 1) SELECT * FROM hits) SELECT * FROM a, hits", Some(P::Unlogged)),
        ("WITH a AS (SELECT * FROM hits), hits AS (SELECT 1) SELECT * FROM a", Some(P::Unlogged)),
        ("SELECT hits FROM t", None),
        ("SELECT * FROM v_plain", None),
        ("SELECT * FROM v_writes", Some(P::VolatileFunction)),
        ("SELECT * FROM v_deep", Some(P::VolatileFunction)),
        ("SELECT * FROM v_hits", Some(P::Unlogged)),
        ("SELECT * FROM v_loop", None),
        ("SELECT * FROM v_stat", Some(P::ServerRelation)),
        ("SELECT * FROM guarded", Some(P::VolatileFunction)),
        ("SELECT * FROM fenced", None),
        // Locks.
        ("SELECT * FROM t FOR UPDATE", Some(P::LockingClause)),
        ("SELECT * FROM t FOR SHARE", Some(P::LockingClause)),
        ("SELECT * FROM t FOR NO KEY UPDATE", Some(P::LockingClause)),
        ("SELECT * FROM t WHERE a = 1 FOR KEY SHARE OF t NOWAIT", Some(P::LockingClause)),
        ("SELECT * FROM t FOR UPDATE OF t SKIP LOCKED", Some(P::LockingClause)),
        ("SELECT * FROM (SELECT * FROM t FOR UPDATE) s", Some(P::LockingClause)),
        ("WITH a AS (SELECT * FROM t FOR SHARE NOWAIT) SELECT * FROM a", Some(P::LockingClause)),
        ("(SELECT * FROM t FOR UPDATE)", Some(P::LockingClause)),
        ("SELECT (SELECT a FROM t FOR UPDATE)", Some(P::LockingClause)),
        // WITH that writes.
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM a", Some(P::DataModifyingCte)),
        ("WITH a AS (UPDATE t SET b = 1 RETURNING a) SELECT * FROM a", Some(P::DataModifyingCte)),
        ("WITH a AS (DELETE FROM t RETURNING a) SELECT * FROM a", Some(P::DataModifyingCte)),
        (
            "WITH a AS (SELECT 1), b AS MATERIALIZED (DELETE FROM t RETURNING a) SELECT * FROM a",
            Some(P::DataModifyingCte),
        ),
    ];
    let catalog = catalog();
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let analysis = analyse(sql);
        let [statement] = &*analysis.statements else { panic!("{sql}: {analysis:?}") };
        let found = (&statement.kind, judge(statement, Some(&catalog)));
        if found != (&Kind::Query, *expected) {
            wrong.push(format!("{sql}: {found:?} in place of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn kinds() {
    use Kind::*;
    let set =
        |name: &str, value: Option<&str>| Set(Setting::Session { name: name.into(), value: value.map(Into::into) });
    let local =
        |name: &str, value: Option<&str>| Set(Setting::Local { name: name.into(), value: value.map(Into::into) });
    let reset = |name: &str| Set(Setting::Reset { name: name.into() });
    let modes = |read_only, serializable| TransactionModes { read_only, serializable };
    let cases: Vec<(&str, Kind, Option<P>, Option<Pin>)> = vec![
        // Writes.
        ("INSERT INTO t VALUES (1)", Write, Some(P::Write), None),
        ("INSERT INTO t (a) SELECT b FROM u ON CONFLICT (a) DO NOTHING RETURNING a", Write, Some(P::Write), None),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", Write, Some(P::Write), None),
        ("UPDATE t SET a = 1 WHERE b = 2", Write, Some(P::Write), None),
        ("UPDATE ONLY t SET a = 1", Write, Some(P::Write), None),
        ("WITH x AS (SELECT 1) UPDATE t SET a = 1", Write, Some(P::Write), None),
        ("DELETE FROM t", Write, Some(P::Write), None),
        ("DELETE FROM ONLY t USING u", Write, Some(P::Write), None),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = u.b", Write, Some(P::Write), None),
        ("TRUNCATE t", Write, Some(P::Write), None),
        ("TRUNCATE TABLE ONLY a, b.c RESTART IDENTITY CASCADE", Write, Some(P::Write), None),
        ("SELECT * INTO n FROM t", Write, Some(P::Write), None),
        ("SELECT * INTO TEMP n FROM t", Write, Some(P::Write), Some(Pin::Temporary)),
        ("UPDATE t SET a[1] = 2", Write, Some(P::Unparsed), None),
        ("COPY t FROM STDIN", Write, Some(P::Write), None),
        ("COPY s.t (a, b) FROM STDIN WITH (FORMAT csv)", Write, Some(P::Write), None),
        ("COPY t FROM PROGRAM 'x'", Write, Some(P::Write), None),
        ("COPY (INSERT INTO t VALUES (1) RETURNING a) TO STDOUT", Write, Some(P::Write), None),
        // COPY that reads.
        ("COPY t TO STDOUT", Query, None, None),
        ("COPY BINARY t TO STDOUT", Query, None, None),
        ("COPY t (a) TO STDOUT (FORMAT binary)", Query, None, None),
        ("COPY (SELECT * FROM t) TO STDOUT", Query, None, None),
        ("COPY (SELECT 1) TO '/tmp/x'", Query, Some(P::ServerFunction), None),
        ("COPY t TO PROGRAM 'cat'", Query, Some(P::ServerFunction), None),
        ("COPY pg_stat_activity TO STDOUT", Query, Some(P::ServerRelation), None),
        // EXPLAIN.
        ("EXPLAIN SELECT 1", Query, None, None),
        ("EXPLAIN INSERT INTO t VALUES (1)", Query, None, None),
        ("EXPLAIN VERBOSE DELETE FROM t", Query, None, None),
        ("EXPLAIN (VERBOSE, COSTS OFF) UPDATE t SET a = 1", Query, None, None),
        ("EXPLAIN (SELECT 1)", Query, None, None),
        ("EXPLAIN SELECT * FROM t FOR UPDATE", Query, None, None),
        ("EXPLAIN SELECT nextval('s')", Query, None, None),
        ("EXPLAIN CREATE TABLE n AS SELECT 1", Query, None, None),
        ("EXPLAIN ANALYZE SELECT 1", Query, None, None),
        ("EXPLAIN ANALYZE VERBOSE DELETE FROM t", Write, Some(P::Write), None),
        ("EXPLAIN (ANALYZE) DELETE FROM t", Write, Some(P::Write), None),
        ("EXPLAIN (ANALYZE true, BUFFERS) DELETE FROM t", Write, Some(P::Write), None),
        ("EXPLAIN (ANALYZE off) DELETE FROM t", Query, None, None),
        ("EXPLAIN (ANALYZE 'false') DELETE FROM t", Query, None, None),
        ("EXPLAIN (ANALYZE, FORMAT json) SELECT 1", Query, None, None),
        ("EXPLAIN ANALYZE CREATE TABLE n AS SELECT 1", Ddl, Some(P::Ddl), None),
        ("EXPLAIN EXECUTE p", Query, Some(P::SessionState), None),
        // DDL.
        ("CREATE TABLE t (a int)", Ddl, Some(P::Ddl), None),
        ("CREATE TABLE t AS SELECT 1", Ddl, Some(P::Ddl), None),
        ("CREATE UNLOGGED TABLE t (a int)", Ddl, Some(P::Ddl), None),
        ("CREATE TEMP TABLE t (a int)", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("create local temporary table if not exists t (a int)", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", Ddl, Some(P::Ddl), None),
        ("CREATE TABLE pg_temp.t (a int)", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE TABLE IF NOT EXISTS pg_temp.t (a int)", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE TEMPORARY SEQUENCE s", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'select 1'", Ddl, Some(P::Ddl), Some(Pin::Temporary)),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END", Ddl, Some(P::Ddl), None),
        ("CREATE INDEX CONCURRENTLY i ON t (lower(a))", Ddl, Some(P::Ddl), None),
        ("ALTER TABLE t ADD b int", Ddl, Some(P::Ddl), None),
        ("ALTER ROLE r SET search_path = x", Ddl, Some(P::Ddl), None),
        ("DROP TABLE t", Ddl, Some(P::Ddl), None),
        ("GRANT SELECT ON t TO r", Ddl, Some(P::Ddl), None),
        ("REVOKE ALL ON t FROM r", Ddl, Some(P::Ddl), None),
        ("COMMENT ON TABLE t IS 'x'", Ddl, Some(P::Ddl), None),
        ("SECURITY LABEL ON TABLE t IS 'x'", Ddl, Some(P::Ddl), None),
        ("REASSIGN OWNED BY a TO b", Ddl, Some(P::Ddl), None),
        // Utility commands.
        ("VACUUM (ANALYZE) t", Utility, Some(P::Utility), None),
        ("ANALYZE", Utility, Some(P::Utility), None),
        ("REINDEX TABLE t", Utility, Some(P::Utility), None),
        ("CLUSTER t", Utility, Some(P::Utility), None),
        ("CHECKPOINT", Utility, Some(P::Utility), None),
        ("LOCK TABLE t IN SHARE MODE", Utility, Some(P::Utility), None),
        ("NOTIFY c, 'x'", Utility, Some(P::Utility), None),
        ("REFRESH MATERIALIZED VIEW m", Utility, Some(P::Utility), None),
        ("ALTER SYSTEM SET work_mem = '1MB'", Utility, Some(P::Utility), None),
        ("DO $$ BEGIN END $$", Utility, Some(P::Utility), None),
        ("CALL p(1)", Utility, Some(P::Utility), None),
        ("LOAD 'x'", Utility, Some(P::SessionState), Some(Pin::Library)),
        ("LISTEN c", Listen, Some(P::SessionState), Some(Pin::Listen)),
        ("UNLISTEN c", Listen, Some(P::SessionState), None),
        ("UNLISTEN *", Listen, Some(P::SessionState), None),
        ("SET CONSTRAINTS ALL DEFERRED", Utility, None, None),
        ("FROBNICATE", Utility, Some(P::Unparsed), None),
        ("SELECT 1 1 1", Utility, Some(P::Unparsed), None),
        ("SELECT 'open", Utility, Some(P::Unparsed), None),
        ("\"select\" 1", Utility, Some(P::Unparsed), None),
        // Transactions.
        ("BEGIN", Begin(modes(None, None)), None, None),
        ("begin work", Begin(modes(None, None)), None, None),
        ("BEGIN READ ONLY", Begin(modes(Some(true), None)), None, None),
        (
            "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
            Begin(modes(Some(true), Some(true))),
            None,
            None,
        ),
        (
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ WRITE",
            Begin(modes(Some(false), Some(false))),
            None,
            None,
        ),
        ("BEGIN NONSENSE", Utility, Some(P::Unparsed), None),
        ("COMMIT", Commit { chain: false }, None, None),
        ("END TRANSACTION AND CHAIN", Commit { chain: true }, None, None),
        ("COMMIT AND NO CHAIN", Commit { chain: false }, None, None),
        ("ROLLBACK", Rollback { chain: false }, None, None),
        ("ABORT WORK AND CHAIN", Rollback { chain: true }, None, None),
        ("SAVEPOINT a", Savepoint { rollback: false }, None, None),
        ("RELEASE a", Savepoint { rollback: false }, None, None),
        ("RELEASE SAVEPOINT a", Savepoint { rollback: false }, None, None),
        ("ROLLBACK TO a", Savepoint { rollback: true }, None, None),
        ("ROLLBACK TRANSACTION TO SAVEPOINT a", Savepoint { rollback: true }, None, None),
        ("PREPARE TRANSACTION 'x'", TwoPhase, Some(P::Utility), None),
        ("COMMIT PREPARED 'x'", TwoPhase, Some(P::Utility), None),
        ("ROLLBACK PREPARED 'x'", TwoPhase, Some(P::Utility), None),
        ("SET TRANSACTION READ ONLY", SetTransaction(modes(Some(true), None)), None, None),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", SetTransaction(modes(None, Some(true))), None, None),
        ("SET transaction_read_only = on", SetTransaction(modes(Some(true), None)), None, None),
        ("SET LOCAL transaction_isolation TO 'repeatable read'", SetTransaction(modes(None, Some(false))), None, None),
        ("SET TRANSACTION SNAPSHOT 'x'", SetTransaction(modes(None, None)), Some(P::ServerFunction), None),
        // Settings.
        ("SET a TO b", set("a", Some("b")), None, None),
        ("SET SESSION a = 'it''s'", set("a", Some("'it''s'")), None, None),
        ("SET Search_Path TO a, \"B\", 'c'", set("search_path", Some("a, \"B\", 'c'")), None, None),
        ("SET work_mem = 64", set("work_mem", Some("64")), None, None),
        ("SET x = -1.5", set("x", Some("-1.5")), None, None),
        ("SET x TO DEFAULT", set("x", None), None, None),
        ("SET x = on", set("x", Some("on")), None, None),
        ("SET LOCAL x = 1", local("x", Some("1")), None, None),
        ("SET pgsluice.consistency = 'strong';", set("pgsluice.consistency", Some("'strong'")), None, None),
        ("SET TIME ZONE 'UTC'", set("timezone", Some("'UTC'")), None, None),
        ("SET TIME ZONE -7", set("timezone", Some("-7")), None, None),
        ("SET TIME ZONE LOCAL", set("timezone", None), None, None),
        ("SET LOCAL TIME ZONE DEFAULT", local("timezone", None), None, None),
        ("SET TIME ZONE INTERVAL '-08:00'", set("timezone", Some("'INTERVAL ''-08:00'''")), None, None),
        ("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", Set(Setting::Opaque), None, None),
        ("SET NAMES 'LATIN1'", set("client_encoding", Some("'LATIN1'")), None, None),
        ("SET NAMES", set("client_encoding", None), None, None),
        ("SET SCHEMA 'x'", set("search_path", Some("'x'")), None, None),
        ("SET ROLE r", set("role", Some("r")), None, None),
        ("SET LOCAL ROLE NONE", local("role", Some("NONE")), None, None),
        ("SET role = 'r'", set("role", Some("'r'")), None, None),
        ("SET SESSION AUTHORIZATION r", set("session_authorization", Some("r")), None, None),
        ("SET SESSION AUTHORIZATION DEFAULT", set("session_authorization", None), None, None),
        ("SET LOCAL SESSION AUTHORIZATION r", local("session_authorization", Some("r")), None, None),
        ("SET XML OPTION DOCUMENT", set("xmloption", Some("DOCUMENT")), None, None),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Set(Setting::Opaque), None, None),
        ("SET x = 1 + 1", Set(Setting::Opaque), None, None),
        ("SET x", Utility, Some(P::Unparsed), None),
        ("RESET x", reset("x"), None, None),
        ("RESET a.B", reset("a.b"), None, None),
        ("RESET TIME ZONE", reset("timezone"), None, None),
        ("RESET SESSION AUTHORIZATION", reset("session_authorization"), None, None),
        ("RESET TRANSACTION ISOLATION LEVEL", reset("transaction_isolation"), None, None),
        ("RESET ALL", Set(Setting::ResetAll), None, None),
        ("SHOW x", Query, None, None),
        ("SHOW ALL", Query, None, None),
        ("SHOW TRANSACTION ISOLATION LEVEL", Query, None, None),
        ("SHOW transaction_read_only", Query, Some(P::ServerFunction), None),
        ("DISCARD ALL", Discard(self::Discard::All), None, None),
        ("DISCARD PLANS", Discard(self::Discard::Plans), None, None),
        ("DISCARD SEQUENCES", Discard(self::Discard::Sequences), None, None),
        ("DISCARD TEMPORARY", Discard(self::Discard::Temp), None, None),
        // Prepared statements and cursors.
        ("PREPARE p AS SELECT 1", Prepare { name: "p".into() }, Some(P::SessionState), Some(Pin::Prepare)),
        (
            "PREPARE \"P\" (int, text) AS INSERT INTO t VALUES ($1)",
            Prepare { name: "P".into() },
            Some(P::SessionState),
            Some(Pin::Prepare),
        ),
        (
            "PREPARE transaction AS SELECT 1",
            Prepare { name: "transaction".into() },
            Some(P::SessionState),
            Some(Pin::Prepare),
        ),
        ("EXECUTE p", Execute { name: "p".into(), name_span: 8..9 }, Some(P::SessionState), None),
        ("  EXECUTE \"P q\" (1, 'a')", Execute { name: "P q".into(), name_span: 10..15 }, Some(P::SessionState), None),
        ("DEALLOCATE p", Deallocate { name: Some("p".into()), name_span: 11..12 }, None, None),
        ("DEALLOCATE PREPARE p", Deallocate { name: Some("p".into()), name_span: 19..20 }, None, None),
        ("DEALLOCATE ALL", Deallocate { name: None, name_span: 11..14 }, None, None),
        ("DECLARE c CURSOR FOR SELECT 1", Query, None, None),
        ("DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT a FROM t FOR UPDATE", Query, Some(P::LockingClause), None),
        ("DECLARE c BINARY CURSOR WITH HOLD FOR SELECT 1", Query, Some(P::SessionState), Some(Pin::HoldCursor)),
        ("FETCH 10 FROM c", Query, None, None),
        ("FETCH ALL c", Query, None, None),
        ("MOVE NEXT FROM c", Query, None, None),
        ("CLOSE c", Query, None, None),
        // Marks that functions leave.
        ("SELECT pg_advisory_lock(1)", Query, Some(P::AdvisoryLock), Some(Pin::AdvisoryLock)),
        ("SELECT pg_try_advisory_lock_shared(1)", Query, Some(P::AdvisoryLock), Some(Pin::AdvisoryLock)),
        ("SELECT * FROM pg_advisory_lock(1)", Query, Some(P::AdvisoryLock), Some(Pin::AdvisoryLock)),
        ("UPDATE t SET a = 1 WHERE pg_try_advisory_lock(1)", Write, Some(P::Write), Some(Pin::AdvisoryLock)),
        ("UPDATE t SET a[1] = 2 WHERE pg_advisory_lock(1) IS NULL", Write, Some(P::Unparsed), Some(Pin::AdvisoryLock)),
        ("CREATE TABLE n AS SELECT pg_advisory_lock(1)", Ddl, Some(P::Ddl), Some(Pin::AdvisoryLock)),
        ("SELECT pg_advisory_xact_lock(1)", Query, Some(P::AdvisoryLock), None),
        ("EXPLAIN SELECT pg_advisory_lock(1)", Query, None, None),
    ];
    let mut wrong = Vec::new();
    for (sql, kind, primary, pin) in cases {
        let analysis = analyse(sql);
        let [statement] = &*analysis.statements else { panic!("{sql}: {analysis:?}") };
        let (found, expected) = ((&statement.kind, statement.primary, statement.pin), (&kind, primary, pin));
        if found != expected {
            wrong.push(format!("{sql}: {found:?} in place of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn settings_changed_out_of_sight() {
    let cases = [
        ("SELECT set_config('a', 'b', false)", true),
        ("SELECT set_config('a', 'b', true)", false),
        ("SELECT set_config('a', 'b', $1)", true),
        ("SELECT set_config(setting_name => 'a', new_value => 'b', is_local => true)", true),
        ("SELECT pg_catalog.set_config('a', 'b', false)", true),
        ("SELECT * FROM set_config('a', 'b', false)", true),
        ("INSERT INTO t SELECT set_config('a', 'b', false)", true),
        ("EXPLAIN SELECT set_config('a', 'b', false)", false),
        ("EXPLAIN ANALYZE SELECT set_config('a', 'b', false)", true),
        ("DECLARE c CURSOR FOR SELECT set_config('a', 'b', false)", true),
        ("PREPARE p AS SELECT set_config('a', 'b', false)", true),
        ("CREATE TABLE t AS SELECT set_config('a', 'b', false)", true),
        ("DO 'x'", true),
        ("CALL p()", true),
        ("EXECUTE p", true),
        ("SET x = 1 + 1", true),
        ("SET x = 1", false),
        ("SELECT 1", false),
        ("UPDATE t SET a[1] = set_config('a', 'b', false)", true),
    ];
    for (sql, expected) in cases {
        assert_eq!(analyse(sql).statements[0].changes_settings, expected, "{sql}");
    }
}

#[test]
fn names() {
    let name = |n: &pgsluice::sql::Name| match &n.schema {
        Some(schema) => format!("{schema}.{}", n.name),
        None => n.name.to_string(),
    };
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("SELECT a FROM S.T, \"U\" u, v", &["U", "v", "s.t"], &[]),
        ("SELECT F(g(1)) FROM h(2) x, \"K\"()", &[], &["K", "f", "g", "h"]),
        ("INSERT INTO a SELECT * FROM b", &["a", "b"], &[]),
        ("UPDATE ONLY a SET x = 1 FROM b", &["a", "b"], &[]),
        ("DELETE FROM ONLY a USING b", &["a", "b"], &[]),
        ("TRUNCATE a, ONLY s.b *, c", &["a", "s.b", "c"], &[]),
        ("COPY s.t (a) FROM STDIN", &["s.t"], &[]),
        ("COPY t TO STDOUT", &["t"], &[]),
        ("EXPLAIN SELECT f() FROM t", &["t"], &[]),
        ("WITH x AS (SELECT * FROM y) SELECT * FROM x", &["y"], &[]),
        ("SELECT * FROM d.s.t", &["s.t"], &[]),
    ];
    for (sql, relations, functions) in cases {
        let analysis = analyse(sql);
        let statement = &analysis.statements[0];
        assert_eq!(statement.relations.iter().map(name).collect::<Vec<_>>(), *relations, "{sql}");
        assert_eq!(statement.functions.iter().map(name).collect::<Vec<_>>(), *functions, "{sql}");
    }
}

#[test]
fn several_statements() {
    let cases: &[(&str, &[Option<P>])] = &[
        ("", &[]),
        ("  ;; -- nothing\n", &[]),
        ("SELECT 1; SELECT 2", &[None, None]),
        ("SELECT 1; INSERT INTO t VALUES (1); SELECT 2;", &[None, Some(P::Write), None]),
        ("SELECT 1; UPDATE t SET a[1] = 2; SELECT 2", &[None, Some(P::Unparsed), None]),
        ("BEGIN; SELECT 1; COMMIT", &[None, None, None]),
    ];
    for (sql, expected) in cases {
        let causes: Vec<_> = analyse(sql).statements.iter().map(|s| s.primary).collect();
        assert_eq!(causes, *expected, "{sql}");
    }
}

#[test]
fn without_a_catalog_only_the_lists_count() {
    let cases = [
        ("SELECT 1 FROM t", None),
        ("SELECT random()", None),
        ("SELECT coalesce(a, 1) FROM t", None),
        ("SELECT count(*) FROM t", Some(P::UnknownFunction)),
        ("SELECT my.random()", Some(P::UnknownFunction)),
        ("SELECT nextval('s')", Some(P::VolatileFunction)),
    ];
    for (sql, expected) in cases {
        assert_eq!(judge(&analyse(sql).statements[0], None), expected, "{sql}");
    }
}

#[test]
fn other_encodings_are_reads_too() {
    let catalog = catalog();
    let cases: &[(&[u8], Option<P>)] = &[
        (b"SELECT * FROM t WHERE a = 'caf\xe9'", None),
        (b"SELECT caf\xe9 FROM t", None),
        (b"SELECT caf\xe9()", Some(P::UnknownFunction)),
        (b"SET application_name = 'caf\xe9'", None),
    ];
    for (sql, expected) in cases {
        let analysis = analyse_bytes(sql);
        assert_eq!(judge(&analysis.statements[0], Some(&catalog)), *expected, "{}", String::from_utf8_lossy(sql));
    }
    let setting = &analyse_bytes(b"SET application_name = 'caf\xe9'").statements[0];
    assert_eq!(setting.kind, Kind::Set(Setting::Opaque));
}

#[test]
fn databases_that_must_be_left() {
    let cases: [(&str, &[&str]); 7] = [
        ("DROP DATABASE x", &["x"]),
        ("drop database if exists \"X y\" with (force)", &["if", "exists", "X y", "with", "force"]),
        ("CREATE DATABASE x TEMPLATE Y", &["template1", "x", "template", "y"]),
        ("ALTER DATABASE x RENAME TO y", &["x", "rename", "to", "y"]),
        ("ALTER DATABASE x SET work_mem = '1MB'", &[]),
        ("DROP TABLE database", &[]),
        ("SELECT 1", &[]),
    ];
    for (sql, expected) in cases {
        let analysis = pgsluice::sql::analyse(sql);
        let found: Vec<&str> = analysis.statements.iter().flat_map(|s| &s.databases).map(|name| &**name).collect();
        assert_eq!(found, expected, "{sql}");
    }
}

/// What PostgreSQL answers, or refuses, without looking at any table.
#[test]
fn what_names_no_table() {
    let tables = |sql: &str| {
        let analysis = analyse(sql);
        let [statement] = &*analysis.statements else { panic!("{sql}") };
        let uses = statement.uses.as_ref().unwrap_or_else(|| panic!("{sql}: {statement:?}"));
        (statement.primary, uses.tables.iter().map(|used| used.relation.name.to_string()).collect::<Vec<_>>())
    };
    for sql in ["SELECT", " select ; ", "/* x */ SELECT -- y"] {
        assert_eq!(tables(sql), (None, vec![]), "{sql}");
    }
    for sql in ["SELECT FROM WHERE", "SELECT a FROM where", "SELECT * FROM t JOIN Where ON true", "DELETE FROM where"] {
        assert_eq!(tables(sql), (Some(P::Unparsed), vec![]), "{sql}");
    }
    for (sql, name) in [
        ("SELECT FROM \"where\"", "where"),
        ("SELECT FROM s.where", "where"),
        ("SELECT FROM t WHERE a = 1", "t"),
        ("SELECT 1 AS from FROM t WHERE true", "t"),
        ("SELECT a FROM t ORDER BY a FETCH FIRST ROW ONLY", "t"),
    ] {
        assert_eq!(tables(sql), (None, vec![name.to_owned()]), "{sql}");
    }
}
