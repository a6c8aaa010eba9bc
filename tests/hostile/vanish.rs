//! Clients that are gone in the middle of something. What they had begun is rolled back, and the next
//! user of the connection finds nothing of it.

use std::time::Instant;

use crate::bystander::Bystander;
use crate::support::unruly::{Raw, bind, execute, frame, parse};
use crate::support::{DEADLINE, Stand};

const SECTIONS: &str = "[pool]\nsize = 1\n";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_theirs_is_left() {
    let stand = Stand::start(0, SECTIONS).await;
    stand.client().await.batch_execute("CREATE TABLE t (n bigint, filler text)").await.unwrap();
    let insert = "INSERT INTO t VALUES (1, 'x')";
    let in_transaction = |text: &str| [frame(b'Q', b"BEGIN\0"), frame(b'Q', format!("{text}\0").as_bytes())].concat();
    let pipeline = [parse("", insert), bind("", &[]), execute(), frame(b'H', b"")].concat();
    // What they send, and which message they await before they go.
    let table: &[(&str, Vec<u8>, u8)] = &[
        ("a transaction", in_transaction(insert), b'C'),
        ("a failed transaction", in_transaction("SELECT 1/0"), b'E'),
        ("a transaction with settings", in_transaction("INSERT INTO t VALUES (1); SET LOCAL work_mem = '1MB'"), b'C'),
        ("a pipeline without its Sync", pipeline, b'2'),
        (
            "a COPY in",
            [frame(b'Q', b"COPY t FROM STDIN\0"), frame(b'd', b"1\tx\n"), frame(b'd', b"2\tx\n")].concat(),
            b'G',
        ),
        ("a COPY in a transaction", [in_transaction("COPY t FROM STDIN"), frame(b'd', b"1\tx\n")].concat(), b'G'),
        (
            "half of a COPY's message",
            [frame(b'Q', b"COPY t FROM STDIN\0"), frame(b'd', b"1\tx\n")[..7].to_vec()].concat(),
            b'G',
        ),
        (
            "a COPY out",
            frame(b'Q', b"COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000000)) TO STDOUT\0"),
            b'd',
        ),
        ("a result", frame(b'Q', b"SELECT repeat('x', 1000) FROM generate_series(1, 10000000)\0"), b'D'),
        (
            "a result in a transaction",
            in_transaction("INSERT INTO t VALUES (1) RETURNING (SELECT count(*) FROM generate_series(1, 10))"),
            b'D',
        ),
        ("a wide row", frame(b'Q', b"SELECT repeat('x', 200000000)\0"), b'T'),
        (
            "temporary state",
            frame(b'Q', b"CREATE TEMP TABLE mine (n int); SET search_path = nowhere; LISTEN l\0"),
            b'Z',
        ),
        ("a session's lock", frame(b'Q', b"SELECT pg_advisory_lock(77)\0"), b'Z'),
    ];
    for (name, bytes, awaited) in table {
        for with_reset in [true, false] {
            let mut raw = Raw::log_in(&stand).await;
            raw.send(bytes).await;
            raw.until(*awaited).await;
            if with_reset {
                raw.vanish()
            } else {
                drop(raw)
            }
            wait_until_quiet(&stand, name).await;
            // The only connection of the pool is to be had again, and is clean.
            let client = stand.client().await;
            let row = client
                .query_one(
                    "SELECT (SELECT count(*) FROM t), current_setting('search_path') || ' ' || current_setting('work_mem'), to_regclass('mine')::text, \
                     pg_try_advisory_lock(77) AND pg_advisory_unlock(77)",
                    &[],
                )
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(row.get::<_, i64>(0), 0, "{name}");
            assert_eq!(row.get::<_, String>(1), "\"$user\", public 4MB", "{name}");
            assert_eq!(row.get::<_, Option<String>>(2), None, "{name}");
            assert!(row.get::<_, bool>(3), "{name}");
        }
    }
    let bystander = Bystander::start(&stand).await;
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

/// No server process of the application's is doing anything, or holding anything.
async fn wait_until_quiet(stand: &Stand, name: &str) {
    let start = Instant::now();
    let sql = "SELECT count(*) FROM pg_stat_activity a WHERE usename = 'app' AND (state <> 'idle' OR EXISTS \
               (SELECT FROM pg_locks l WHERE l.pid = a.pid))";
    loop {
        let rows = stand.cluster.primary().sql_in("app", sql).await.expect("the server answers");
        if rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten().as_deref() == Some("0") {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{name}: something is left on the server");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
