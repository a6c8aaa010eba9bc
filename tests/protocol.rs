//! The protocol itself: scripts of frames are sent to a server and through the proxy, and what comes
//! back must be the same, byte for byte.

mod support;

use support::Stand;
use support::raw::{self, *};

const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

const SCHEMA: &str = "
    CREATE TABLE t (a int PRIMARY KEY, b text);
    INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 20) AS n;
    CREATE TABLE w (a int PRIMARY KEY);
    CREATE FUNCTION warn(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''%'', $1; RETURN 1; END';";

async fn stand(sections: &str) -> Stand {
    let stand = Stand::start(1, &format!("{CALM}{sections}")).await;
    stand.client().await.batch_execute(SCHEMA).await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    stand
}

/// A step: what is sent, and with which message the answer to it ends.
type Step = (Vec<u8>, u8, usize);

fn ready(parts: &[Vec<u8>]) -> Step {
    readies(1, parts)
}

fn readies(count: usize, parts: &[Vec<u8>]) -> Step {
    (parts.concat(), b'Z', count)
}

fn until(tag: u8, parts: &[Vec<u8>]) -> Step {
    (parts.concat(), tag, 1)
}

async fn play(client: &mut Raw, steps: &[Step]) -> Vec<Vec<Message>> {
    let mut answers = Vec::new();
    for (bytes, tag, count) in steps {
        client.send(bytes).await;
        answers.push(client.until(*tag, *count).await);
    }
    answers
}

/// Plays every script on a new connection to the primary, to the proxy, and to the proxy once more.
async fn compare(stand: &Stand, scripts: &[(&str, Vec<Step>)]) {
    let address = stand.cluster.primary().address();
    let mut wrong = Vec::new();
    for (name, script) in scripts {
        let restore = "TRUNCATE w";
        let mut direct = Raw::connect(&stand.login_at(&address)).await;
        let expected = play(&mut direct, script).await;
        direct.query("ROLLBACK").await;
        direct.query(restore).await;
        for round in 0..2 {
            let mut client = stand.raw().await;
            let found = play(&mut client, script).await;
            for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
                if raw::without_sources(expected) != raw::without_sources(found) {
                    wrong.push(format!(
                        "{name}, round {round}, step {step}:\n  direct {expected:?}\n  proxy  {found:?}"
                    ));
                }
            }
            client.query("ROLLBACK").await;
            client.query(restore).await;
            // The connection is still good for everything.
            assert_eq!(client.value("SELECT 1").await, "1", "{name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn insert(value: u32) -> Vec<u8> {
    raw::run("INSERT INTO w VALUES ($1)", &[&value.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_queries_are_answered_as_by_a_server() {
    let stand = stand("").await;
    let scripts = [
        ("one row", vec![ready(&[query("SELECT 1 AS one, NULL AS nothing, 'x' AS text")])]),
        ("empty", vec![ready(&[query("")]), ready(&[query(" ; ;")]), ready(&[query("-- nothing")])]),
        ("an error", vec![ready(&[query("SELECT 1/0")]), ready(&[query("SELECT nothing FROM nowhere")])]),
        ("no SQL", vec![ready(&[query("SELEC 1")]), ready(&[query("SELECT 'open")])]),
        (
            "many statements",
            vec![ready(&[query("SELECT 1; SELECT 2; INSERT INTO w VALUES (1); SELECT count(*) FROM w")])],
        ),
        (
            "an error among many",
            vec![
                ready(&[query("SELECT 1; INSERT INTO w VALUES (1); SELECT 1/0; SELECT 2")]),
                ready(&[query("SELECT count(*) FROM w")]),
            ],
        ),
        (
            "a transaction",
            vec![
                ready(&[query("BEGIN")]),
                ready(&[query("INSERT INTO w VALUES (1)")]),
                ready(&[query("SELECT 1/0")]),
                ready(&[query("SELECT 1")]),
                ready(&[query("COMMIT")]),
                ready(&[query("COMMIT")]),
            ],
        ),
        (
            "savepoints",
            vec![
                ready(&[query("BEGIN; INSERT INTO w VALUES (1); SAVEPOINT x")]),
                ready(&[query("SELECT 1/0")]),
                ready(&[query("ROLLBACK TO x")]),
                ready(&[query("SELECT count(*) FROM w")]),
                ready(&[query("COMMIT")]),
            ],
        ),
        (
            "notices",
            vec![
                ready(&[query("SELECT warn('beware')")]),
                ready(&[query("DROP TABLE IF EXISTS nowhere")]),
                ready(&[query("SELECT warn('a'), 1/0")]),
            ],
        ),
        (
            "settings",
            vec![
                ready(&[query("SET TimeZone = 'Asia/Tokyo'")]),
                ready(&[query("SET application_name = 'me'; SET DateStyle = 'German'")]),
                ready(&[query("SELECT '2020-01-02 03:04:05+00'::timestamptz")]),
                ready(&[query("SET client_encoding = 'LATIN1'")]),
                ready(&[query("SELECT chr(233)")]),
                ready(&[query("SET nothing = 1")]),
                ready(&[query("BEGIN; SET LOCAL TimeZone = 'UTC'")]),
                ready(&[query("ROLLBACK")]),
                ready(&[query("SHOW TimeZone")]),
                ready(&[query("RESET ALL")]),
                ready(&[query("SHOW TimeZone")]),
            ],
        ),
        (
            "many queries at once",
            vec![readies(
                6,
                &[
                    query("SELECT 1"),
                    query("INSERT INTO w VALUES (1)"),
                    query("SELECT count(*) FROM w"),
                    query("SELECT 1/0"),
                    query(""),
                    query("DELETE FROM w"),
                ],
            )],
        ),
        (
            "transaction at once",
            vec![readies(
                5,
                &[
                    query("BEGIN"),
                    query("INSERT INTO w VALUES (1)"),
                    query("SELECT count(*) FROM w"),
                    query("ROLLBACK"),
                    query("SELECT count(*) FROM w"),
                ],
            )],
        ),
    ];
    compare(&stand, &scripts).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_are_answered_as_by_a_server() {
    let stand = stand("").await;
    let named = [parse("s1", "SELECT a FROM t WHERE a < $1 ORDER BY a"), describe_statement("s1")].concat();
    let scripts = [
        (
            "one statement",
            vec![ready(&[
                parse("", "SELECT $1::int + 1"),
                bind("", "", &["4"]),
                describe_portal(""),
                execute("", 0),
                sync(),
            ])],
        ),
        (
            "binary",
            vec![ready(&[
                parse("", "SELECT $1::int + 1, 'x'::text"),
                bind_as("", "", &["4"], true),
                describe_portal(""),
                execute("", 0),
                sync(),
            ])],
        ),
        (
            "several Syncs",
            vec![readies(
                4,
                &[
                    raw::run("SELECT 1", &[]),
                    sync(),
                    insert(1),
                    sync(),
                    raw::run("SELECT count(*) FROM w", &[]),
                    sync(),
                    sync(),
                ],
            )],
        ),
        (
            "an error in the middle",
            vec![
                ready(&[
                    insert(1),
                    raw::run("SELECT 1/0", &[]),
                    insert(2),
                    parse("s", "SELECT 1"),
                    close_statement("s"),
                    sync(),
                ]),
                ready(&[query("SELECT count(*) FROM w")]),
                ready(&[bind("", "s", &[]), sync()]),
            ],
        ),
        (
            "errors and Syncs",
            vec![readies(
                3,
                &[
                    raw::run("SELECT 1/0", &[]),
                    raw::run("SELECT 1", &[]),
                    sync(),
                    raw::run("SELECT 2", &[]),
                    sync(),
                    raw::run("SELECT 3/0", &[]),
                    sync(),
                ],
            )],
        ),
        (
            "an error in each place",
            vec![
                ready(&[parse("", "SELEC"), bind("", "", &[]), execute("", 0), sync()]),
                ready(&[parse("", "SELECT $1::int"), bind("", "", &["x"]), execute("", 0), sync()]),
                ready(&[parse("", "SELECT $1::int"), bind("", "", &[]), execute("", 0), sync()]),
                ready(&[describe_statement("nothing"), sync()]),
                ready(&[describe_portal("nothing"), sync()]),
                ready(&[execute("nothing", 0), sync()]),
                ready(&[close_statement("nothing"), close_portal("nothing"), sync()]),
            ],
        ),
        (
            "Flush for a read",
            vec![
                until(b'T', &[parse("s1", "SELECT a FROM t WHERE a = $1"), describe_statement("s1"), flush()]),
                ready(&[run_prepared("s1", &["3"]), sync()]),
                ready(&[run_prepared("s1", &["4"]), sync()]),
            ],
        ),
        (
            "Flush for a write",
            vec![
                until(b'n', &[parse("s1", "INSERT INTO w VALUES ($1)"), describe_statement("s1"), flush()]),
                ready(&[run_prepared("s1", &["3"]), sync()]),
                ready(&[query("SELECT * FROM w")]),
            ],
        ),
        (
            "Flush, a read, then a write",
            vec![
                until(b'T', &[parse("r", "SELECT count(*) FROM w"), describe_statement("r"), flush()]),
                until(b'n', &[parse("s1", "INSERT INTO w VALUES ($1)"), describe_statement("s1"), flush()]),
                ready(&[run_prepared("s1", &["3"]), run_prepared("r", &[]), sync()]),
            ],
        ),
        (
            "Flush after each",
            vec![
                until(b'1', &[parse("", "SELECT a FROM t WHERE a = $1"), flush()]),
                until(b'2', &[bind("", "", &["1"]), flush()]),
                until(b'T', &[describe_portal(""), flush()]),
                until(b'C', &[execute("", 0), flush()]),
                ready(&[sync()]),
            ],
        ),
        (
            "an error before a Flush",
            vec![
                until(b'E', &[parse("", "SELECT nothing"), flush()]),
                ready(&[bind("", "", &[]), execute("", 0), flush(), sync()]),
                ready(&[query("SELECT 1")]),
            ],
        ),
        (
            "rows in portions",
            vec![
                until(b's', &[parse("", "SELECT a FROM t ORDER BY a"), bind("p", "", &[]), execute("p", 3), flush()]),
                until(b's', &[execute("p", 3), flush()]),
                until(b'C', &[execute("p", 0), flush()]),
                ready(&[sync()]),
                ready(&[execute("p", 1), sync()]),
            ],
        ),
        (
            "portals in a transaction",
            vec![
                ready(&[query("BEGIN")]),
                ready(&[
                    parse("q", "SELECT a FROM t ORDER BY a"),
                    bind("p1", "q", &[]),
                    bind("p2", "q", &[]),
                    execute("p1", 2),
                    sync(),
                ]),
                ready(&[execute("p2", 1), execute("p1", 2), sync()]),
                ready(&[close_portal("p1"), execute("p2", 2), sync()]),
                ready(&[bind("p2", "q", &[]), sync()]),
                ready(&[query("ROLLBACK")]),
                ready(&[execute("p2", 2), sync()]),
            ],
        ),
        (
            "names",
            vec![
                ready(&[named.clone(), sync()]),
                ready(&[parse("s1", "SELECT 2"), sync()]),
                ready(&[run_prepared("s1", &["4"]), sync()]),
                ready(&[close_statement("s1"), sync()]),
                ready(&[run_prepared("s1", &["4"]), sync()]),
                ready(&[parse("s1", "SELECT 2"), run_prepared("s1", &[]), sync()]),
                ready(&[close_statement("s1"), parse("s1", "SELECT 3"), run_prepared("s1", &[]), sync()]),
                ready(&[parse("s1", "SELECT 4"), sync()]),
                ready(&[run_prepared("s1", &[]), sync()]),
                ready(&[query("DEALLOCATE s1")]),
                ready(&[query("DEALLOCATE s1")]),
                ready(&[describe_statement("s1"), sync()]),
                ready(&[parse("s1", "SELECT 5"), sync()]),
                ready(&[query("EXECUTE s1")]),
                ready(&[query("DEALLOCATE ALL")]),
                ready(&[query("EXECUTE s1")]),
                ready(&[run_prepared("s1", &[]), sync()]),
            ],
        ),
        (
            "one name twice in a pipeline",
            vec![
                ready(&[parse("s", "SELECT 1"), parse("s", "SELECT 2"), run_prepared("s", &[]), sync()]),
                ready(&[run_prepared("s", &[]), sync()]),
            ],
        ),
        (
            "closed and made again in a pipeline",
            vec![
                ready(&[
                    parse("s", "SELECT 1"),
                    run_prepared("s", &[]),
                    close_statement("s"),
                    parse("s", "SELECT 2"),
                    run_prepared("s", &[]),
                    sync(),
                ]),
                ready(&[run_prepared("s", &[]), sync()]),
            ],
        ),
        (
            "two names for one text",
            vec![
                ready(&[
                    parse("x", "SELECT a FROM t WHERE a = $1"),
                    parse("y", "SELECT a FROM t WHERE a = $1"),
                    run_prepared("x", &["1"]),
                    run_prepared("y", &["2"]),
                    sync(),
                ]),
                ready(&[close_statement("x"), run_prepared("y", &["3"]), sync()]),
                ready(&[run_prepared("x", &["3"]), sync()]),
            ],
        ),
        (
            "the unnamed statement",
            vec![
                ready(&[parse("", "SELECT 1"), sync()]),
                ready(&[run_prepared("", &[]), sync()]),
                ready(&[run_prepared("", &[]), sync()]),
                ready(&[query("SELECT 2")]),
                ready(&[run_prepared("", &[]), sync()]),
                ready(&[parse("", "SELECT 3"), parse("", "SELECT 4"), run_prepared("", &[]), sync()]),
                ready(&[parse("", "SELEC"), sync()]),
                ready(&[run_prepared("", &[]), sync()]),
                ready(&[parse("", "SELECT 5"), close_statement(""), sync()]),
                ready(&[run_prepared("", &[]), sync()]),
            ],
        ),
        (
            "a Query behind a Sync",
            vec![
                readies(2, &[raw::run("SELECT 1", &[]), sync(), query("SELECT 2")]),
                readies(3, &[query("SELECT 1"), insert(5), sync(), query("SELECT count(*) FROM w")]),
            ],
        ),
        (
            "a Query within a pipeline",
            vec![
                readies(2, &[parse("", "SELECT 1"), query("SELECT 2"), sync()]),
                readies(2, &[insert(6), query("SELECT count(*) FROM w"), sync()]),
                readies(2, &[raw::run("SELECT 1/0", &[]), query("SELECT 2"), sync(), query("SELECT 3")]),
            ],
        ),
        ("empty", vec![ready(&[parse("", ""), bind("", "", &[]), describe_portal(""), execute("", 0), sync()])]),
        (
            "transactions",
            vec![
                readies(
                    3,
                    &[
                        raw::run("BEGIN", &[]),
                        insert(1),
                        sync(),
                        raw::run("SELECT count(*) FROM w", &[]),
                        sync(),
                        raw::run("ROLLBACK", &[]),
                        sync(),
                    ],
                ),
                ready(&[
                    raw::run("BEGIN", &[]),
                    insert(1),
                    raw::run("COMMIT", &[]),
                    raw::run("SELECT 1/0", &[]),
                    sync(),
                ]),
                ready(&[query("SELECT count(*) FROM w")]),
            ],
        ),
        (
            "SQL PREPARE",
            vec![
                ready(&[query("PREPARE p (int) AS SELECT a FROM t WHERE a = $1")]),
                ready(&[query("PREPARE p (int) AS SELECT a FROM t WHERE a = $1")]),
                ready(&[query("EXECUTE p (3)")]),
                ready(&[run_prepared("p", &["4"]), sync()]),
                ready(&[query("DEALLOCATE PREPARE p")]),
                ready(&[query("EXECUTE p (3)")]),
            ],
        ),
        ("notices", vec![ready(&[raw::run("SELECT warn('one')", &[]), raw::run("SELECT warn('two')", &[]), sync()])]),
        (
            "settings",
            vec![
                ready(&[raw::run("SET TimeZone = 'Asia/Tokyo'", &[]), raw::run("SHOW TimeZone", &[]), sync()]),
                ready(&[raw::run("SHOW TimeZone", &[]), sync()]),
            ],
        ),
    ];
    compare(&stand, &scripts).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_as_with_a_server() {
    let stand = stand("").await;
    let count = || ready(&[query("SELECT count(*) FROM w")]);
    let copy = || query("COPY w FROM STDIN");
    let copy_by_parts = || [parse("", "COPY w FROM STDIN"), bind("", "", &[]), execute("", 0)].concat();
    let scripts = [
        ("in", vec![until(b'G', &[copy()]), ready(&[copy_data("1\n2\n"), copy_data("3\n"), copy_done()]), count()]),
        ("in, at once", vec![ready(&[copy(), copy_data("1\n"), copy_data("2\n"), copy_done()]), count()]),
        (
            "failed by the client",
            vec![until(b'G', &[copy()]), ready(&[copy_data("1\n"), copy_fail("enough")]), count()],
        ),
        (
            "failed by the server",
            vec![
                until(b'G', &[copy()]),
                ready(&[copy_data("1\n"), copy_data("x\n"), copy_data("3\n"), copy_data("4\n"), copy_done()]),
                count(),
            ],
        ),
        (
            "failed by the server, more data later",
            vec![
                until(b'G', &[copy()]),
                ready(&[copy_data("x\n")]),
                ready(&[copy_data("3\n"), copy_data("4\n"), copy_done(), query("SELECT 1")]),
                count(),
            ],
        ),
        (
            "refused",
            vec![
                ready(&[query("COPY nowhere FROM STDIN")]),
                ready(&[copy_data("1\n"), copy_done(), query("SELECT 1")]),
            ],
        ),
        (
            "extended",
            vec![until(b'G', &[copy_by_parts(), flush()]), ready(&[copy_data("1\n2\n"), copy_done(), sync()]), count()],
        ),
        (
            "extended, Sync sent ahead",
            vec![until(b'G', &[copy_by_parts(), sync()]), ready(&[copy_data("1\n2\n"), copy_done(), sync()]), count()],
        ),
        (
            "extended, failed by the client",
            vec![
                until(b'G', &[copy_by_parts(), flush()]),
                ready(&[copy_data("1\n"), copy_fail("enough"), sync()]),
                count(),
            ],
        ),
        (
            "extended, failed by the server",
            vec![
                until(b'G', &[copy_by_parts(), flush()]),
                ready(&[copy_data("x\n"), copy_data("2\n"), copy_done(), sync()]),
                count(),
            ],
        ),
        (
            "in a transaction",
            vec![
                ready(&[query("BEGIN")]),
                until(b'G', &[copy()]),
                ready(&[copy_data("1\n1\n"), copy_done()]),
                ready(&[query("ROLLBACK")]),
                count(),
            ],
        ),
        (
            "two in one message",
            vec![
                until(b'G', &[query("COPY w FROM STDIN; SELECT 5; COPY w FROM STDIN; SELECT count(*) FROM w")]),
                until(b'G', &[copy_data("1\n"), copy_done()]),
                ready(&[copy_data("2\n"), copy_done()]),
            ],
        ),
        (
            "out",
            vec![
                ready(&[query("COPY t TO STDOUT")]),
                ready(&[query("COPY (SELECT a, 1/(a - 5) FROM t ORDER BY a) TO STDOUT")]),
                ready(&[raw::run("COPY t TO STDOUT (FORMAT binary)", &[]), sync()]),
                ready(&[query("COPY (SELECT 1) TO STDOUT; SELECT 2; COPY (SELECT 3) TO STDOUT")]),
            ],
        ),
    ];
    compare(&stand, &scripts).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_path_calls() {
    let stand = stand("").await;
    let address = stand.cluster.primary().address();
    let mut direct = Raw::connect(&stand.login_at(&address)).await;
    let oid: u32 = direct.value("SELECT 'int4pl(int, int)'::regprocedure::oid").await.parse().unwrap();
    let (two, three) = (2_i32.to_be_bytes(), 3_i32.to_be_bytes());
    let scripts = [
        ("a sum", vec![ready(&[function_call(oid, &[&two, &three])])]),
        ("an unknown function", vec![ready(&[function_call(1, &[])]), ready(&[query("SELECT 1")])]),
        (
            "among queries",
            vec![readies(3, &[query("SELECT 1"), function_call(oid, &[&two, &three]), query("SELECT 2")])],
        ),
        (
            "in a transaction",
            vec![
                ready(&[query("BEGIN")]),
                ready(&[function_call(oid, &[&two, &three])]),
                ready(&[function_call(1, &[])]),
                ready(&[query("ROLLBACK")]),
            ],
        ),
    ];
    compare(&stand, &scripts).await;

    // As libpq's large-object functions do it.
    let mut client = stand.raw().await;
    let mut oids = Vec::new();
    for name in ["lo_creat", "lo_open", "lowrite", "lo_close", "loread"] {
        let sql = format!("SELECT oid FROM pg_proc WHERE proname = '{name}'");
        oids.push(client.value(&sql).await.parse::<u32>().unwrap());
    }
    let result = |messages: &[Message]| i32::from_be_bytes(messages[0].body[4..8].try_into().unwrap());
    let flags = 0x6_0000_i32.to_be_bytes();
    client.query("BEGIN").await;
    let object = result(&client.exchange(&function_call(oids[0], &[&flags])).await).to_be_bytes();
    let descriptor = result(&client.exchange(&function_call(oids[1], &[&object, &flags])).await).to_be_bytes();
    assert_eq!(result(&client.exchange(&function_call(oids[2], &[&descriptor, b"hello"])).await), 5);
    assert_eq!(result(&client.exchange(&function_call(oids[3], &[&descriptor])).await), 0);
    client.query("COMMIT").await;
    client.query("BEGIN").await;
    let descriptor = result(&client.exchange(&function_call(oids[1], &[&object, &flags])).await).to_be_bytes();
    let messages = client.exchange(&function_call(oids[4], &[&descriptor, &100_i32.to_be_bytes()])).await;
    assert_eq!(&messages[0].body[4..], b"hello");
    client.query("COMMIT").await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn greetings_and_cancel_keys() {
    let stand = stand("").await;
    let address = stand.cluster.primary().address();
    // What the server reports is what the client is told; the cancel key is the proxy's own.
    for settings in [&[][..], &[("application_name", "me"), ("TimeZone", "Asia/Tokyo"), ("client_encoding", "LATIN1")]]
    {
        let at = |address| raw::Login { settings, ..stand.login_at(address) };
        let mut greetings = Vec::new();
        for address in [&address, &stand.proxy.address, &stand.proxy.address] {
            let client = Raw::connect(&at(address)).await;
            let mut greeting: Vec<_> = client.greeting.into_iter().filter(|message| message.tag == b'S').collect();
            greeting.sort_by(|left, right| left.body.cmp(&right.body));
            greetings.push(greeting);
        }
        assert_eq!(greetings[0], greetings[1]);
        assert_eq!(greetings[0], greetings[2]);
    }
    for (minor, length, negotiated) in [(0, 8, None), (2, 36, None), (9, 36, Some(2_i32))] {
        let login = raw::Login { minor, ..stand.login() };
        let mut client = Raw::connect(&login).await;
        let key = client.greeting.iter().find(|message| message.tag == b'K').expect("a cancel key").body.clone();
        assert_eq!(key.len(), length, "3.{minor}");
        let version = client.greeting.iter().find(|message| message.tag == b'v');
        assert_eq!(
            version.map(|message| i32::from_be_bytes(message.body[..4].try_into().unwrap()) & 0xffff),
            negotiated
        );
        client.send(&query("SELECT pg_sleep(1000)")).await;
        // Until it is seen to run, a cancel would come too early.
        let running = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)' AND state = 'active'";
        let start = std::time::Instant::now();
        'running: loop {
            for server in stand.cluster.servers() {
                if !server.sql(running).await.unwrap().is_empty() {
                    break 'running;
                }
            }
            assert!(start.elapsed() < support::DEADLINE);
        }
        let mut wrong = key.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for key in [&wrong, &key] {
            let mut other = Raw::open(&stand.proxy.address).await;
            let code = 80_877_102_u32.to_be_bytes();
            let size = u32::try_from(8 + key.len()).unwrap().to_be_bytes();
            other.send(&[&size[..], &code, key].concat()).await;
            assert_eq!(other.next().await, None);
        }
        let messages = client.until_ready(1).await;
        assert_eq!(raw::sqlstates(&messages), ["57014"], "{messages:?}");
        assert_eq!(client.value("SELECT 5").await, "5");
    }
    stand.stop().await;
}

/// Results that are larger than every buffer, read at once and slowly, and parameters likewise.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages() {
    let stand = stand("").await;
    let long = "x".repeat(3 << 20);
    let scripts = [
        ("a large row", vec![ready(&[query("SELECT repeat('y', 5000000)")])]),
        ("many rows", vec![ready(&[query("SELECT n, repeat('z', 100) FROM generate_series(1, 20000) AS n")])]),
        (
            "a large parameter",
            vec![ready(&[parse("", "SELECT length($1)"), bind("", "", &[&long]), execute("", 0), sync()])],
        ),
        (
            "a large parameter of a named statement",
            vec![
                ready(&[parse("n", "SELECT length($1)"), sync()]),
                ready(&[bind("", "n", &[&long]), execute("", 0), sync()]),
                ready(&[bind("", "n", &["abc"]), execute("", 0), sync()]),
            ],
        ),
        ("a large text", vec![ready(&[query(&format!("SELECT length('{long}')"))]), ready(&[query("SELECT 1")])]),
        (
            "a large Parse",
            vec![ready(&[raw::run(&format!("SELECT length('{long}')"), &[]), sync()]), ready(&[query("SELECT 1")])],
        ),
        ("a large error", vec![ready(&[query(&format!("SELECT '{}'::int", "e".repeat(100_000)))])]),
        (
            "a long pipeline",
            vec![
                readies(1, &[(0..3000).map(insert).collect::<Vec<_>>().concat(), sync()]),
                ready(&[query("SELECT count(*) FROM w")]),
            ],
        ),
        (
            "many Syncs",
            vec![readies(1000, &[(0..1000).map(|n| [insert(n), sync()].concat()).collect::<Vec<_>>().concat()])],
        ),
        (
            "COPY in of much",
            vec![
                until(b'G', &[query("COPY w FROM STDIN")]),
                ready(&[
                    (0..200_000)
                        .map(|n| format!("{n}\n"))
                        .collect::<Vec<_>>()
                        .chunks(1000)
                        .map(|lines| copy_data(&lines.concat()))
                        .collect::<Vec<_>>()
                        .concat(),
                    copy_done(),
                ]),
                ready(&[query("SELECT count(*), sum(a) FROM w")]),
            ],
        ),
    ];
    compare(&stand, &scripts).await;
    stand.stop().await;
}
