//! What runs on several shards by one statement: rows that come back from all of them, DDL that no shard can vouch for alone,
//! and what PostgreSQL runs in no transaction.

mod support;

use support::raw::{self, *};
use support::shards::{Shards, code};
use tokio_postgres::SimpleQueryMessage;

const TABLES: &str = "
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"entries\"
shard_key = [\"account\"]
[[tables]]
name = \"visits\"
shard_key = [\"site\", \"day\"]
[[tables]]
name = \"events\"
shard_key = \"id\"
[[tables]]
name = \"currencies\"
reference = true
[[tables]]
name = \"logs\"
shard = \"b\"
[[tables]]
name = \"notes\"
shard = \"c\"
";

const SCHEMA: [&str; 3] = [
    "CREATE TABLE accounts (id bigint PRIMARY KEY, balance numeric NOT NULL DEFAULT 0, note text)",
    "CREATE TABLE entries (account bigint NOT NULL, number int NOT NULL, amount numeric, PRIMARY KEY (account, number))",
    "CREATE TABLE currencies (code text PRIMARY KEY, title text)",
];

async fn stand() -> Shards {
    let stand = Shards::start(3, TABLES).await;
    let client = stand.client().await;
    for statement in SCHEMA {
        client.batch_execute(statement).await.expect(statement);
    }
    // What the tables are like is read behind the DDL.
    let start = std::time::Instant::now();
    while let Err(error) =
        client.batch_execute("DELETE FROM entries WHERE account = -1; DELETE FROM accounts WHERE id = -1").await
    {
        assert!(start.elapsed() < support::DEADLINE, "{error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stand
}

/// What the last message says of the transaction.
fn status(messages: &[Message]) -> String {
    messages.last().map(|message| String::from_utf8_lossy(&message.body).into_owned()).unwrap_or_default()
}

async fn is_settled(stand: &Shards) {
    assert_eq!(stand.on_each("SELECT count(*) FROM pg_prepared_xacts").await, ["0", "0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_shards_come_back() {
    let stand = stand().await;
    let mut client = stand.client().await;
    // In the order in which they were given, which is not that of the shards.
    let values: Vec<String> = (0..40).rev().map(|id| format!("({id}, {id}, 'n{id}')")).collect();
    let insert = format!("INSERT INTO accounts VALUES {} RETURNING id, note", values.join(", "));
    let messages = client.simple_query(&insert).await.unwrap();
    let ids: Vec<String> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(ids, (0..40).rev().map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(matches!(messages.last(), Some(SimpleQueryMessage::CommandComplete(40))), "{messages:?}");
    // By the extended protocol the driver asks for binary.
    let rows = client
        .query(
            "INSERT INTO accounts (id, note) VALUES ($1, 'a'), ($2, 'b'), ($3, 'c'), ($4, 'd') RETURNING id, note",
            &[&103i64, &102i64, &101i64, &100i64],
        )
        .await
        .unwrap();
    let told: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(told, [(103, "a".into()), (102, "b".into()), (101, "c".into()), (100, "d".into())]);
    // Of all shards.
    let mut changed: Vec<i64> = client
        .query("UPDATE accounts SET balance = balance + $1::int WHERE id < 100 RETURNING id", &[&1i32])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    changed.sort_unstable();
    assert_eq!(changed, (0..40).collect::<Vec<i64>>());
    // In a transaction block, which sees what it has written, and takes it back.
    let transaction = client.transaction().await.unwrap();
    assert_eq!(transaction.query("DELETE FROM accounts RETURNING *", &[]).await.unwrap().len(), 44);
    assert_eq!(transaction.query("DELETE FROM accounts RETURNING *", &[]).await.unwrap().len(), 0);
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    assert_eq!(transaction.query("DELETE FROM accounts WHERE id >= 100 RETURNING note", &[]).await.unwrap().len(), 4);
    transaction.commit().await.unwrap();
    let counts = stand.on_each("SELECT count(*) FROM accounts").await;
    assert_eq!(counts.iter().map(|count| count.parse::<i64>().unwrap()).sum::<i64>(), 40);
    // Rows that are not put in do not come back; then they come shard by shard.
    let some = "INSERT INTO accounts VALUES (3), (200), (5), (201), (202) ON CONFLICT (id) DO NOTHING RETURNING id";
    let mut put_in: Vec<i64> = client.query(some, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    put_in.sort_unstable();
    assert_eq!(put_in, [200, 201, 202]);
    // One shard's error is everybody's.
    let error = client.query("UPDATE accounts SET balance = 1 / (id - 7) RETURNING id", &[]).await.unwrap_err();
    assert_eq!(code(&error), "22012");
    let zero = stand.on_each("SELECT count(*) FROM accounts WHERE balance = 0 AND id < 100").await;
    assert_eq!(zero.iter().map(|count| count.parse::<i64>().unwrap()).sum::<i64>(), 0, "nothing was changed");
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_behind_one_description() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    client.query("INSERT INTO accounts VALUES (1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)").await;
    let messages = client.query("UPDATE accounts SET balance = 0 RETURNING id").await;
    assert_eq!(raw::tags(&messages), "TDDDDDDCZ", "{messages:?}");
    // Prepared, described and run at once; and what was prepared before, described or not, as text or binary.
    let sql = "UPDATE accounts SET balance = balance + 1 WHERE balance >= $1 RETURNING id";
    let all =
        [parse("s", sql), describe_statement("s"), bind("", "s", &["0"]), describe_portal(""), execute("", 0), sync()];
    let messages = client.exchange(&all.concat()).await;
    assert_eq!(raw::tags(&messages), "1tT2TDDDDDDCZ", "{messages:?}");
    for binary in [false, true] {
        let run = [bind_as("p", "s", &["0"], binary), execute("p", 0), close_portal("p"), sync()];
        let messages = client.exchange(&run.concat()).await;
        assert_eq!(raw::tags(&messages), "2DDDDDDC3Z", "{messages:?}");
        let row = messages.iter().find(|message| message.tag == b'D').unwrap();
        assert_eq!(row.body.len(), if binary { 14 } else { 7 }, "{row:?}");
    }
    let messages = client.exchange(&[bind("", "s", &["1000"]), execute("", 0), sync()].concat()).await;
    assert_eq!(raw::tags(&messages), "2CZ", "{messages:?}");
    // In a block that fails, and behind it.
    assert_eq!(status(&client.query("BEGIN").await), "T");
    let fails = "UPDATE accounts SET balance = 1 / (id - 4) RETURNING id";
    let messages = client.query(fails).await;
    assert_eq!((raw::sqlstates(&messages), status(&messages)), (vec!["22012".into()], "E".into()), "{messages:?}");
    assert_eq!(raw::sqlstates(&client.query("SELECT 1").await), ["25P02"]);
    client.query("ROLLBACK").await;
    // What cannot be given.
    let part = [bind("", "s", &["0"]), execute("", 2), sync()].concat();
    assert_eq!(raw::sqlstates(&client.exchange(&part).await), ["0A000"]);
    let flushed = [bind("", "s", &["0"]), execute("", 0), flush()].concat();
    client.send(&flushed).await;
    let messages = client.exchange(&sync()).await;
    assert_eq!((raw::sqlstates(&messages), status(&messages)), (vec!["0A000".into()], "I".into()), "{messages:?}");
    for sql in ["EXPLAIN ANALYZE DELETE FROM accounts", "COPY (DELETE FROM accounts RETURNING id) TO STDOUT"] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), ["0A000"], "{sql}: {messages:?}");
    }
    // Types that are not the same on all shards.
    for shard in 0..3 {
        let direct = stand.direct(shard).await;
        if shard == 1 {
            direct.batch_execute("CREATE TYPE other AS ENUM ('x')").await.unwrap();
        }
        direct
            .batch_execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE accounts ADD mood mood DEFAULT 'ok'")
            .await
            .unwrap();
    }
    let messages = client.query("UPDATE accounts SET balance = 7 RETURNING id, mood").await;
    assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
    let messages = client.query("UPDATE accounts SET balance = 8 RETURNING id, mood::text").await;
    assert_eq!(raw::tags(&messages), "TDDDDDDCZ", "{messages:?}");
    assert_eq!(stand.on_each("SELECT count(*) FROM accounts WHERE balance = 7").await, ["0", "0", "0"]);
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_rows_are_kept() {
    let stand = stand().await;
    let client = stand.client().await;
    let values: Vec<String> = (0..60).map(|id| format!("({id}, repeat('x', 200000))")).collect();
    client.batch_execute(&format!("INSERT INTO accounts (id, note) VALUES {}", values.join(", "))).await.unwrap();
    // 12 MB; then 24.
    let rows = client.query("UPDATE accounts SET balance = 1 RETURNING id, note", &[]).await.unwrap();
    assert_eq!(rows.len(), 60);
    assert!(rows.iter().all(|row| row.get::<_, &str>(1).len() == 200_000));
    let twice = "UPDATE accounts SET balance = 2 RETURNING id, note, note";
    for begin in [false, true] {
        if begin {
            client.batch_execute("BEGIN").await.unwrap();
        }
        let error = client.query(twice, &[]).await.unwrap_err();
        assert_eq!(code(&error), "54000", "{error:?}");
        if begin {
            assert_eq!(code(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    // One row longer than any other message may be.
    client.batch_execute("UPDATE accounts SET note = repeat('y', 3000000) WHERE id = 11").await.unwrap();
    let rows = client.query("DELETE FROM accounts WHERE note LIKE 'y%' RETURNING note", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, &str>(0).len()).collect::<Vec<_>>(), [3_000_000]);
    // Of a reference table as well.
    let values: Vec<String> = (0..300).map(|code| format!("({code}, repeat('z', 9000))")).collect();
    let insert = format!("INSERT INTO currencies VALUES {} RETURNING *", values.join(", "));
    let rows = client.query(&insert, &[]).await.unwrap();
    assert_eq!(rows.len(), 300);
    assert_eq!(stand.on_each("SELECT count(*) FROM currencies").await, ["300"; 3]);
    assert_eq!(stand.on_each("SELECT count(*) FROM accounts WHERE balance = 2").await, ["0", "0", "0"]);
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_a_long_turn_are_held_whole() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    // Thousands of answers of one shard, and then one of another: more than a link reads ahead.
    let mut pipeline = vec![parse("", "INSERT INTO entries VALUES ($1, $2, 1)")];
    for number in 0..4000 {
        pipeline.extend([bind("", "", &["1", &number.to_string()]), execute("", 0)]);
    }
    for account in 2..8 {
        pipeline.extend([bind("", "", &[&account.to_string(), "1"]), execute("", 0)]);
    }
    pipeline.push(sync());
    let messages = client.exchange(&pipeline.concat()).await;
    assert_eq!(raw::sqlstates(&messages), Vec::<String>::new());
    assert_eq!(messages.iter().filter(|message| message.tag == b'C').count(), 4006);
    let counts = stand.on_each("SELECT count(*) FROM entries").await;
    assert_eq!(counts.iter().map(|count| count.parse::<i64>().unwrap()).sum::<i64>(), 4006);
    stand.stop().await;
}

/// Each must be refused for what no shard could look for on another one; nothing of it stays.
async fn assert_unfit(client: &mut Raw, sql: &str, words: &str) {
    let messages = client.query(sql).await;
    assert_eq!(raw::sqlstates(&messages), ["0A000"], "{sql}: {messages:?}");
    let error = messages.iter().find(|message| message.tag == b'E').unwrap();
    let told = error.field(b'M').unwrap();
    assert!(told.contains("cannot hold over all shards") && told.contains(words), "{sql}: {told}");
    assert!(error.field(b'D').is_some() && error.field(b'H').is_some(), "{sql}: {messages:?}");
}

async fn assert_fit(client: &mut Raw, sql: &str) {
    let messages = client.query(sql).await;
    assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_unique_on_each_shard_only_is_refused() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    for (sql, words) in [
        ("CREATE TABLE events (id bigint, n int PRIMARY KEY)", "primary key"),
        ("CREATE TABLE events (id bigint, n int UNIQUE)", "unique constraint"),
        ("CREATE TABLE events (id bigint, n int, UNIQUE (n) INCLUDE (id))", "unique constraint"),
        ("CREATE TABLE visits (site text, day date, n int, PRIMARY KEY (site, n))", "primary key"),
        ("CREATE TABLE events (id bigint, p point, EXCLUDE USING gist (p WITH ~=))", "exclusion constraint"),
        ("CREATE TABLE events (LIKE accounts INCLUDING ALL, n int UNIQUE)", "unique constraint"),
        ("ALTER TABLE accounts ADD UNIQUE (note)", "unique constraint"),
        ("ALTER TABLE accounts ADD COLUMN code text UNIQUE", "unique constraint"),
        ("CREATE UNIQUE INDEX ON accounts (note)", "unique index"),
        ("CREATE UNIQUE INDEX ON accounts ((id + 1), note)", "unique index"),
        ("CREATE UNIQUE INDEX ON accounts (note) WHERE id = 5", "unique index"),
        (
            "CREATE TABLE other (LIKE accounts); CREATE UNIQUE INDEX ON other (note); DROP TABLE accounts; ALTER TABLE other RENAME TO accounts",
            "unique index",
        ),
        (
            "CREATE TABLE events (id bigint, n int) PARTITION BY LIST (n); CREATE TABLE one PARTITION OF events (UNIQUE (n)) FOR VALUES IN (1)",
            "unique constraint",
        ),
        (
            "CREATE TABLE events (id bigint, n int) PARTITION BY LIST (n); CREATE TABLE one (n int UNIQUE, id bigint); ALTER TABLE events ATTACH PARTITION one FOR VALUES IN (1)",
            "unique constraint",
        ),
    ] {
        assert_unfit(&mut client, sql, words).await;
    }
    // In a block, which has failed then; and by the extended protocol.
    client.query("BEGIN").await;
    assert_fit(&mut client, "CREATE TABLE events (id bigint, n int)").await;
    assert_unfit(&mut client, "CREATE UNIQUE INDEX ON events (n)", "unique index").await;
    assert_eq!(raw::sqlstates(&client.query("SELECT 1").await), ["25P02"]);
    client.query("ROLLBACK").await;
    let messages = client.exchange(&[run("CREATE UNIQUE INDEX i ON accounts (note)", &[]), sync()].concat()).await;
    assert_eq!((raw::sqlstates(&messages), status(&messages)), (vec!["0A000".into()], "I".into()), "{messages:?}");
    let indexes = "SELECT count(*) FROM pg_index WHERE indisunique AND indrelid IN (SELECT oid FROM pg_class WHERE relname IN ('accounts', 'events', 'visits', 'other'))";
    assert_eq!(stand.on_each(indexes).await, ["1", "1", "1"]);
    for sql in [
        "CREATE TABLE events (id bigint, n int, PRIMARY KEY (n, id), UNIQUE (id))",
        "CREATE INDEX ON events (n)",
        "CREATE TABLE visits (site text, day date, n int, PRIMARY KEY (day, n, site), EXCLUDE USING btree (site WITH =, day WITH =))",
        "CREATE UNIQUE INDEX ON currencies (title)",
        "CREATE TABLE logs (at timestamptz PRIMARY KEY, line text UNIQUE)",
        "CREATE TABLE elsewhere (n int UNIQUE)",
        "CREATE TEMP TABLE events (n int UNIQUE)",
    ] {
        assert_fit(&mut client, sql).await;
    }
    // What was there before is not in the way of anything else.
    let mut client = stand.raw().await;
    for shard in 0..3 {
        stand.direct(shard).await.batch_execute("CREATE UNIQUE INDEX old ON accounts (note)").await.unwrap();
    }
    for sql in [
        "ALTER TABLE accounts ALTER note TYPE varchar(100)",
        "ALTER INDEX old RENAME TO older",
        "ALTER TABLE accounts ADD COLUMN since date",
        "ALTER TABLE visits RENAME COLUMN site TO place",
    ] {
        assert_fit(&mut client, sql).await;
    }
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_refers_to_what_is_on_the_same_shard() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    for sql in [
        "CREATE TABLE logs (at timestamptz, id bigint PRIMARY KEY, code text REFERENCES currencies)",
        "CREATE TABLE notes (n bigint PRIMARY KEY)",
        "CREATE TABLE visits (site text, day date, PRIMARY KEY (site, day))",
        "ALTER TABLE entries ADD COLUMN code text REFERENCES currencies",
        "ALTER TABLE entries ADD COLUMN log bigint, ADD COLUMN site text, ADD COLUMN day date, ADD COLUMN owner bigint",
        "ALTER TABLE currencies ADD COLUMN best bigint, ADD COLUMN parent text REFERENCES currencies",
    ] {
        assert_fit(&mut client, sql).await;
    }
    for sql in [
        "ALTER TABLE entries ADD FOREIGN KEY (owner) REFERENCES accounts",
        "ALTER TABLE entries ADD FOREIGN KEY (owner) REFERENCES accounts NOT VALID",
        "ALTER TABLE entries ADD FOREIGN KEY (site, day) REFERENCES visits",
        "ALTER TABLE entries ADD FOREIGN KEY (log) REFERENCES logs",
        "ALTER TABLE currencies ADD FOREIGN KEY (best) REFERENCES accounts",
        "ALTER TABLE currencies ADD FOREIGN KEY (best) REFERENCES logs",
        "ALTER TABLE logs ADD FOREIGN KEY (id) REFERENCES accounts",
        "ALTER TABLE logs ADD FOREIGN KEY (id) REFERENCES notes",
        "CREATE TABLE events (id bigint, account bigint REFERENCES accounts)",
        "CREATE TABLE events (id bigint, parent bigint, account bigint, n int, PRIMARY KEY (id, n), \
         FOREIGN KEY (parent, n) REFERENCES events (id, n))",
    ] {
        assert_unfit(&mut client, sql, "foreign key").await;
    }
    for (sql, action) in [
        ("ALTER TABLE entries ADD FOREIGN KEY (account) REFERENCES accounts ON DELETE SET NULL", "ON DELETE SET NULL"),
        (
            "ALTER TABLE entries ADD FOREIGN KEY (account) REFERENCES accounts ON UPDATE SET DEFAULT",
            "ON UPDATE SET DEFAULT",
        ),
        ("ALTER TABLE visits ADD FOREIGN KEY (site) REFERENCES currencies ON UPDATE CASCADE", "ON UPDATE CASCADE"),
    ] {
        assert_unfit(&mut client, sql, "foreign key").await;
        let told = client.query(sql).await.iter().find_map(|message| message.field(b'D')).expect("a detail");
        assert!(told.starts_with(&format!("{action} changes the shard key")), "{sql}: {told}");
    }
    for sql in [
        "ALTER TABLE entries ADD FOREIGN KEY (account) REFERENCES accounts ON DELETE CASCADE",
        "CREATE TABLE events (id int, n int, PRIMARY KEY (id, n), FOREIGN KEY (id) REFERENCES accounts)",
        "ALTER TABLE events ADD COLUMN parent int, ADD FOREIGN KEY (parent, id) REFERENCES events (n, id)",
        "ALTER TABLE logs ADD COLUMN parent bigint REFERENCES logs",
        "ALTER TABLE entries ADD FOREIGN KEY (account, number) REFERENCES events (id, n)",
    ] {
        assert_fit(&mut client, sql).await;
    }
    is_settled(&stand).await;
    stand.stop().await;
}

/// The notices' texts.
fn notices(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'N').map(|message| message.field(b'M').unwrap()).collect()
}

/// SQLSTATE, DETAIL and HINT of the only error.
fn error(messages: &[Message]) -> (String, String, String) {
    let errors: Vec<&Message> = messages.iter().filter(|message| message.tag == b'E').collect();
    assert_eq!(errors.len(), 1, "{messages:?}");
    let field = |code| errors[0].field(code).unwrap_or_default();
    (field(b'C'), field(b'D'), field(b'H'))
}

fn tag_of(messages: &[Message]) -> String {
    let done = messages.iter().find(|message| message.tag == b'C').unwrap_or_else(|| panic!("{messages:?}"));
    String::from_utf8_lossy(&done.body).trim_end_matches('\0').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_made_concurrently_and_gone_on_with_where_it_failed() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    let valid = |name: &str| {
        format!("SELECT string_agg(indisvalid::text, ',') FROM pg_index WHERE indexrelid = to_regclass('{name}')")
    };
    let messages = client.query("CREATE INDEX CONCURRENTLY first ON accounts (note)").await;
    assert_eq!(notices(&messages), ["shard \"a\" is done (1 of 3)", "shard \"b\" is done (2 of 3)"], "{messages:?}");
    assert_eq!((tag_of(&messages), status(&messages)), ("CREATE INDEX".into(), "I".into()));
    assert_eq!(stand.on_each(&valid("first")).await, ["true"; 3]);
    // It is there on all: PostgreSQL's own words. And where that is no matter.
    let (sqlstate, detail, _) = error(&client.query("CREATE INDEX CONCURRENTLY first ON accounts (note)").await);
    assert_eq!((&*sqlstate, &*detail), ("42P07", ""));
    assert_fit(&mut client, "CREATE INDEX CONCURRENTLY IF NOT EXISTS first ON accounts (note)").await;
    // By the extended protocol, prepared and run at once.
    let all = [
        parse("s", "CREATE INDEX CONCURRENTLY second ON accounts (balance)"),
        bind("", "s", &[]),
        describe_portal(""),
        execute("", 0),
        sync(),
    ];
    let messages = client.exchange(&all.concat()).await;
    assert_eq!(raw::tags(&messages), "NN12nCZ", "{messages:?}");
    assert_eq!(stand.on_each(&valid("second")).await, ["true"; 3]);
    // One shard fails, in the middle, and leaves an invalid index there.
    for id in 0..20 {
        assert_fit(&mut client, &format!("INSERT INTO accounts VALUES ({id}, 1)")).await;
    }
    stand.direct(1).await.batch_execute("UPDATE accounts SET balance = 0").await.unwrap();
    let third = "CREATE INDEX CONCURRENTLY third ON accounts ((1 / balance))";
    let (sqlstate, detail, hint) = error(&client.query(third).await);
    assert_eq!(sqlstate, "22012");
    assert_eq!(detail, "Shard \"a\": done. Shard \"b\": failed. Shard \"c\": not begun.");
    assert!(hint.contains("again"), "{hint}");
    assert_eq!(stand.on_each(&valid("third")).await, ["true", "false", ""]);
    stand.direct(1).await.batch_execute("UPDATE accounts SET balance = 2").await.unwrap();
    let messages = client.query(third).await;
    assert_eq!(
        notices(&messages),
        ["shard \"a\" was done before (1 of 3)", "shard \"b\" is done (2 of 3)"],
        "{messages:?}"
    );
    assert_eq!(stand.on_each(&valid("third")).await, ["true"; 3]);
    // Likewise the last one, by the extended protocol.
    stand.direct(2).await.batch_execute("UPDATE accounts SET balance = 3").await.unwrap();
    let fourth = "CREATE INDEX CONCURRENTLY fourth ON accounts ((1 / (balance - 3)))";
    let (sqlstate, detail, _) = error(&client.exchange(&[run(fourth, &[]), sync()].concat()).await);
    assert_eq!((&*sqlstate, &*detail), ("22012", "Shard \"a\": done. Shard \"b\": done. Shard \"c\": failed."));
    stand.direct(2).await.batch_execute("UPDATE accounts SET balance = 2").await.unwrap();
    assert_fit(&mut client, fourth).await;
    assert_eq!(stand.on_each(&valid("fourth")).await, ["true"; 3]);
    // Something else of that name is not touched.
    stand.direct(1).await.batch_execute("CREATE INDEX fifth ON entries (number)").await.unwrap();
    let fifth = "CREATE INDEX CONCURRENTLY fifth ON accounts (note)";
    let (sqlstate, detail, _) = error(&client.query(fifth).await);
    assert_eq!((&*sqlstate, &*detail), ("42P07", "Shard \"a\": done. Shard \"b\": failed. Shard \"c\": not begun."));
    stand.direct(1).await.batch_execute("DROP INDEX fifth").await.unwrap();
    assert_fit(&mut client, fifth).await;
    // Dropped, also where one shard has it no longer.
    stand.direct(0).await.batch_execute("DROP INDEX fifth").await.unwrap();
    let messages = client.query("DROP INDEX CONCURRENTLY fifth").await;
    assert_eq!(
        notices(&messages),
        ["shard \"a\" was done before (1 of 3)", "shard \"b\" is done (2 of 3)"],
        "{messages:?}"
    );
    assert_eq!(stand.on_each(&valid("fifth")).await, [""; 3]);
    assert_eq!(error(&client.query("DROP INDEX CONCURRENTLY fifth").await).0, "42704");
    assert_fit(&mut client, "DROP INDEX CONCURRENTLY IF EXISTS fifth").await;
    // What must not be: in a transaction, without a name, unique on each shard only.
    for sql in ["BEGIN", "CREATE INDEX CONCURRENTLY sixth ON accounts (note)"] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), if sql == "BEGIN" { vec![] } else { vec!["25001"] }, "{messages:?}");
    }
    assert_eq!(status(&client.query("ROLLBACK").await), "I");
    for (sql, sqlstate) in [
        ("SELECT 1; CREATE INDEX CONCURRENTLY sixth ON accounts (note)", "25001"),
        ("CREATE INDEX CONCURRENTLY ON accounts (note)", "0A000"),
        ("CREATE UNIQUE INDEX CONCURRENTLY sixth ON accounts (note)", "0A000"),
        ("CREATE UNIQUE INDEX CONCURRENTLY sixth ON accounts ((id + 1), note)", "0A000"),
        ("CREATE INDEX CONCURRENTLY sixth ON nowhere (note)", "42P01"),
    ] {
        assert_eq!(raw::sqlstates(&client.query(sql).await), [sqlstate], "{sql}");
    }
    assert_eq!(stand.on_each(&valid("sixth")).await, [""; 3]);
    assert_fit(&mut client, "CREATE UNIQUE INDEX CONCURRENTLY sixth ON accounts (note, id)").await;
    // In a session that is pinned to one server, and in one that wants no notices.
    assert_fit(&mut client, "LISTEN news").await;
    assert_fit(&mut client, "SET client_min_messages = 'warning'").await;
    let messages = client.query("CREATE INDEX CONCURRENTLY seventh ON entries (amount)").await;
    assert_eq!(raw::tags(&messages), "CZ", "{messages:?}");
    assert_eq!(stand.on_each(&valid("seventh")).await, ["true"; 3]);
    assert_eq!(client.rows("SELECT * FROM pg_listening_channels()").await, [["news"]]);
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_tended_on_every_shard() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    for id in 0..30 {
        assert_fit(&mut client, &format!("INSERT INTO accounts VALUES ({id}, 1)")).await;
    }
    let analyzed = "SELECT (last_analyze IS NOT NULL)::text FROM pg_stat_user_tables WHERE relname = 'accounts'";
    assert_eq!(stand.on_each(analyzed).await, ["false"; 3]);
    for (sql, tag) in [
        ("ANALYZE accounts", "ANALYZE"),
        ("VACUUM", "VACUUM"),
        ("VACUUM (ANALYZE) accounts", "VACUUM"),
        ("CLUSTER accounts USING accounts_pkey", "CLUSTER"),
        ("REINDEX TABLE accounts", "REINDEX"),
        ("REINDEX INDEX CONCURRENTLY accounts_pkey", "REINDEX"),
    ] {
        let messages = client.query(sql).await;
        assert_eq!((raw::sqlstates(&messages), tag_of(&messages)), (vec![], tag.into()), "{sql}: {messages:?}");
        assert!(notices(&messages).contains(&"shard \"b\" is done (2 of 3)".into()), "{sql}: {messages:?}");
    }
    let start = std::time::Instant::now();
    while stand.on_each(analyzed).await != ["true"; 3] {
        assert!(start.elapsed() < support::DEADLINE);
    }
    assert_eq!(
        stand.on_each("SELECT indisclustered FROM pg_index WHERE indexrelid = 'accounts_pkey'::regclass").await,
        ["true"; 3]
    );
    // What a server has to tell meanwhile comes from all of them.
    let told = notices(&client.query("VACUUM (VERBOSE) accounts").await);
    assert_eq!(
        told.iter().filter(|text| text.starts_with("vacuuming \"") && text.contains("accounts")).count(),
        3,
        "{told:?}"
    );
    // In a block, what PostgreSQL allows there, on all shards; and what it does not.
    for (sql, sqlstates) in [
        ("BEGIN", &[][..]),
        ("CREATE INDEX extra ON accounts (note)", &[]),
        ("ANALYZE accounts", &[]),
        ("REINDEX TABLE accounts", &[]),
        ("COMMIT", &[]),
        ("BEGIN", &[]),
        ("VACUUM accounts", &["25001"]),
        ("ROLLBACK", &[]),
    ] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), sqlstates, "{sql}: {messages:?}");
    }
    assert_eq!(stand.on_each("SELECT count(*) FROM pg_class WHERE relname = 'extra'").await, ["1"; 3]);
    // A statement that is wrong is told as one server does; where a shard is at fault, with how far all are.
    let (sqlstate, detail, _) = error(&client.query("VACUUM nowhere").await);
    assert_eq!((&*sqlstate, &*detail), ("42P01", ""));
    stand.direct(1).await.batch_execute("ALTER TABLE entries RENAME TO other").await.unwrap();
    let (sqlstate, detail, hint) = error(&client.query("ANALYZE entries").await);
    assert_eq!((&*sqlstate, &*detail), ("42P01", "Shard \"a\": done. Shard \"b\": failed. Shard \"c\": not begun."));
    assert!(hint.contains("again"), "{hint}");
    // Partitions.
    for sql in [
        "CREATE TABLE events (id bigint, n int) PARTITION BY LIST (n)",
        "CREATE TABLE one PARTITION OF events FOR VALUES IN (1)",
    ] {
        assert_fit(&mut client, sql).await;
    }
    stand.direct(2).await.batch_execute("ALTER TABLE events DETACH PARTITION one").await.unwrap();
    assert_fit(&mut client, "ALTER TABLE events DETACH PARTITION one CONCURRENTLY").await;
    assert_eq!(stand.on_each("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'one'::regclass").await, ["0"; 3]);
    let again = "ALTER TABLE events DETACH PARTITION one CONCURRENTLY";
    assert_eq!(raw::sqlstates(&client.query(again).await), ["42P01"]);
    is_settled(&stand).await;
    stand.stop().await;
}

/// Waits until a statement about an index waits for a lock on the second shard; its process there.
async fn who_waits(stand: &Shards) -> i32 {
    let waiting =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'";
    let direct = stand.direct(1).await;
    let start = std::time::Instant::now();
    loop {
        if let Some(row) = direct.query_opt(waiting, &[]).await.unwrap() {
            return row.get(0);
        }
        assert!(start.elapsed() < support::DEADLINE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_cancelled_or_lost_on_a_shard_is_told_as_such() {
    let stand = stand().await;
    let client = stand.client().await;
    for id in 0i64..20 {
        client.execute("INSERT INTO accounts VALUES ($1, 1)", &[&id]).await.unwrap();
    }
    let create = "CREATE INDEX CONCURRENTLY i ON accounts (note)";
    let valid = "SELECT string_agg(indisvalid::text, ',') FROM pg_index WHERE indexrelid = to_regclass('i')";
    // It waits for whoever has written there.
    let holder = stand.direct(1).await;
    holder.batch_execute("BEGIN; UPDATE accounts SET balance = 2").await.unwrap();
    let cancel = async {
        who_waits(&stand).await;
        client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (created, ()) = tokio::join!(client.batch_execute(create), cancel);
    let told = created.unwrap_err();
    assert_eq!(code(&told), "57014");
    let detail = told.as_db_error().and_then(|told| told.detail()).unwrap_or_default().to_owned();
    assert_eq!(detail, "Shard \"a\": done. Shard \"b\": failed. Shard \"c\": not begun.");
    assert_eq!(stand.on_each(valid).await, ["true", "false", ""]);
    // What was left goes first; that waits too, and the server process ends.
    let kill = async {
        let pid = who_waits(&stand).await;
        stand.direct(1).await.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    };
    let (created, ()) = tokio::join!(client.batch_execute(create), kill);
    let told = created.unwrap_err();
    assert_eq!(code(&told), "08006", "{told:?}");
    let detail = told.as_db_error().and_then(|told| told.detail()).unwrap_or_default().to_owned();
    assert_eq!(detail, "Shard \"a\": done before. Shard \"b\": not known. Shard \"c\": not begun.");
    // The session goes on; so does the index.
    assert_eq!(client.query("SELECT note FROM accounts WHERE id = 1", &[]).await.unwrap().len(), 1);
    holder.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute(create).await.unwrap();
    assert_eq!(stand.on_each(valid).await, ["true"; 3]);
    is_settled(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_sequence_makes_belongs_where_its_row_is() {
    let stand = stand().await;
    let client = stand.client().await;
    let tables =
        "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text); DROP TABLE accounts";
    client.batch_execute(tables).await.expect("made");
    let serial = "CREATE TABLE accounts (id serial PRIMARY KEY, balance numeric NOT NULL DEFAULT 0, note text)";
    client.batch_execute(serial).await.expect("made");
    // What was made just now is known to whoever comes next.
    client.execute("INSERT INTO events (what) VALUES ('first')", &[]).await.expect("put in");
    client.execute("DELETE FROM events WHERE id > 0", &[]).await.expect("deleted");

    // As object-relational mappers do it: each row is found again by the key that it was given.
    let insert = client.prepare("INSERT INTO events (what) VALUES ($1) RETURNING id").await.expect("prepared");
    let mut ids = Vec::new();
    for number in 0..180 {
        let what = format!("event {number}");
        let id: i64 = client.query_one(&insert, &[&what]).await.expect("put in").get(0);
        let found = client.query_one("SELECT what FROM events WHERE id = $1", &[&id]).await.expect("found");
        assert_eq!(found.get::<_, String>(0), what);
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 180);
    // Half of what is due at least: of so many rows a shard has fewer by chance once in some hundred thousand times.
    let counts = stand.on_each("SELECT count(*) FROM events").await;
    assert!(counts.iter().all(|count| count.parse::<i32>().unwrap() >= 30), "not evenly: {counts:?}");

    // In whatever form they come.
    for sql in [
        "INSERT INTO events VALUES (DEFAULT, 'default')",
        "INSERT INTO events DEFAULT VALUES",
        "INSERT INTO events (what) VALUES ('one'), ('two'), ('three')",
        "INSERT INTO events (id, what) OVERRIDING SYSTEM VALUE VALUES (1000001, 'own'), (DEFAULT, 'drawn'), (1000002, 'own'), \
         (1000003, 'own'), (1000004, 'own'), (DEFAULT, 'drawn')",
        "INSERT INTO events (what) SELECT 'row ' || n FROM generate_series(1, 20) AS n",
        "WITH made AS (INSERT INTO events (what) VALUES ('in a CTE') RETURNING id) SELECT id FROM made",
        "INSERT INTO accounts (note) VALUES ('a serial')",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let sink = client.copy_in("COPY events (what) FROM STDIN").await.expect("begun");
    let mut sink = std::pin::pin!(sink);
    let rows: String = (0..300).map(|number| format!("copied {number}\n")).collect();
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(rows)).await.expect("sent");
    assert_eq!(sink.finish().await.expect("copied"), 300);
    assert_eq!(
        client.query_one("SELECT count(*) FROM events", &[]).await.unwrap().get::<_, i64>(0),
        180 + 11 + 20 + 1 + 300
    );

    let shares = client
        .query("SELECT pgsluice.shard_of_key(pgsluice.shard_key(id)), count(*) FROM events GROUP BY 1 ORDER BY 1", &[])
        .await
        .expect("shares");
    let shares: Vec<&str> = shares.iter().map(|row| row.get(0)).collect();
    assert_eq!(shares, ["a", "b", "c"]);

    // What a transaction writes stays on one shard.
    client.batch_execute("BEGIN").await.unwrap();
    for _ in 0..12 {
        client.execute(&insert, &[&"together"]).await.expect("put in");
    }
    client.batch_execute("COMMIT").await.unwrap();
    let mut counts = stand.on_each("SELECT count(*) FROM events WHERE what = 'together'").await;
    counts.sort_unstable();
    assert_eq!(counts, ["0", "0", "12"]);

    // On a shard itself it is the same.
    for shard in 0..3 {
        stand.direct(shard).await.batch_execute("INSERT INTO events (what) VALUES ('direct')").await.expect("put in");
    }
    let astray = "SELECT count(*) FROM (SELECT id FROM events UNION ALL SELECT id FROM accounts) AS own \
                  WHERE pgsluice.shard_of_key(pgsluice.shard_key(id)) <> (SELECT name FROM pgsluice.this_shard)";
    assert_eq!(stand.on_each(astray).await, ["0", "0", "0"]);
    // Whoever may insert needs no more, as with an identity.
    let grant = "SELECT has_sequence_privilege('pg_monitor', 'events_id_seq', 'USAGE')";
    assert_eq!(stand.on_each(grant).await, ["true", "true", "true"]);

    // A key that is pinned elsewhere is not given.
    let pin = "INSERT INTO pgsluice.pinned_key (version, digest, shard) \
               SELECT 1, pgsluice.key_digest(pgsluice.shard_key(last_value + 256 * n)), 'b' \
               FROM events_id_seq, generate_series(1, 1000) AS n";
    stand.superuser(0).await.batch_execute(pin).await.expect("pinned");
    let last = "SELECT last_value FROM events_id_seq";
    let before: i64 = stand.on_each(last).await[0].parse().unwrap();
    stand.direct(0).await.batch_execute("INSERT INTO events (what) VALUES ('behind')").await.expect("put in");
    let after: i64 = stand.on_each(last).await[0].parse().unwrap();
    assert!(after > before + 256 * 1000, "{before} {after}");

    // Shards that an older release has prepared.
    stand.superuser(1).await.batch_execute("DROP FUNCTION pgsluice.draw_keys").await.expect("dropped");
    let error = client.batch_execute("ALTER TABLE events ADD COLUMN later text").await.unwrap_err();
    assert_eq!(code(&error), "55000", "{error:?}");
    assert!(
        error.as_db_error().and_then(|error| error.hint()).is_some_and(|hint| hint.contains("shards init")),
        "{error:?}"
    );
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'events'";
    assert_eq!(stand.on_each(columns).await, ["2", "2", "2"]);
    stand.stop().await;
}
