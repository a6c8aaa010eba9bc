//! Where each kind of statement runs, found out on the servers: every statement carries a mark, and
//! the mark is looked for in each server's log. The reason is read off the metrics.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgsluice::demo::{ClusterOptions, Server};
use support::raw::{self, Message, Raw};
use support::{DEADLINE, Stand};

/// A busy machine must not eject a replica here: that is another test's matter.
const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

const SCHEMA: &str = "
    CREATE TABLE t (a int PRIMARY KEY, b text);
    INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 5) AS n;
    CREATE TABLE journal (a int);
    CREATE UNLOGGED TABLE u (a int);
    CREATE SEQUENCE s;
    CREATE TABLE guarded (a int);
    CREATE FUNCTION f_volatile() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO journal VALUES (1) RETURNING a';
    CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE FUNCTION f_immutable() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    CREATE FUNCTION f_overloaded(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE FUNCTION f_overloaded(text) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION f_liar() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN nextval(''s''); END';
    CREATE PROCEDURE p_write() LANGUAGE sql AS 'INSERT INTO journal VALUES (2)';
    CREATE FUNCTION f_operator(int, int) RETURNS int LANGUAGE plpgsql VOLATILE
        AS 'BEGIN INSERT INTO journal VALUES ($1); RETURN $1 + $2; END';
    CREATE OPERATOR <#> (LEFTARG = int, RIGHTARG = int, FUNCTION = f_operator);
    CREATE TYPE box_of_int AS (a int);
    CREATE FUNCTION f_cast(int) RETURNS box_of_int LANGUAGE plpgsql VOLATILE
        AS 'BEGIN INSERT INTO journal VALUES ($1); RETURN ROW($1); END';
    CREATE CAST (int AS box_of_int) WITH FUNCTION f_cast(int);
    CREATE VIEW v_plain AS SELECT a FROM t;
    CREATE VIEW v_volatile AS SELECT f_volatile() AS a;
    CREATE VIEW v_over AS SELECT * FROM v_volatile;
    CREATE VIEW v_stat AS SELECT pid FROM pg_stat_activity;
    CREATE VIEW v_unlogged AS SELECT * FROM u;
    CREATE POLICY guard ON guarded USING (f_volatile() > 0);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;";

async fn stand(sections: &str) -> Stand {
    let options =
        ClusterOptions::with_replicas(2).setting("log_statement", "all").setting("log_min_error_statement", "error");
    let stand = Stand::start_with(options, &format!("{CALM}{sections}")).await;
    stand.client().await.batch_execute(SCHEMA).await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    stand
}

/// Where a statement ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Primary,
    Replica,
    /// On a replica, which refused it, and then on the primary.
    Both,
    Nowhere,
    /// Answered by the proxy.
    Own,
}

/// Finds statements by a mark that is unique to each.
struct Witness<'a> {
    stand: &'a Stand,
    last: usize,
}

impl<'a> Witness<'a> {
    fn new(stand: &'a Stand) -> Self {
        Self { stand, last: 0 }
    }

    fn mark(&mut self) -> String {
        self.last += 1;
        format!(" /* mark {} */", self.last)
    }

    fn place(&self, mark: &str) -> Place {
        let has = |server: &Server| std::fs::read_to_string(server.log_file()).is_ok_and(|log| log.contains(mark));
        let on_replica = self.stand.cluster.replicas().iter().any(has);
        match (has(self.stand.cluster.primary()), on_replica) {
            (true, false) => Place::Primary,
            (false, true) => Place::Replica,
            (true, true) => Place::Both,
            (false, false) => Place::Nowhere,
        }
    }

    /// `pgsluice_statements_total` by `role reason`.
    async fn reasons(&self) -> BTreeMap<String, u64> {
        let page = self.stand.proxy.http_get("/metrics").await;
        let mut reasons = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("pgsluice_statements_total{")) {
            let label = |name: &str| {
                let rest = line.split(&format!("{name}=\"")).nth(1).expect("the label");
                rest.split('"').next().expect("its end").to_owned()
            };
            let value: f64 = line.rsplit(' ').next().expect("a value").parse().expect("a number");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            reasons.insert(format!("{} {}", label("role"), label("reason")), value as u64);
        }
        reasons
    }

    /// Runs it as a simple query; where it ran, what was counted, and what came back.
    async fn simple(&mut self, client: &mut Raw, sql: &str) -> (Place, String, Vec<Message>) {
        let mark = self.mark();
        self.watch(client, &raw::query(&format!("{sql}{mark}")), &mark).await
    }

    /// Runs it by the extended protocol.
    async fn extended(&mut self, client: &mut Raw, sql: &str) -> (Place, String, Vec<Message>) {
        let mark = self.mark();
        let messages = [raw::run(&format!("{sql}{mark}"), &[]), raw::sync()].concat();
        self.watch(client, &messages, &mark).await
    }

    async fn watch(&mut self, client: &mut Raw, bytes: &[u8], mark: &str) -> (Place, String, Vec<Message>) {
        let before = self.reasons().await;
        client.send(bytes).await;
        let messages = answer(client).await;
        // It is counted a moment after its answer was sent; what was refused by the proxy is not.
        let start = Instant::now();
        let patience = if no_error(&messages) { DEADLINE } else { Duration::from_millis(300) };
        let mut after = self.reasons().await;
        while after == before && start.elapsed() < patience {
            after = self.reasons().await;
        }
        let counted = after.into_iter().filter_map(|(reason, count)| {
            let more = count - before.get(&reason).copied().unwrap_or(0);
            (more > 0).then_some(reason)
        });
        (self.place(mark), counted.collect::<Vec<_>>().join(", "), messages)
    }
}

/// Up to `ReadyForQuery`; where the server wants to copy in, it is told that there is nothing.
async fn answer(client: &mut Raw) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let message = client.read().await;
        if message.tag == b'G' {
            client.send(&raw::copy_done()).await;
        }
        let is_last = message.tag == b'Z';
        messages.push(message);
        if is_last {
            return messages;
        }
    }
}

/// A client that reads from replicas whatever it has written, once the catalog is known.
async fn reader(stand: &Stand) -> Raw {
    let login = raw::Login { settings: &[("options", "-c pgsluice.consistency=eventual")], ..stand.login() };
    let mut client = Raw::connect(&login).await;
    let mut witness = Witness { stand, last: 1_000_000 };
    let start = Instant::now();
    loop {
        // Not a lone read, for which a replica would be asked whether it has the functions before that is known of it.
        let text = "BEGIN READ ONLY; SELECT f_stable(), f_immutable(); COMMIT";
        let (place, counted, messages) = witness.simple(&mut client, text).await;
        if place == Place::Replica {
            return client;
        }
        assert!(start.elapsed() < DEADLINE, "{place:?} {counted} {messages:?}");
    }
}

fn no_error(messages: &[Message]) -> bool {
    raw::sqlstates(messages).is_empty()
}

/// Compares a whole table, and shows all differences together.
async fn check(stand: &Stand, cases: &[(&str, Place, &str)]) {
    let mut witness = Witness::new(stand);
    let mut wrong = Vec::new();
    let mut client = reader(stand).await;
    let major = stand.server_major();
    for (sql, place, reason) in cases {
        // PostgreSQL has it since 15.
        if major < 15 && sql.starts_with("MERGE") {
            continue;
        }
        let role = if *place == Place::Replica { "replica" } else { "primary" };
        let expected = format!("{role} {reason}");
        let simple = witness.simple(&mut client, sql).await;
        if (simple.0, &simple.1) != (*place, &expected) || !no_error(&simple.2) {
            wrong.push(format!("simple {sql}: {simple:?}, expected {place:?} {expected}"));
        }
        // Of a Sync behind an Execute that copies in, a server takes no notice.
        if sql.contains("; ") || sql.contains("FROM STDIN") {
            continue;
        }
        let extended = witness.extended(&mut client, sql).await;
        if (extended.0, &extended.1) != (*place, &expected) || !no_error(&extended.2) {
            wrong.push(format!("extended {sql}: {extended:?}, expected {place:?} {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_what_looks_like_reads() {
    use Place::{Primary, Replica};
    let stand = stand("").await;
    // An object to read.
    let superuser = support::connect(&stand.superuser_url()).await;
    superuser
        .batch_execute("SELECT lo_from_bytea(4711, 'abc'); GRANT SELECT ON LARGE OBJECT 4711 TO app")
        .await
        .unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    let cases = [
        ("SELECT 1", Replica, "fresh_replica"),
        ("SELECT * FROM t WHERE a = 1", Replica, "fresh_replica"),
        ("VALUES (1), (2)", Replica, "fresh_replica"),
        ("TABLE t", Replica, "fresh_replica"),
        ("WITH x AS (SELECT a FROM t) SELECT count(*) FROM x", Replica, "fresh_replica"),
        ("SELECT count(*) FROM t GROUP BY b HAVING count(*) > 0 ORDER BY 1", Replica, "fresh_replica"),
        ("SELECT * FROM v_plain", Replica, "fresh_replica"),
        ("SELECT relname FROM pg_class LIMIT 1", Replica, "fresh_replica"),
        ("SHOW work_mem", Replica, "fresh_replica"),
        ("EXPLAIN SELECT * FROM t", Replica, "fresh_replica"),
        ("EXPLAIN INSERT INTO t VALUES (100)", Replica, "fresh_replica"),
        ("EXPLAIN (ANALYZE, COSTS off) SELECT * FROM t", Replica, "fresh_replica"),
        ("COPY t TO STDOUT", Replica, "fresh_replica"),
        ("COPY (SELECT * FROM t) TO STDOUT", Replica, "fresh_replica"),
        // Functions.
        ("SELECT f_stable()", Replica, "fresh_replica"),
        ("SELECT f_immutable()", Replica, "fresh_replica"),
        ("SELECT f_volatile()", Primary, "volatile_function"),
        ("SELECT * FROM t WHERE a = f_volatile()", Primary, "volatile_function"),
        ("SELECT f_overloaded(1)", Primary, "volatile_function"),
        ("SELECT random(), clock_timestamp(), now(), gen_random_uuid(), pg_sleep(0)", Replica, "fresh_replica"),
        ("SELECT nextval('s')", Primary, "volatile_function"),
        ("SELECT setval('s', 5)", Primary, "volatile_function"),
        ("SELECT pg_notify('c', 'x')", Primary, "volatile_function"),
        ("SELECT txid_current()", Primary, "volatile_function"),
        ("SELECT pg_current_xact_id()", Primary, "volatile_function"),
        ("SELECT pg_export_snapshot()", Primary, "volatile_function"),
        ("SELECT lo_create(0)", Primary, "volatile_function"),
        ("SELECT lo_get(4711)", Replica, "fresh_replica"),
        ("SELECT pg_is_in_recovery()", Primary, "server_function"),
        ("SELECT pg_last_wal_replay_lsn()", Primary, "server_function"),
        ("SELECT inet_server_addr()", Primary, "server_function"),
        ("SELECT pg_backend_pid()", Primary, "server_function"),
        ("SELECT pg_cancel_backend(0) WHERE false", Primary, "server_function"),
        ("SELECT pg_terminate_backend(0) WHERE false", Primary, "server_function"),
        ("SELECT count(*) FROM pg_stat_activity", Primary, "server_relation"),
        ("SELECT count(*) FROM pg_locks", Primary, "server_relation"),
        ("SELECT current_setting('transaction_read_only')", Primary, "server_function"),
        ("SHOW transaction_read_only", Primary, "server_function"),
        ("SELECT pg_advisory_xact_lock(1)", Primary, "advisory_lock"),
        ("SELECT pg_try_advisory_xact_lock_shared(1)", Primary, "advisory_lock"),
        // Relations.
        ("SELECT * FROM v_volatile", Primary, "volatile_function"),
        ("SELECT * FROM v_over", Primary, "volatile_function"),
        ("SELECT count(*) FROM v_stat", Primary, "server_relation"),
        ("SELECT last_value FROM s", Primary, "server_relation"),
        ("SELECT * FROM u", Primary, "unlogged"),
        ("SELECT * FROM v_unlogged", Primary, "unlogged"),
        ("COPY u TO STDOUT", Primary, "unlogged"),
        ("SELECT * FROM guarded", Primary, "volatile_function"),
        // Locks.
        ("SELECT * FROM t WHERE a = 1 FOR UPDATE", Primary, "locking_clause"),
        ("SELECT * FROM t WHERE a = 1 FOR NO KEY UPDATE", Primary, "locking_clause"),
        ("SELECT * FROM t WHERE a = 1 FOR SHARE", Primary, "locking_clause"),
        ("SELECT * FROM t WHERE a = 1 FOR KEY SHARE SKIP LOCKED", Primary, "locking_clause"),
        ("SELECT * FROM (SELECT * FROM t FOR UPDATE) x", Primary, "locking_clause"),
        // Two statements in one message.
        ("SELECT 1; SELECT 2", Replica, "fresh_replica"),
        ("SELECT 1; INSERT INTO journal VALUES (9)", Primary, "write"),
    ];
    check(&stand, &cases).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes() {
    use Place::Primary;
    let stand = stand("").await;
    let cases = [
        ("INSERT INTO journal VALUES (1)", Primary, "write"),
        ("UPDATE t SET b = 'x' WHERE a = 1", Primary, "write"),
        ("DELETE FROM journal WHERE a = 77", Primary, "write"),
        ("TRUNCATE journal", Primary, "write"),
        ("MERGE INTO t USING (VALUES (1)) AS n(a) ON t.a = n.a WHEN MATCHED THEN UPDATE SET b = 'm'", Primary, "write"),
        ("WITH x AS (INSERT INTO journal VALUES (1) RETURNING a) SELECT * FROM x", Primary, "data_modifying_cte"),
        (
            "WITH x AS (SELECT 1), y AS (UPDATE t SET b = 'y' WHERE a = 2 RETURNING a) SELECT * FROM x, y",
            Primary,
            "data_modifying_cte",
        ),
        ("SELECT a INTO copied FROM t; DROP TABLE copied", Primary, "write"),
        ("CREATE TABLE made AS SELECT a FROM t; DROP TABLE made", Primary, "ddl"),
        ("EXPLAIN ANALYZE INSERT INTO journal VALUES (3)", Primary, "write"),
        ("EXPLAIN (ANALYZE) SELECT f_volatile()", Primary, "volatile_function"),
        ("COPY journal FROM STDIN", Primary, "write"),
        ("COPY (INSERT INTO journal VALUES (4) RETURNING a) TO STDOUT", Primary, "write"),
        ("CALL p_write()", Primary, "utility"),
        ("DO $$ BEGIN INSERT INTO journal VALUES (5); END $$", Primary, "utility"),
        ("NOTIFY c, 'x'", Primary, "utility"),
        ("ANALYZE t", Primary, "utility"),
        ("COMMENT ON TABLE t IS 'x'", Primary, "ddl"),
        ("GRANT SELECT ON t TO pg_monitor", Primary, "ddl"),
    ];
    check(&stand, &cases).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions() {
    use Place::{Nowhere, Primary, Replica};
    let stand = stand("").await;
    let mut client = reader(&stand).await;
    let mut witness = Witness::new(&stand);
    let scripts: &[&[(&str, Place)]] = &[
        &[("BEGIN", Primary), ("SELECT 1", Primary), ("UPDATE t SET b = 'x'", Primary), ("COMMIT", Primary)],
        &[("BEGIN READ ONLY", Replica), ("SELECT 1", Replica), ("SELECT f_stable()", Replica), ("COMMIT", Replica)],
        &[("START TRANSACTION READ ONLY", Replica), ("TABLE t", Replica), ("ROLLBACK", Replica)],
        &[("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Replica), ("TABLE t", Replica), ("END", Replica)],
        &[("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", Primary), ("TABLE t", Primary), ("END", Primary)],
        &[("BEGIN ISOLATION LEVEL SERIALIZABLE", Primary), ("TABLE t", Primary), ("ABORT", Primary)],
        &[("BEGIN; SELECT 1; COMMIT", Primary), ("SELECT 1", Replica)],
        &[
            ("SET default_transaction_read_only = on", Primary),
            ("BEGIN", Replica),
            ("TABLE t", Replica),
            ("COMMIT", Replica),
            ("BEGIN READ WRITE", Primary),
            ("UPDATE t SET b = 'x'", Primary),
            ("COMMIT", Primary),
            ("RESET default_transaction_read_only", Primary),
            ("BEGIN", Primary),
            ("COMMIT", Primary),
        ],
        &[
            ("SET default_transaction_isolation = 'serializable'", Primary),
            ("TABLE t", Primary),
            ("BEGIN READ ONLY", Primary),
            ("TABLE t", Primary),
            ("COMMIT", Primary),
            ("RESET default_transaction_isolation", Primary),
            ("TABLE t", Replica),
        ],
        &[
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Primary),
            ("BEGIN", Replica),
            ("TABLE t", Replica),
            ("COMMIT", Replica),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", Primary),
            ("BEGIN", Primary),
            ("COMMIT", Primary),
        ],
        // A transaction that says only later what it is moves, while nothing has been run in it.
        &[("BEGIN", Primary), ("SET TRANSACTION READ ONLY", Replica), ("TABLE t", Replica), ("COMMIT", Replica)],
        &[("BEGIN", Primary), ("TABLE t", Primary), ("SET TRANSACTION READ ONLY", Primary), ("COMMIT", Primary)],
        // An advisory lock on a replica would hold up nobody.
        &[("BEGIN READ ONLY", Replica), ("SELECT pg_advisory_xact_lock(5)", Primary), ("ROLLBACK", Primary)],
        &[
            ("BEGIN READ ONLY", Replica),
            ("SELECT 1", Replica),
            ("SELECT pg_advisory_xact_lock(5)", Nowhere),
            ("ROLLBACK", Replica),
        ],
    ];
    let mut wrong = Vec::new();
    for script in scripts {
        for (sql, place) in *script {
            let (found, counted, messages) = witness.simple(&mut client, sql).await;
            if found != *place || no_error(&messages) == (*place == Nowhere) {
                wrong.push(format!("{sql} of {script:?}: {found:?} {counted} {messages:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // What a pipeline does as a whole decides before its first byte is sent.
    let (read, write) = (witness.mark(), witness.mark());
    let insert = format!("INSERT INTO journal VALUES (1){write}");
    let pipeline = [raw::run(&format!("SELECT 1{read}"), &[]), raw::run(&insert, &[]), raw::sync()].concat();
    assert!(no_error(&client.exchange(&pipeline).await));
    assert_eq!((witness.place(&read), witness.place(&write)), (Primary, Primary));
    // Behind a Sync it is another transaction.
    let (read, write) = (witness.mark(), witness.mark());
    let insert = format!("INSERT INTO journal VALUES (1){write}");
    let read_first = raw::run(&format!("SELECT 1{read}"), &[]);
    client.send(&[read_first, raw::sync(), raw::run(&insert, &[]), raw::sync()].concat()).await;
    assert!(no_error(&client.until_ready(2).await));
    assert_eq!((witness.place(&read), witness.place(&write)), (Replica, Primary), "{:?}", witness.reasons().await);

    // BEGIN READ ONLY that turns out to write fails as PostgreSQL has it.
    assert!(no_error(&client.query("BEGIN READ ONLY").await));
    assert_eq!(raw::sqlstates(&client.query("INSERT INTO journal VALUES (1)").await), ["25006"]);
    assert_eq!(raw::sqlstates(&client.query("SELECT 1").await), ["25P02"]);
    assert_eq!(raw::tags(&client.query("ROLLBACK").await), "CZ");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nextval_and_currval_share_a_connection() {
    let stand = stand("[pool]\nsize = 2\n").await;
    let mut others = [stand.raw().await, stand.raw().await];
    let mut client = stand.raw().await;
    assert!(no_error(&client.query("BEGIN").await));
    let next = client.value("SELECT nextval('s')").await;
    others[0].value("SELECT nextval('s')").await;
    assert_eq!(client.value("SELECT currval('s')").await, next);
    assert_eq!(client.value("SELECT lastval()").await, next);
    assert!(no_error(&client.query("COMMIT").await));
    // Outside of a transaction the next statement may meet another server connection: what others
    // have drawn there is not shown.
    for _ in 0..10 {
        let next = client.value("SELECT nextval('s')").await;
        for other in &mut others {
            other.value("SELECT nextval('s')").await;
        }
        for sql in ["SELECT currval('s')", "SELECT lastval()"] {
            let messages = client.query(sql).await;
            let is_own = raw::rows(&messages) == [[next.as_str()]];
            assert!(is_own || raw::sqlstates(&messages) == ["55000"], "{sql}: {messages:?}");
        }
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_followed() {
    let stand = stand("").await;
    let mut client = reader(&stand).await;
    let mut witness = Witness::new(&stand);
    assert_eq!(witness.simple(&mut client, "SELECT f_stable()").await.0, Place::Replica);
    // By another client, to volatile: what it does must happen.
    let other = stand.client().await;
    let redefined = "CREATE OR REPLACE FUNCTION f_stable() RETURNS int LANGUAGE sql VOLATILE
                     AS 'INSERT INTO journal VALUES (42) RETURNING a'";
    let ddl = ["reason=\"ddl\""];
    let before = stand.proxy.statements(&ddl).await;
    other.batch_execute(redefined).await.unwrap();
    let (_, _, messages) = witness.simple(&mut client, "SELECT f_stable()").await;
    assert!(no_error(&messages), "{messages:?}");
    let count = "SELECT count(*) FROM journal WHERE a = 42";
    let rows = stand.cluster.primary().sql_in("app", count).await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("1"));
    // A new function is unknown until the catalog has been read again.
    other.batch_execute("CREATE FUNCTION f_new() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'").await.unwrap();
    // Counted a moment after the client was told: what is counted from here on is the other client's.
    stand.proxy.wait_for_metric("pgsluice_statements_total", &ddl, |count| count >= before + 2.0).await;
    let start = Instant::now();
    loop {
        let (place, counted, messages) = witness.simple(&mut client, "SELECT f_new()").await;
        assert!(no_error(&messages), "{place:?} {messages:?}");
        if place == Place::Replica {
            break;
        }
        // What another client has run a moment ago may be counted only now.
        let is_expected = counted.ends_with("primary unknown_function") || counted.ends_with("primary not_fresh");
        assert!(is_expected, "{counted}");
        assert!(start.elapsed() < DEADLINE);
    }
    // Made on the server itself, where the proxy does not see it made.
    let sql = "CREATE FUNCTION f_behind() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'";
    stand.cluster.primary().sql_in("app", sql).await.unwrap();
    let start = Instant::now();
    while witness.simple(&mut client, "SELECT f_behind()").await.0 != Place::Replica {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_refuses_is_healed() {
    use Place::{Both, Primary};
    let stand = stand("").await;
    let mut client = reader(&stand).await;
    let mut witness = Witness::new(&stand);
    let hidden = ["SELECT f_liar()", "SELECT 1 OPERATOR(public.<#>) 2", "SELECT 5::box_of_int", "SELECT 1 <#> 2"];
    let mut healed = 0.0;
    for (index, sql) in hidden.into_iter().enumerate() {
        // What is remembered is the statement, whatever its comments: so it is healed once, in one protocol.
        for is_extended in [index % 2 == 1] {
            let mark = witness.mark();
            let text = format!("{sql}{mark}");
            let send = |text: &str| match is_extended {
                false => raw::query(text),
                true => [raw::parse("", text), raw::describe_statement(""), raw::run_prepared("", &[]), raw::sync()]
                    .concat(),
            };
            let (place, counted, messages) = witness.watch(&mut client, &send(&text), &mark).await;
            let expected = if is_extended { "1tT2DCZ" } else { "TDCZ" };
            assert_eq!(raw::tags(&messages), expected, "{sql} {place:?} {counted} {messages:?}");
            if counted == "primary unparsed" {
                assert_eq!(place, Primary, "{sql}");
                continue;
            }
            healed += 1.0;
            assert_eq!((place, &*counted), (Both, "primary refused_by_standby"), "{sql} {messages:?}");
            assert_eq!(stand.proxy.metric("pgsluice_healed_statements_total", &[]).await, Some(healed), "{sql}");
            let refused = count_in_replica_logs(&stand, &mark);
            let (_, counted, messages) = witness.watch(&mut client, &send(&text), &mark).await;
            assert_eq!(raw::tags(&messages), expected);
            assert_eq!(counted, "primary refused_by_standby", "{sql}");
            assert_eq!(count_in_replica_logs(&stand, &mark), refused, "{sql}: it was sent to a replica again");
        }
    }
    assert!(healed >= 2.0, "nothing was hidden from the proxy");
    // By name, prepared once and run twice.
    let mark = witness.mark();
    let text = format!("SELECT f_liar() + $1{mark}");
    let prepared = [raw::parse_typed("liar", &text, &[20]), raw::describe_statement("liar"), raw::sync()].concat();
    assert_eq!(raw::tags(&client.exchange(&prepared).await), "1tTZ");
    for _ in 0..2 {
        let messages = client.exchange(&[raw::run_prepared("liar", &["1"]), raw::sync()].concat()).await;
        assert_eq!(raw::tags(&messages), "2DCZ", "{messages:?}");
    }
    assert_eq!(stand.proxy.metric("pgsluice_healed_statements_total", &[]).await, Some(healed + 1.0));

    // Inside a pipeline whose first statement is a read, and in a message of several statements.
    let mark = witness.mark();
    let pipeline =
        [raw::run("SELECT 7", &[]), raw::run(&format!("SELECT f_liar() - 1{mark}"), &[]), raw::sync()].concat();
    let messages = client.exchange(&pipeline).await;
    assert_eq!(raw::tags(&messages), "12DC12DCZ", "{messages:?}");
    assert_eq!(witness.place(&mark), Both);
    let messages = client.query("SELECT 8; SELECT f_liar() + 2").await;
    assert_eq!(raw::tags(&messages), "TDCTDCZ", "{messages:?}");

    // Not where the session asked for a replica, and not in a read-only transaction.
    client.query("SET pgsluice.route = 'replica'").await;
    assert_eq!(raw::sqlstates(&client.query("SELECT f_liar() + 3").await), ["25006"]);
    client.query("RESET pgsluice.route").await;
    client.query("BEGIN READ ONLY").await;
    assert_eq!(raw::sqlstates(&client.query("SELECT f_liar() + 4").await), ["25006"]);
    client.query("ROLLBACK").await;
    stand.stop().await;
}

fn count_in_replica_logs(stand: &Stand, mark: &str) -> usize {
    let logs = stand.cluster.replicas().iter().map(|server| std::fs::read_to_string(server.log_file()).unwrap());
    logs.map(|log| log.matches(mark).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_parsed_goes_to_the_primary() {
    let stand = stand("").await;
    let mut client = reader(&stand).await;
    let mut witness = Witness::new(&stand);
    let before = stand.proxy.metric("pgsluice_parse_failures_total", &[]).await.unwrap();
    for (index, sql) in ["SELEC 1", "SELECT 1 FROM t WHERE (", "UPDATE t SET"].into_iter().enumerate() {
        let (place, counted, messages) = witness.simple(&mut client, sql).await;
        assert_eq!((place, &*counted), (Place::Primary, "primary unparsed"), "{sql}");
        assert_eq!(raw::sqlstates(&messages), ["42601"], "{sql}");
        let failures = stand.proxy.metric("pgsluice_parse_failures_total", &[]).await.unwrap();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let expected = before + index as f64 + 1.0;
        assert_eq!(failures, expected, "{sql}");
    }
    // By the extended protocol too.
    let (place, counted, _) = witness.extended(&mut client, "SELEC 2").await;
    assert_eq!((place, &*counted), (Place::Primary, "primary unparsed"));
    assert_eq!(stand.proxy.metric("pgsluice_parse_failures_total", &[]).await.unwrap(), before + 4.0);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_may_say_where() {
    use Place::{Nowhere, Own, Primary, Replica};
    let stand = stand("").await;
    let mut client = reader(&stand).await;
    let mut witness = Witness::new(&stand);
    let script = [
        ("SET pgsluice.route = 'primary'", Primary, ""),
        ("SELECT 1", Primary, ""),
        ("SHOW pgsluice.route", Own, "primary"),
        ("SET pgsluice.route TO replica", Primary, ""),
        ("SELECT pg_is_in_recovery()", Replica, "t"),
        ("SHOW pgsluice.route", Own, "replica"),
        ("BEGIN", Replica, ""),
        ("SELECT pg_is_in_recovery()", Replica, "t"),
        ("COMMIT", Replica, ""),
        ("RESET pgsluice.route", Replica, ""),
        ("SHOW pgsluice.route", Own, "auto"),
        ("SELECT pg_is_in_recovery()", Primary, "f"),
        ("SET pgsluice.consistency = 'primary'", Primary, ""),
        ("SELECT 1", Primary, "1"),
        ("SHOW pgsluice.consistency", Own, "primary"),
        ("SET pgsluice.consistency = 'eventual'", Primary, ""),
        ("SELECT 1", Replica, "1"),
        ("SET pgsluice.consistency = 'session'", Primary, ""),
        ("/* pgsluice: route=primary */ SELECT pg_is_in_recovery()", Primary, "f"),
        ("/* pgsluice: route=replica */ SELECT pg_is_in_recovery()", Replica, "t"),
        ("/* pgsluice: consistency=primary */ SELECT 1", Primary, "1"),
        ("/* pgsluice: consistency=eventual */ SELECT 2", Replica, "2"),
        ("/* pgsluice: consistency=bounded, max_staleness=1h */ SELECT 3", Replica, "3"),
        ("/* pgsluice: rout=primary */ SELECT 1", Nowhere, "42704"),
        ("/* pgsluice: route=nowhere */ SELECT 1", Nowhere, "22023"),
        ("/* pgsluice: session_key=a */ SELECT 1", Nowhere, "22023"),
        ("SET pgsluice.consistency = 'strong'", Primary, ""),
        ("SELECT 1", Primary, "1"),
        ("SET pgsluice.consistency = 'bounded'", Primary, ""),
        ("SET pgsluice.max_staleness = '1h'", Primary, ""),
        ("SHOW pgsluice.max_staleness", Own, "3600000ms"),
        ("SELECT 1", Replica, "1"),
        ("SET pgsluice.max_staleness = '1us'", Primary, ""),
        ("SELECT 1", Primary, "1"),
        ("SET pgsluice.max_staleness = 'soon'", Nowhere, "22023"),
        ("SHOW pgsluice.unheard", Nowhere, "42704"),
        ("SET pgsluice.consistency = 'session'", Primary, ""),
        ("SET pgsluice.consistency = 'newest'", Nowhere, "22023"),
        ("SET pgsluice.route = 'nowhere'", Nowhere, "22023"),
        ("SET pgsluice.rout = 'primary'", Nowhere, "42704"),
        ("SHOW pgsluice.consistency", Own, "session"),
        ("SELECT set_config('pgsluice.route', 'replica', false)", Primary, "replica"),
        ("SELECT pg_is_in_recovery()", Replica, "t"),
        ("SELECT set_config('pgsluice.route', 'auto', false)", Replica, "auto"),
        ("SELECT pg_is_in_recovery()", Primary, "f"),
    ];
    let mut wrong = Vec::new();
    for (sql, place, expected) in script {
        // A read of this session is fresh on a replica soon after.
        let start = Instant::now();
        let (found, counted, messages) = loop {
            let round = witness.simple(&mut client, sql).await;
            if round.0 == place || round.1 != "primary not_fresh" || start.elapsed() > DEADLINE {
                break round;
            }
        };
        let error = raw::sqlstates(&messages).join(" ");
        let value = raw::rows(&messages).first().map(|row| row[0].clone());
        let is_as_expected = match place {
            Nowhere => error == expected && found == Nowhere,
            Own => error.is_empty() && found == Nowhere && value.as_deref() == Some(expected),
            _ => error.is_empty() && found == place && (expected.is_empty() || value.as_deref() == Some(expected)),
        };
        if !is_as_expected {
            wrong.push(format!("{sql}: {found:?} {counted} {messages:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    let login = raw::Login { settings: &[("options", "-c pgsluice.route=replica")], ..stand.login() };
    let mut client = Raw::connect(&login).await;
    assert_eq!(client.value("SELECT pg_is_in_recovery()").await, "t");
    assert_eq!(raw::sqlstates(&client.query("INSERT INTO journal VALUES (1)").await), ["25006"]);
    assert!(no_error(&client.query("SET pgsluice.route = auto").await));
    assert_eq!(client.value("SELECT pg_is_in_recovery()").await, "f");
    assert!(no_error(&client.query("RESET pgsluice.route").await));
    assert_eq!(client.value("SELECT pg_is_in_recovery()").await, "t");

    for options in ["-c pgsluice.route=nowhere", "-c pgsluice.consistency=newest", "-c pgsluice.unheard=x"] {
        let mut client = Raw::open(&stand.proxy.address).await;
        let login = raw::Login { settings: &[("options", options)], ..stand.login() };
        let messages = client.log_in(&login).await;
        assert_eq!(raw::tags(&messages), "E", "{options} {messages:?}");
        assert_eq!(messages[0].field(b'S').as_deref(), Some("FATAL"), "{messages:?}");
    }
    stand.stop().await;
}
