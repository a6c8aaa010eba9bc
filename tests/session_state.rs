//! Session state behind a transaction pool: several clients share one or two server connections, and
//! each finds its own state there, and nobody else's.

mod support;

use std::time::{Duration, Instant};

use support::raw::{self, *};
use support::{DEADLINE, Stand};

const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

async fn stand(replicas: usize, pool: &str) -> Stand {
    Stand::start(replicas, &format!("{CALM}[pool]\n{pool}\n")).await
}

/// One server connection for everybody.
async fn shared() -> Stand {
    stand(0, "size = 1").await
}

async fn ok(client: &mut Raw, sql: &str) {
    let messages = client.query(sql).await;
    assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
}

async fn fails(client: &mut Raw, sql: &str, sqlstate: &str) {
    let messages = client.query(sql).await;
    assert_eq!(raw::sqlstates(&messages), [sqlstate], "{sql}: {messages:?}");
}

/// Repeats until it holds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The server connections of the application's user on the primary.
async fn backends(stand: &Stand) -> Vec<String> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY pid";
    let rows = stand.cluster.primary().sql(sql).await.unwrap();
    rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_stay_with_their_client() {
    let stand = shared().await;
    // The setting, what one client does, what it then has, what others have.
    let cases: &[(&str, &[&str], &str, &str)] = &[
        ("work_mem", &["SET work_mem = '8MB'"], "8MB", "4MB"),
        ("work_mem", &["SET SESSION work_mem TO 9000"], "9000kB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'", "RESET work_mem"], "4MB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'", "SET work_mem TO DEFAULT"], "4MB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'", "RESET ALL"], "4MB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'", "DISCARD ALL"], "4MB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'", "SET work_mem = 'x'"], "8MB", "4MB"),
        ("work_mem", &["SET LOCAL work_mem = '8MB'"], "4MB", "4MB"),
        ("work_mem", &["BEGIN", "SET work_mem = '8MB'", "COMMIT"], "8MB", "4MB"),
        ("work_mem", &["BEGIN", "SET work_mem = '8MB'", "ROLLBACK"], "4MB", "4MB"),
        ("work_mem", &["BEGIN", "SET LOCAL work_mem = '8MB'", "COMMIT"], "4MB", "4MB"),
        ("work_mem", &["BEGIN", "SET work_mem = '8MB'", "SET LOCAL work_mem = '7MB'", "COMMIT"], "8MB", "4MB"),
        ("work_mem", &["BEGIN", "SET work_mem = '8MB'", "SELECT 1/0", "COMMIT"], "4MB", "4MB"),
        (
            "work_mem",
            &["SET work_mem = '6MB'", "BEGIN", "SET work_mem = '8MB'", "SELECT 1/0", "ROLLBACK"],
            "6MB",
            "4MB",
        ),
        ("work_mem", &["SET work_mem = '6MB'", "BEGIN", "RESET work_mem", "ROLLBACK"], "6MB", "4MB"),
        ("work_mem", &["SET work_mem = '6MB'", "BEGIN", "RESET ALL", "COMMIT"], "4MB", "4MB"),
        (
            "work_mem",
            &["BEGIN", "SET work_mem = '8MB'", "SAVEPOINT a", "SET work_mem = '9MB'", "ROLLBACK TO a", "COMMIT"],
            "8MB",
            "4MB",
        ),
        ("work_mem", &["BEGIN", "SAVEPOINT a", "SET work_mem = '9MB'", "RELEASE a", "COMMIT"], "9MB", "4MB"),
        ("work_mem", &["SET work_mem = '8MB'; SELECT 1/0"], "4MB", "4MB"),
        ("work_mem", &["SELECT 1; SET work_mem = '8MB'"], "8MB", "4MB"),
        ("work_mem", &["BEGIN; SET work_mem = '8MB'; COMMIT"], "8MB", "4MB"),
        ("work_mem", &["BEGIN; SET work_mem = '8MB'; ROLLBACK"], "4MB", "4MB"),
        ("work_mem", &["BEGIN; SET work_mem = '8MB'; COMMIT; SELECT 1/0"], "8MB", "4MB"),
        (
            "work_mem",
            &["BEGIN", "SET work_mem = '8MB'", "COMMIT AND CHAIN", "SET work_mem = '9MB'", "ROLLBACK"],
            "8MB",
            "4MB",
        ),
        ("work_mem", &["SELECT set_config('work_mem', '8MB', false)"], "8MB", "4MB"),
        ("work_mem", &["SELECT set_config('work_mem', '8MB', true)"], "4MB", "4MB"),
        ("work_mem", &["BEGIN", "SELECT set_config('work_mem', '8MB', false)", "ROLLBACK"], "4MB", "4MB"),
        ("work_mem", &["BEGIN", "SELECT set_config('work_mem', '8MB', false)", "COMMIT"], "8MB", "4MB"),
        ("work_mem", &["DO $$ BEGIN SET work_mem = '8MB'; END $$"], "8MB", "4MB"),
        ("work_mem", &["DO $$ BEGIN PERFORM set_config('work_mem', '8MB', false); END $$"], "8MB", "4MB"),
        ("work_mem", &["UPDATE pg_settings SET setting = '8192' WHERE name = 'work_mem'"], "8MB", "4MB"),
        (
            "work_mem",
            &["PREPARE p AS SELECT set_config('work_mem', '8MB', false)", "EXECUTE p", "DEALLOCATE p"],
            "8MB",
            "4MB",
        ),
        ("search_path", &["SET search_path = a, \"B c\", public"], "a, \"B c\", public", "\"$user\", public"),
        ("search_path", &["SET SCHEMA 'x'"], "x", "\"$user\", public"),
        ("search_path", &["SET search_path = ''"], "\"\"", "\"$user\", public"),
        ("TimeZone", &["SET TIME ZONE 'Asia/Tokyo'"], "Asia/Tokyo", "UTC"),
        ("TimeZone", &["SET TIME ZONE -5"], "<-05>+05", "UTC"),
        ("TimeZone", &["SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE"], "<+02>-02", "UTC"),
        ("DateStyle", &["SET DateStyle = 'German'", "SET datestyle TO YMD"], "German, YMD", "ISO, MDY"),
        (
            "TimeZone",
            &["SET TimeZone = 'Asia/Tokyo'; SELECT set_config('work_mem', '8MB', false)", "RESET TimeZone"],
            "UTC",
            "UTC",
        ),
        (
            "TimeZone",
            &[
                "SET TimeZone = 'Asia/Tokyo'",
                "SELECT set_config('work_mem', '8MB', false)",
                "SET TimeZone = 'Europe/Paris'",
            ],
            "Europe/Paris",
            "UTC",
        ),
        ("client_encoding", &["SET NAMES 'LATIN1'"], "LATIN1", "UTF8"),
        ("statement_timeout", &["SET statement_timeout = '1h'"], "1h", "0"),
        (
            "default_transaction_isolation",
            &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ"],
            "repeatable read",
            "read committed",
        ),
        (
            "transaction_isolation",
            &["SET default_transaction_isolation = 'repeatable read'"],
            "repeatable read",
            "read committed",
        ),
        ("app.x", &["SET app.x = 'it''s mine'"], "it's mine", "NULL"),
        ("app.x", &["SELECT set_config('app.x', 'mine', false)"], "mine", "NULL"),
        ("app.y", &["BEGIN", "SET app.y = '1'", "ROLLBACK"], "NULL", "NULL"),
        ("app.z", &["SET app.z = '1'", "SELECT set_config('app.z', '2', false)"], "2", "NULL"),
        ("app.deep.name", &["SET app.deep.name = '1'"], "1", "NULL"),
        ("role", &["SET ROLE pg_monitor"], "pg_monitor", "none"),
        ("role", &["SET ROLE pg_monitor", "RESET ROLE"], "none", "none"),
        ("role", &["SET ROLE pg_monitor", "SET ROLE NONE"], "none", "none"),
        ("role", &["SET ROLE pg_monitor", "RESET ALL"], "pg_monitor", "none"),
        ("role", &["SET ROLE pg_monitor", "DISCARD ALL"], "none", "none"),
        ("role", &["BEGIN", "SET LOCAL ROLE pg_monitor", "COMMIT"], "none", "none"),
        ("role", &["BEGIN", "SET ROLE pg_monitor", "ROLLBACK"], "none", "none"),
    ];
    let grant = "GRANT pg_monitor TO app";
    stand.cluster.primary().sql(grant).await.unwrap();
    let mut wrong = Vec::new();
    for (name, steps, expected, untouched) in cases {
        let outcome = tokio::time::timeout(DEADLINE, check_setting(&stand, name, steps, expected, untouched)).await;
        wrong.extend(outcome.unwrap_or_else(|_| vec![format!("{name} {steps:?}: stuck")]));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stand.stop().await;
}

async fn check_setting(stand: &Stand, name: &str, steps: &[&str], expected: &str, untouched: &str) -> Vec<String> {
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    let mut seen = Vec::new();
    for sql in steps {
        seen.push(one.query(sql).await);
    }
    let show = format!("SELECT current_setting('{name}', true)");
    let expectations = [expected, untouched, expected, untouched];
    let mut wrong = Vec::new();
    for (index, expected) in expectations.into_iter().enumerate() {
        let client = if index % 2 == 0 { &mut one } else { &mut two };
        let messages = client.query(&show).await;
        let rows = raw::rows(&messages);
        // A custom setting that was never set is NULL, and empty once it was set and reset.
        let is_unset = expected == "NULL" && rows == [[""]];
        if rows != [[expected]] && !is_unset {
            wrong.push(format!("{name} {steps:?} {index}: {messages:?}, expected {expected}; {seen:?}"));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_parameters_are_where_reset_goes() {
    let stand = shared().await;
    let settings =
        [("work_mem", "7MB"), ("application_name", "seven"), ("options", "-c app.x=startup -c TimeZone=Asia/Tokyo")];
    let login = raw::Login { settings: &settings, ..stand.login() };
    let mut one = Raw::connect(&login).await;
    let mut two = stand.raw().await;
    let all = "SELECT concat_ws(' ', current_setting('work_mem'), current_setting('application_name'), current_setting('app.x', true), current_setting('TimeZone'))";
    for reset in ["", "RESET ALL", "RESET work_mem", "DISCARD ALL", "SET work_mem TO DEFAULT"] {
        if !reset.is_empty() {
            ok(&mut one, "SET work_mem = '8MB'").await;
            assert!(one.value(all).await.starts_with("8MB seven startup Asia/Tokyo"));
            assert!(two.value(all).await.starts_with("4MB "), "{reset}");
            ok(&mut one, reset).await;
        }
        assert_eq!(one.value(all).await, "7MB seven startup Asia/Tokyo", "{reset}");
        assert!(two.value(all).await.starts_with("4MB "), "{reset}");
        assert_eq!(one.value(all).await, "7MB seven startup Asia/Tokyo", "{reset}, after another");
    }
    // A transaction that began before the reset.
    ok(&mut one, "BEGIN").await;
    ok(&mut one, "SET work_mem = '8MB'").await;
    ok(&mut one, "RESET work_mem").await;
    assert_eq!(one.value("SHOW work_mem").await, "7MB");
    ok(&mut one, "COMMIT").await;
    assert_eq!(one.value("SHOW work_mem").await, "7MB");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_authorization_stays_with_its_client() {
    let stand = shared().await;
    let options = stand.cluster.options();
    let superuser =
        raw::Login { user: &options.superuser.user, password: &options.superuser.password, ..stand.login() };
    let mut one = Raw::connect(&superuser).await;
    let mut two = Raw::connect(&superuser).await;
    let who = "SELECT concat(session_user, ' ', current_user)";
    ok(&mut one, "SET SESSION AUTHORIZATION app").await;
    assert_eq!(one.value(who).await, "app app");
    assert_eq!(two.value(who).await, "postgres postgres");
    assert_eq!(one.value(who).await, "app app");
    ok(&mut two, "SET ROLE pg_monitor").await;
    assert_eq!(one.value(who).await, "app app");
    assert_eq!(two.value(who).await, "postgres pg_monitor");
    ok(&mut one, "RESET SESSION AUTHORIZATION").await;
    assert_eq!(one.value(who).await, "postgres postgres");
    assert_eq!(two.value(who).await, "postgres pg_monitor");
    ok(&mut two, "DISCARD ALL").await;
    assert_eq!(two.value(who).await, "postgres postgres");
    ok(&mut one, "BEGIN").await;
    ok(&mut one, "SET LOCAL SESSION AUTHORIZATION app").await;
    assert_eq!(one.value(who).await, "app app");
    ok(&mut one, "COMMIT").await;
    assert_eq!(one.value(who).await, "postgres postgres");
    // A setting that only a superuser may touch, and then a role that is none.
    ok(&mut one, "SET log_min_duration_statement = '1h'").await;
    ok(&mut one, "SET ROLE pg_monitor").await;
    assert_eq!(one.value("SHOW log_min_duration_statement").await, "1h");
    assert_eq!(two.value("SHOW log_min_duration_statement").await, "-1");
    assert_eq!(two.value(who).await, "postgres postgres");
    assert_eq!(one.value(who).await, "postgres pg_monitor");
    assert_eq!(one.value("SHOW log_min_duration_statement").await, "1h");
    ok(&mut one, "DISCARD ALL").await;
    // Who leaves under another name leaves nothing behind.
    ok(&mut one, "SET SESSION AUTHORIZATION app").await;
    one.send(&frame(b'X', b"")).await;
    assert_eq!(one.next().await, None);
    assert_eq!(two.value(who).await, "postgres postgres");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameter_status_reaches_its_client() {
    let stand = shared().await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    let status = |messages: &[Message]| -> Vec<String> {
        let statuses = messages.iter().filter(|message| message.tag == b'S');
        statuses
            .map(|message| String::from_utf8_lossy(&message.body).trim_end_matches('\0').replace('\0', "="))
            .collect()
    };
    for (sql, expected) in [
        ("SET TimeZone = 'Asia/Tokyo'", "TimeZone=Asia/Tokyo"),
        ("SET DateStyle = 'German'", "DateStyle=German, DMY"),
        ("SET application_name = 'one'", "application_name=one"),
        ("SET client_encoding = 'LATIN1'", "client_encoding=LATIN1"),
        ("SET standard_conforming_strings = off", "standard_conforming_strings=off"),
    ] {
        assert_eq!(status(&one.query(sql).await), [expected], "{sql}");
        // The other one is told nothing, and has its own.
        assert_eq!(status(&two.query("SELECT 1").await), Vec::<String>::new(), "{sql}");
        assert_eq!(status(&one.query("SELECT 1").await), Vec::<String>::new(), "{sql}");
    }
    let messages = one.query("SELECT chr(233)").await;
    let row = messages.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(&row.body[2..], [0, 0, 0, 1, 233]);
    let messages = two.query("SELECT chr(233)").await;
    let row = messages.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(&row.body[2..], [0, 0, 0, 2, 0xc3, 0xa9]);
    let mut statuses = status(&one.query("RESET ALL").await);
    statuses.sort();
    assert_eq!(statuses.len(), 5, "{statuses:?}");
    // A value that is undone by a rollback is told as well.
    assert_eq!(status(&one.query("BEGIN; SET TimeZone = 'Asia/Tokyo'").await), ["TimeZone=Asia/Tokyo"]);
    assert_eq!(status(&one.query("ROLLBACK").await).len(), 1);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_go_with_their_client() {
    let stand = stand(1, "size = 2\nmax_pinned = 2").await;
    let mut setup = stand.raw().await;
    ok(&mut setup, "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
    stand.cluster.wait_replicated().await.unwrap();
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = stand.raw().await;
        // The same name, and another text, for each.
        let text = format!("SELECT {number}, b FROM t WHERE a = $1");
        let messages = client.exchange(&[parse("mine", &text), describe_statement("mine"), sync()].concat()).await;
        assert_eq!(raw::tags(&messages), "1tTZ", "{messages:?}");
        let insert = format!("INSERT INTO t VALUES ($1, '{number}')");
        assert_eq!(raw::tags(&client.exchange(&[parse("write", &insert), sync()].concat()).await), "1Z");
        clients.push(client);
    }
    for round in 0..10 {
        for (number, client) in clients.iter_mut().enumerate() {
            let messages = client.exchange(&[run_prepared("mine", &["1"]), sync()].concat()).await;
            assert_eq!(raw::rows(&messages), [[number.to_string(), "one".to_owned()]], "{messages:?}");
            let key = (10 + round * 4 + number).to_string();
            let messages = client.exchange(&[run_prepared("write", &[&key]), sync()].concat()).await;
            assert_eq!(raw::tags(&messages), "2CZ", "{messages:?}");
        }
        // All at once, so that both connections are used.
        for client in &mut clients {
            client.send(&[run_prepared("mine", &["2"]), sync()].concat()).await;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let messages = client.until_ready(1).await;
            assert_eq!(raw::rows(&messages), [[number.to_string(), "two".to_owned()]], "{messages:?}");
        }
    }
    // One lets go of its name; the others keep theirs.
    let (first, rest) = clients.split_at_mut(1);
    let first = &mut first[0];
    assert_eq!(raw::tags(&first.exchange(&[close_statement("mine"), sync()].concat()).await), "3Z");
    let messages = first.exchange(&[run_prepared("mine", &["1"]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["26000"]);
    let messages = first.exchange(&[parse("mine", "SELECT 'new'"), run_prepared("mine", &[]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["new"]]);
    let messages = first.exchange(&[parse("mine", "SELECT 'newer'"), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["42P05"]);
    assert_eq!(messages[0].field(b'M').as_deref(), Some("prepared statement \"mine\" already exists"));
    let messages = first.exchange(&[run_prepared("mine", &[]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["new"]]);
    ok(first, "DEALLOCATE ALL").await;
    let messages = first.exchange(&[run_prepared("mine", &[]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["26000"]);
    assert_eq!(messages[0].field(b'M').as_deref(), Some("prepared statement \"mine\" does not exist"));
    for (number, client) in rest.iter_mut().enumerate() {
        let messages = client.exchange(&[run_prepared("mine", &["1"]), sync()].concat()).await;
        assert_eq!(raw::rows(&messages), [[(number + 1).to_string(), "one".to_owned()]], "{messages:?}");
    }
    // DISCARD ALL is everything of one client, and nothing of another.
    ok(&mut rest[0], "DISCARD ALL").await;
    let messages = rest[0].exchange(&[run_prepared("mine", &["1"]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["26000"]);
    let messages = rest[1].exchange(&[run_prepared("mine", &["1"]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["2", "one"]]);
    // SQL's own words for what was prepared by messages.
    let messages = rest[1].query("EXECUTE mine (2)").await;
    assert_eq!(raw::rows(&messages), [["2", "two"]], "{messages:?}");
    ok(&mut rest[1], "DEALLOCATE mine").await;
    fails(&mut rest[1], "EXECUTE mine (2)", "26000").await;
    fails(&mut rest[1], "DEALLOCATE mine", "26000").await;
    let messages = rest[2].query("EXECUTE mine (1)").await;
    assert_eq!(raw::rows(&messages), [["3", "one"]], "{messages:?}");
    // An error inside Parse leaves no name behind.
    let messages =
        rest[2].exchange(&[parse("bad", "SELECT nothing FROM t"), run_prepared("bad", &[]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["42703"]);
    let messages = rest[2].exchange(&[run_prepared("bad", &[]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["26000"]);
    let messages = rest[2].exchange(&[parse("bad", "SELECT 1"), run_prepared("bad", &[]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["1"]]);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_prepare_stays_with_its_client() {
    let stand = stand(0, "size = 2\nmax_pinned = 2").await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    ok(&mut one, "PREPARE p (int) AS SELECT $1 + 1").await;
    fails(&mut two, "EXECUTE p (1)", "26000").await;
    ok(&mut two, "PREPARE p AS SELECT 'two'").await;
    assert_eq!(one.value("EXECUTE p (1)").await, "2");
    assert_eq!(two.value("EXECUTE p").await, "two");
    let messages = one.exchange(&[run_prepared("p", &["5"]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["6"]], "{messages:?}");
    ok(&mut one, "DEALLOCATE p").await;
    fails(&mut one, "EXECUTE p (1)", "26000").await;
    ok(&mut two, "DEALLOCATE ALL").await;
    fails(&mut two, "EXECUTE p", "26000").await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_changes_plans_as_on_a_connection_of_its_own() {
    let stand = stand(0, "size = 2\nmax_pinned = 2").await;
    let address = stand.cluster.primary().address();
    let mut other = Raw::connect(&stand.login_at(&address)).await;
    for is_direct in [true, false] {
        ok(&mut other, "DROP TABLE IF EXISTS t; CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
        let login = if is_direct { stand.login_at(&address) } else { stand.login() };
        let mut client = Raw::connect(&login).await;
        let prepare = [parse("all", "SELECT * FROM t"), describe_statement("all"), sync()].concat();
        assert_eq!(raw::tags(&client.exchange(&prepare).await), "1tTZ");
        let run = [run_prepared("all", &[]), sync()].concat();
        assert_eq!(raw::tags(&client.exchange(&run).await), "2DCZ");
        ok(&mut other, "ALTER TABLE t ADD b text DEFAULT 'new'").await;
        for _ in 0..3 {
            let messages = client.exchange(&run).await;
            assert_eq!(raw::sqlstates(&messages), ["0A000"], "direct: {is_direct}, {messages:?}");
            let message = messages.iter().find(|message| message.tag == b'E').unwrap();
            assert_eq!(message.field(b'M').as_deref(), Some("cached plan must not change result type"));
            assert_eq!(message.field(b'R').as_deref(), Some("RevalidateCachedQuery"));
        }
        // As drivers do: away with it, and once more.
        let again = [close_statement("all"), prepare, run].concat();
        client.send(&again).await;
        let messages = client.until_ready(2).await;
        assert_eq!(raw::tags(&messages), "31tTZ2DCZ", "direct: {is_direct}, {messages:?}");
        assert_eq!(raw::rows(&messages), [["1", "new"]]);
    }
    // Changed between two uses on two different server connections.
    ok(&mut other, "DROP TABLE t; CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let mut client = stand.raw().await;
    let mut holder = stand.raw().await;
    assert_eq!(
        raw::tags(
            &client.exchange(&[parse("all", "SELECT * FROM t"), describe_statement("all"), sync()].concat()).await
        ),
        "1tTZ"
    );
    for pause in [true, false, true] {
        if pause {
            // The connection that was used last is taken, so that the client gets the other one.
            ok(&mut holder, "BEGIN").await;
        } else {
            ok(&mut other, "ALTER TABLE t ADD b text DEFAULT 'new'").await;
        }
        let messages = client.exchange(&[run_prepared("all", &[]), sync()].concat()).await;
        if !pause || raw::tags(&messages).contains('E') {
            assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
        } else {
            assert_eq!(raw::rows(&messages), [["1"]], "{messages:?}");
        }
        ok(&mut holder, "ROLLBACK").await;
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_is_the_clients_own() {
    let stand = shared().await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    assert_eq!(raw::tags(&one.exchange(&[parse("", "SELECT 'one'"), sync()].concat()).await), "1Z");
    assert_eq!(raw::tags(&two.exchange(&[parse("", "SELECT 'two'"), sync()].concat()).await), "1Z");
    for _ in 0..3 {
        let messages = one.exchange(&[run_prepared("", &[]), sync()].concat()).await;
        assert_eq!(raw::rows(&messages), [["one"]], "{messages:?}");
        let messages = two.exchange(&[describe_statement(""), run_prepared("", &[]), sync()].concat()).await;
        assert_eq!(raw::rows(&messages), [["two"]], "{messages:?}");
    }
    // What pgsluice asks behind a read now and then takes it from nobody.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        let messages = one.exchange(&[run_prepared("", &[]), sync()].concat()).await;
        assert_eq!(raw::rows(&messages), [["one"]], "{messages:?}");
    }
    // A simple query of one takes the unnamed statement from that one alone.
    assert_eq!(one.value("SELECT 3").await, "3");
    let messages = one.exchange(&[run_prepared("", &[]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["26000"], "{messages:?}");
    let messages = two.exchange(&[run_prepared("", &[]), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["two"]], "{messages:?}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_portals() {
    let stand = stand(1, "size = 2\nmax_pinned = 2").await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    ok(&mut one, "CREATE TABLE t AS SELECT n AS a FROM generate_series(1, 10) AS n").await;
    // Rows in portions, in a transaction, with others at work.
    ok(&mut one, "BEGIN").await;
    let first = [parse("", "SELECT a FROM t ORDER BY a"), bind("p", "", &[]), execute("p", 4), sync()].concat();
    assert_eq!(raw::tags(&one.exchange(&first).await), "12DDDDsZ");
    two.value("SELECT count(*) FROM t").await;
    let messages = one.exchange(&[execute("p", 4), sync()].concat()).await;
    assert_eq!(raw::rows(&messages), [["5"], ["6"], ["7"], ["8"]]);
    let messages = one.exchange(&[execute("p", 4), sync()].concat()).await;
    assert_eq!(raw::tags(&messages), "DDCZ");
    ok(&mut one, "COMMIT").await;
    // Cursors within a transaction, read-write and read-only.
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        ok(&mut one, begin).await;
        ok(&mut one, "DECLARE c CURSOR FOR SELECT a FROM t ORDER BY a").await;
        assert_eq!(one.rows("FETCH 2 FROM c").await, [["1"], ["2"]]);
        two.value("SELECT 1").await;
        assert_eq!(one.rows("FETCH 2 FROM c").await, [["3"], ["4"]]);
        ok(&mut one, "COMMIT").await;
        fails(&mut one, "FETCH 1 FROM c", "34000").await;
    }
    // WITH HOLD outlives its transaction, and stays with its client.
    ok(&mut one, "DECLARE h CURSOR WITH HOLD FOR SELECT a FROM t ORDER BY a").await;
    for number in 1..=5 {
        assert_eq!(one.value("FETCH 1 FROM h").await, number.to_string());
        fails(&mut two, "FETCH 1 FROM h", "34000").await;
        two.value("SELECT 1").await;
    }
    ok(&mut one, "CLOSE h").await;
    fails(&mut one, "FETCH 1 FROM h", "34000").await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_arrive_while_idle() {
    let stand = stand(1, "size = 2\nmax_pinned = 2").await;
    let mut listener = stand.raw().await;
    let mut speaker = stand.raw().await;
    ok(&mut listener, "LISTEN news").await;
    for payload in ["first", "second"] {
        ok(&mut speaker, &format!("NOTIFY news, '{payload}'")).await;
        let message = listener.read().await;
        assert_eq!(message.tag, b'A', "{message:?}");
        assert!(String::from_utf8_lossy(&message.body).contains(payload), "{message:?}");
        assert_eq!(listener.value("SELECT 1").await, "1");
    }
    // Its own, before the end of its own statement.
    let messages = listener.query("SELECT pg_notify('news', 'own')").await;
    assert!(raw::tags(&messages).contains('A'), "{messages:?}");
    ok(&mut listener, "UNLISTEN *").await;
    ok(&mut speaker, "NOTIFY news, 'third'").await;
    let messages = listener.query("SELECT 1").await;
    assert_eq!(raw::tags(&messages), "TDCZ");
    // Who comes next on that connection hears nothing.
    ok(&mut listener, "LISTEN news").await;
    drop(listener);
    let mut next = [stand.raw().await, stand.raw().await];
    ok(&mut speaker, "NOTIFY news, 'fourth'").await;
    for client in &mut next {
        ok(client, "BEGIN").await;
        assert_eq!(raw::tags(&client.query("SELECT 1").await), "TDCZ");
        ok(client, "COMMIT").await;
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_and_locks_stay_with_their_client() {
    let stand = stand(0, "size = 2\nmax_pinned = 2").await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    ok(&mut one, "CREATE TEMP TABLE mine AS SELECT 1 AS a").await;
    for _ in 0..5 {
        assert_eq!(one.value("SELECT count(*) FROM mine").await, "1");
        fails(&mut two, "SELECT count(*) FROM mine", "42P01").await;
        ok(&mut one, "INSERT INTO mine VALUES (2); DELETE FROM mine WHERE a = 2").await;
    }
    for gone in ["DISCARD TEMP", "DROP TABLE mine", "DISCARD ALL"] {
        ok(&mut one, "CREATE TEMP TABLE IF NOT EXISTS mine AS SELECT 1 AS a").await;
        ok(&mut one, gone).await;
        fails(&mut one, "SELECT count(*) FROM mine", "42P01").await;
    }
    ok(&mut one, "CREATE TEMP TABLE mine AS SELECT 1 AS a").await;
    drop(one);
    eventually("the temporary table is gone", || async {
        let sql = "SELECT 1 FROM pg_class WHERE relname = 'mine'";
        stand.cluster.primary().sql_in("app", sql).await.unwrap().is_empty()
    })
    .await;

    // A session-level lock is held between statements, and let go of with its client.
    let mut one = stand.raw().await;
    ok(&mut one, "SELECT pg_advisory_lock(7)").await;
    for _ in 0..5 {
        assert_eq!(two.value("SELECT pg_try_advisory_lock(7)").await, "f");
        one.value("SELECT 1").await;
    }
    assert_eq!(one.value("SELECT pg_advisory_unlock(7)").await, "t");
    assert_eq!(two.value("SELECT pg_try_advisory_lock(7)").await, "t");
    assert_eq!(one.value("SELECT pg_try_advisory_lock(7)").await, "f");
    two.send(&frame(b'X', b"")).await;
    let mut waiting = one;
    ok(&mut waiting, "SELECT pg_advisory_lock(7)").await;
    // Also when the client is gone without a word.
    drop(waiting);
    let mut three = stand.raw().await;
    ok(&mut three, "SELECT pg_advisory_lock(7)").await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_given_back_when_nothing_is_left_on_it() {
    let stand = stand(0, "size = 1\ncheckout_timeout = \"100ms\"").await;
    let mut other = stand.raw().await;
    let scripts: &[&[&str]] = &[
        &["CREATE TEMP TABLE a (n int)", "CREATE TEMP VIEW b AS TABLE a", "DROP VIEW b", "DROP TABLE a"],
        &["BEGIN", "CREATE TEMP TABLE a (n int) ON COMMIT DROP", "COMMIT"],
        &["BEGIN", "CREATE TEMP TABLE a (n int)", "ROLLBACK"],
        &["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT", "FETCH c", "CLOSE c"],
        &["LISTEN here", "LISTEN there", "UNLISTEN here", "UNLISTEN *"],
        &[
            "SELECT pg_advisory_lock(1), pg_advisory_lock(2)",
            "SELECT pg_advisory_unlock(1)",
            "SELECT pg_advisory_unlock_all()",
        ],
        &["PREPARE a AS SELECT 1", "PREPARE b AS SELECT 1", "DEALLOCATE a", "EXECUTE b", "DEALLOCATE b"],
    ];
    for script in scripts {
        let mut client = stand.raw().await;
        for (index, sql) in script.iter().enumerate() {
            if index > 0 {
                fails(&mut other, "SELECT 1", "53300").await;
            }
            ok(&mut client, sql).await;
        }
        assert_eq!(other.value("SELECT 1").await, "1", "{script:?}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_pooling_keeps_the_connection() {
    let stand = stand(1, "mode = \"session\"\nsize = 3").await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    let (first, second) = (one.value("SELECT pg_backend_pid()").await, two.value("SELECT pg_backend_pid()").await);
    assert_ne!(first, second);
    ok(&mut one, "SET app.x = '1'; CREATE TEMP TABLE mine (a int); PREPARE p AS SELECT 5").await;
    for _ in 0..5 {
        assert_eq!(one.value("SELECT pg_backend_pid()").await, first);
        assert_eq!(two.value("SELECT pg_backend_pid()").await, second);
        assert_eq!(one.value("SELECT current_setting('app.x')").await, "1");
        assert_eq!(one.value("EXECUTE p").await, "5");
    }
    drop(one);
    let mut three = stand.raw().await;
    let mut four = stand.raw().await;
    for client in [&mut three, &mut four] {
        assert!(["NULL", ""].contains(&&*client.value("SELECT current_setting('app.x', true)").await));
        fails(client, "SELECT * FROM mine", "42P01").await;
        fails(client, "EXECUTE p", "26000").await;
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_no_larger_than_its_size() {
    let stand = stand(0, "size = 2\ncheckout_timeout = \"60s\"").await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(stand.raw().await);
    }
    for client in &mut clients {
        client.send(&query("SELECT pg_sleep(0.05), pg_backend_pid()")).await;
    }
    let mut pids = Vec::new();
    for client in &mut clients {
        pids.extend(raw::rows(&client.until_ready(1).await).into_iter().map(|row| row[1].clone()));
    }
    assert_eq!(pids.len(), 12);
    pids.sort();
    pids.dedup();
    assert!(pids.len() <= 2, "{pids:?}");
    assert!(backends(&stand).await.len() <= 2);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_when_they_are_old_or_idle() {
    for limit in ["max_lifetime", "idle_timeout"] {
        let stand = stand(0, &format!("size = 1\n{limit} = \"1s\"")).await;
        let mut client = stand.raw().await;
        let first = client.value("SELECT pg_backend_pid()").await;
        eventually(limit, || async { !backends(&stand).await.contains(&first) }).await;
        let second = client.value("SELECT pg_backend_pid()").await;
        assert_ne!(first, second, "{limit}");
        stand.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_connection_is_not_handed_out() {
    let stand = shared().await;
    let mut client = stand.raw().await;
    for _ in 0..10 {
        let pid = client.value("SELECT pg_backend_pid()").await;
        stand.cluster.primary().sql(&format!("SELECT pg_terminate_backend({pid}, 60000)")).await.unwrap();
        // A write, which is never sent twice.
        ok(&mut client, "CREATE TABLE IF NOT EXISTS t (a int)").await;
        ok(&mut client, "INSERT INTO t VALUES (1)").await;
    }
    assert_eq!(client.value("SELECT count(*) FROM t").await, "10");
    // One that holds its connection is told why it has to go.
    ok(&mut client, "BEGIN").await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    stand.cluster.primary().sql(&format!("SELECT pg_terminate_backend({pid}, 60000)")).await.unwrap();
    let message = client.read().await;
    assert_eq!((message.tag, message.field(b'C').as_deref()), (b'E', Some("57P01")), "{message:?}");
    assert_eq!(client.next().await, None);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let stand = shared().await;
    let mut setup = stand.raw().await;
    ok(&mut setup, "CREATE TABLE t (a int)").await;
    let leavings = [
        query("BEGIN; INSERT INTO t VALUES (1); SET work_mem = '8MB'"),
        query("SELECT pg_sleep(0.2), n FROM generate_series(1, 3) AS n"),
        query("SELECT repeat('x', 1000), n FROM generate_series(1, 100000) AS n"),
        [query("COPY t FROM STDIN"), copy_data("1\n")].concat(),
        [raw::run("INSERT INTO t VALUES (1)", &[]), flush()].concat(),
        [raw::run("INSERT INTO t VALUES (1)", &[]), raw::run("SELECT 1/0", &[]), flush()].concat(),
        b"Q\0\0\x01\0SELECT".to_vec(),
    ];
    for leaving in leavings {
        let mut client = stand.raw().await;
        client.send(&leaving).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(client);
        let shown = leaving.escape_ascii().to_string();
        assert_eq!(setup.value("SELECT count(*) FROM t").await, "0", "{shown}");
        assert_eq!(setup.value("SHOW work_mem").await, "4MB", "{shown}");
        assert_eq!(setup.value("SELECT 1").await, "1", "{shown}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_share_one_connection_fairly() {
    let stand = stand(0, "size = 1\ncheckout_timeout = \"60s\"").await;
    let stop = Instant::now() + Duration::from_secs(3);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let mut client = stand.raw().await;
        tasks.push(tokio::spawn(async move {
            let mut rounds = 0;
            // Everyone gets on, however long that takes on a busy machine.
            while Instant::now() < stop || rounds < 5 {
                assert_eq!(client.value("SELECT 1").await, "1");
                rounds += 1;
            }
            rounds
        }));
    }
    let mut rounds: Vec<usize> = Vec::new();
    for task in tasks {
        rounds.push(tokio::time::timeout(DEADLINE, task).await.expect("nobody starves").unwrap());
    }
    let (least, most) = (rounds.iter().min().unwrap(), rounds.iter().max().unwrap());
    assert!(most / least < 20, "{rounds:?}");
    stand.stop().await;
}

/// A client that keeps its connection busy does not keep others out for longer than `pool.checkout_timeout` says.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_an_error_that_says_why() {
    let stand = stand(0, "size = 1\ncheckout_timeout = \"300ms\"").await;
    let mut one = stand.raw().await;
    let mut two = stand.raw().await;
    ok(&mut one, "BEGIN").await;
    let messages = two.query("SELECT 1").await;
    assert_eq!(raw::sqlstates(&messages), ["53300"], "{messages:?}");
    assert!(messages[0].field(b'H').is_some());
    let pipeline = [raw::run("SELECT 1", &[]), raw::run("SELECT 2", &[]), sync()].concat();
    let messages = two.exchange(&pipeline).await;
    assert_eq!(raw::tags(&messages), "EZ", "{messages:?}");
    ok(&mut one, "COMMIT").await;
    assert_eq!(two.value("SELECT 1").await, "1");
    stand.stop().await;
}
